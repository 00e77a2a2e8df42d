"""Data sets of 2D crystals: prepared once (through TFDS), then read into padded arrays in a second.

Whatever the source, every crystal goes through `structures.layer`; what cannot be used is skipped,
counted by reason and reported. Lengths in angstrom.
"""

from pathlib import Path

from dd2d_jax.data import sources
from dd2d_jax.data.crystal_set import CrystalSet, concatenate, crystal_set
from dd2d_jax.util import cache

NEEDS_PATH = ("ase_db", "files", "dd2d_json")


def load(
    source: str = "prototypes", path: str | Path | None = None, data_dir: str | None = None
) -> CrystalSet:
    """A data set, prepared first where that has not been done for these very bytes.

    source: `prototypes` or `bulk` (made here, need no file), `ase_db` (an ASE database), `files` (a
    folder of CIF, POSCAR, XYZ or XSF files, or one of them), `dd2d_json` (the DD2D authors'
    format), `c2db` (the official c2db.db, put into data_dir/downloads/manual, or at `path`),
    `jarvis_2d` (downloaded, 8 MB, or at `path`). Several are joined by "+", as in
    `prototypes+ase_db`; `path` is then for those that need one. data_dir: by default
    $DD2D_DATA_DIR or ~/.cache/dd2d.

    Raises ValueError for an unknown source, a missing path or data without one usable crystal, and
    FileNotFoundError where there is nothing at `path`.
    """
    if "+" in source:
        parts = source.split("+")
        paths = [path if part in NEEDS_PATH else None for part in parts]
        return concatenate([load(*each, data_dir) for each in zip(parts, paths, strict=True)])
    if source not in sources.READERS:
        raise ValueError(
            f"source {source!r} is unknown; choose one of {', '.join(sources.READERS)}"
        )
    if path is None and source in NEEDS_PATH:
        raise ValueError(f"source {source!r} needs a path; give path=")
    if path is not None and source in sources.MADE_HERE:
        raise ValueError(f"source {source!r} takes no path; leave it out or choose ase_db or files")
    if path is not None:
        path = Path(path).expanduser().resolve()
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder (source {source!r})")
        if path.is_dir() and source != "files":
            raise ValueError(
                f"{path}: a folder, but source {source!r} needs a file; folders go with 'files'"
            )
    root = Path(data_dir).expanduser().resolve() if data_dir else cache.folder()
    from dd2d_jax.data import builder  # late: importing TFDS takes a while

    infos, layers, report = builder.read(source, path, root)
    return crystal_set(infos, layers, report)


def read_source(source: str | Path, data_dir: str | None = None) -> CrystalSet:
    """Crystals from a path, whatever kind of file, or from a named data source."""
    if str(source) in (*sources.MADE_HERE, "c2db", "jarvis_2d") and not Path(source).exists():
        return load(str(source), data_dir=data_dir)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    kind = {".db": "ase_db", ".json": "dd2d_json"}.get(path.suffix.lower(), "files")
    return load("files" if path.is_dir() else kind, path, data_dir)

"""Libraries of crystals with their embeddings: built once, searched many times."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from dd2d_jax import datasets
from dd2d_jax.checkpoint import write_json
from dd2d_jax.datasets import CrystalSet
from dd2d_jax.files import new_folder
from dd2d_jax.trained import Model, load

_FORMAT = 1
_FILES = ("embeddings.npy", "crystals.npz")
DEFAULT = Path(__file__).parent / "weights" / "library"


class LibraryError(ValueError):
    """A library that is missing, damaged or of another model; the message is one line."""


@dataclasses.dataclass(frozen=True, eq=False)
class Library:
    """n crystals and what a model makes of them.

    Attributes:
        crystals: the crystals, in canonical setting.
        embeddings: (n, D) float32 unit vectors.
        model: fingerprint of the model that made them.
    """

    crystals: CrystalSet
    embeddings: np.ndarray
    model: str

    def __len__(self) -> int:
        return len(self.crystals)

    @classmethod
    def build(
        cls,
        source: str | Path | CrystalSet,
        model: Model | None = None,
        data_dir: str | None = None,
    ) -> Library:
        """Embed every crystal of a source.

        Args:
            source: an ASE database, a folder or file of structures, a DD2D JSON file, the name of
                a data source ("prototypes", "c2db", "jarvis_2d"), or a CrystalSet.
            model: from `dd2d_jax.load`; None takes the weights in the package.
            data_dir: where prepared data sets are kept.

        Raises:
            ValueError: the source cannot be read or holds no usable crystal.
            FileNotFoundError: nothing at that path.
        """
        model = load() if model is None else model
        crystals = (
            source if isinstance(source, CrystalSet) else read_source(source, data_dir=data_dir)
        )
        return cls(crystals, model.embed_crystals(crystals.crystal), model.fingerprint)

    def save(self, directory: str | Path) -> None:
        """Write the library as a folder, beside and moved into place.

        Raises:
            FileExistsError: something is there already.
        """
        with new_folder(directory) as part:
            np.save(part / "embeddings.npy", self.embeddings)
            np.savez_compressed(part / "crystals.npz", **_packed(self.crystals))
            manifest = {
                "format": _FORMAT,
                "model": self.model,
                "crystals": len(self),
                "report": self.crystals.report,
                "sha256": {name: _digest(part / name) for name in _FILES},
            }
            write_json(part / "manifest.json", manifest)

    @classmethod
    def load(cls, directory: str | Path | None = None) -> Library:
        """Read a library back; None takes the one in the package.

        Raises:
            LibraryError: nothing there, another format, or a file that does not match the
                manifest.
        """
        directory = DEFAULT if directory is None else Path(directory)
        path = directory / "manifest.json"
        if not path.is_file():
            raise LibraryError(f"{directory}: no library here (manifest.json is missing)")
        try:
            manifest = json.loads(path.read_text())
            if manifest["format"] != _FORMAT:
                raise LibraryError(f"{path}: format {manifest['format']}, this is {_FORMAT}")
            digests = manifest["sha256"]
            # Names come from the file: only our own two are opened.
            for name in digests.keys() - set(_FILES):
                raise LibraryError(f"{path}: unknown file {name!r}")
            for name in _FILES:
                if _digest(directory / name) != digests[name]:
                    raise LibraryError(f"{directory / name}: damaged, build the library again")
            embeddings = np.load(directory / "embeddings.npy", allow_pickle=False)
            with np.load(directory / "crystals.npz", allow_pickle=False) as packed:
                crystals = _unpacked(dict(packed), dict(manifest["report"]))
            model, count = manifest["model"], manifest["crystals"]
            if not isinstance(model, str):
                raise TypeError("the manifest's model is no text")
        except LibraryError:
            raise
        except (KeyError, TypeError, AttributeError, OSError, ValueError) as error:
            raise LibraryError(f"{directory}: damaged ({str(error).splitlines()[0]})") from error
        if not len(crystals) == len(embeddings) == count:
            raise LibraryError(f"{directory}: damaged, its files differ in length")
        return cls(crystals, embeddings, model)

    def check(self, model: Model) -> None:
        """Raise LibraryError where the library was built by another model."""
        if self.model != model.fingerprint:
            raise LibraryError(
                f"the library was built by model {self.model}, the query uses model "
                f"{model.fingerprint}; build the library again with this model"
            )


def read_source(source: str | Path, data_dir: str | None = None) -> CrystalSet:
    """Crystals from a path, whatever kind of file, or from a named data source."""
    if str(source) in ("prototypes", "c2db", "jarvis_2d") and not Path(source).exists():
        return datasets.load(str(source), data_dir=data_dir)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    kind = {".db": "ase_db", ".json": "dd2d_json"}.get(path.suffix.lower(), "files")
    return datasets.load("files" if path.is_dir() else kind, path, data_dir)


def _packed(crystals: CrystalSet) -> dict[str, np.ndarray]:
    """Without padding: positions and numbers of all crystals one after another."""
    real = crystals.numbers > 0
    return {
        "uid": crystals.uid.astype(str),
        "formula": crystals.formula.astype(str),
        "prototype": crystals.prototype.astype(str),
        "known": crystals.known.astype(bool),
        "lattice": crystals.lattice.astype(np.float32),
        "atoms": real.sum(1).astype(np.int32),
        "positions": crystals.positions[real].astype(np.float32),
        "numbers": crystals.numbers[real].astype(np.uint8),
    }


def _unpacked(packed: dict[str, np.ndarray], report: dict) -> CrystalSet:
    atoms = packed["atoms"]
    real = np.arange(atoms.max()) < atoms[:, None]
    positions = np.zeros((*real.shape, 3), np.float32)
    numbers = np.zeros(real.shape, np.int32)
    positions[real], numbers[real] = packed["positions"], packed["numbers"]
    text = {k: packed[k] for k in ("uid", "formula", "prototype", "known", "lattice")}
    return CrystalSet(positions=positions, numbers=numbers, report=report, **text)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

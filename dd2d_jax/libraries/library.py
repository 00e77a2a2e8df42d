"""Libraries of crystals with their embeddings: built once, searched many times."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.data.datasets import read_source
from dd2d_jax.libraries.cells import CellIndex
from dd2d_jax.libraries.nearest import nearest
from dd2d_jax.libraries.shards import (
    Shard,
    Stacked,
    StoredCrystals,
    checked_report,
    digest,
    element_masks,
    write_shard,
)
from dd2d_jax.networks.checkpoint import write_json
from dd2d_jax.networks.trained import Model, load
from dd2d_jax.util.errors import LibraryError
from dd2d_jax.util.files import new_folder
from dd2d_jax.util.limits import first_line, read_json

FORMAT = 3
# Of a library with mixed sites: programs that know none must not read them as full ones.
MIXED_FORMAT = 4
# Formats that are read: 2 knew neither ehull nor layer groups.
_READ = (2, FORMAT, MIXED_FORMAT)
MANIFEST = "manifest.json"
# Rows of the source that make one part of a library.
SHARD = 25_000
DEFAULT = Path(__file__).parents[1] / "weights" / "library"


@dataclasses.dataclass(frozen=True, eq=False)
class Library:
    """n crystals and what a model makes of them.

    Attributes:
        crystals: the crystals, in canonical setting: in memory, or read where they are asked for.
        embeddings: (n, D) unit vectors; those of a folder are float16 and mapped into memory.
        model: fingerprint of the model that made them.
    """

    crystals: CrystalSet | StoredCrystals
    embeddings: np.ndarray | Stacked
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
        """Embed every crystal of a source, in memory; `libraries.build` makes large ones.

        Embeddings are rounded to float16, as they are stored.

        Args:
            source: an ASE database, a folder or file of structures, a DD2D JSON file, the name of
                a data source ("prototypes", "bulk", "c2db", "jarvis_2d"), or a CrystalSet.
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
        embeddings = model.embed_crystals(crystals.crystal).astype(np.float16)
        return cls(crystals, embeddings, model.fingerprint)

    def search(
        self, queries: np.ndarray, count: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The crystals nearest to a query by the largest cosine over its settings, exactly.

        Args:
            queries: (S, D) settings of one pattern, or (Q, S, D) those of Q patterns.
            count: crystals to return.
            allowed: (n,) bool, those that may be returned (see `only`); None allows all.

        Returns:
            rows (k,) or (Q, k), nearest first, and their cosines (S, k) or (Q, S, k) with each
            setting.
        """
        queries = np.asarray(queries)
        found = nearest(
            self.embeddings, queries if queries.ndim == 3 else queries[None], count, allowed
        )
        return found if queries.ndim == 3 else (found[0][0], found[1][0])

    @functools.cached_property
    def cells(self) -> CellIndex:
        """The crystals' cells, sorted when first asked for."""
        lattice = self.crystals.lattice
        return CellIndex(lattice.parts if isinstance(lattice, Stacked) else [lattice])

    @property
    def element_bits(self) -> list[np.ndarray]:
        """Parts (n_i, 2) of which elements the crystals have, see `shards.element_masks`."""
        if isinstance(self.crystals, StoredCrystals):
            return list(self.crystals.elements.parts)
        return [element_masks(self.crystals.numbers)]

    def without(self, rows: Sequence[int] | np.ndarray) -> Library:
        """The library, in memory, without the crystals at these rows."""
        keep = np.setdiff1d(np.arange(len(self)), np.asarray(rows, int))
        whole = getattr(self.crystals, "whole", self.crystals)
        return Library(whole.take(keep), np.asarray(self.embeddings[keep]), self.model)

    def save(self, directory: str | Path) -> None:
        """Write the library as a folder, beside and moved into place.

        Raises:
            FileExistsError: something is there already.
        """
        with new_folder(directory) as part:
            paths = []
            for number, start in enumerate(range(0, len(self), SHARD)):
                rows = np.arange(start, min(start + SHARD, len(self)))
                paths.append(part / shard_name(number))
                write_shard(
                    paths[-1], self.crystals.take(rows), self.embeddings[rows], self.model
                )
            write_manifest(part, paths, self.model, self.crystals.report)

    @classmethod
    def load(cls, directory: str | Path | None = None, verify: bool = True) -> Library:
        """Open a library; None takes the one in the package.

        Args:
            directory: the library's folder.
            verify: read all of it and compare with the manifest's checksums; without, sizes alone.

        Raises:
            LibraryError: nothing there, another format, or a file that does not match the
                manifest.
        """
        directory = DEFAULT if directory is None else Path(directory)
        manifest = read_manifest(directory)
        try:
            report, model = checked_report(manifest["report"]), manifest["model"]
            if not isinstance(model, str):
                raise TypeError("the manifest's model is no text")
            shards = [_open(directory, entry, verify) for entry in manifest["shards"]]
            if any(shard.model != model for shard in shards):
                raise LibraryError(f"{directory}: damaged, its parts are of several models")
            crystals = StoredCrystals(shards, report)
            embeddings = Stacked([shard.arrays["embeddings"] for shard in shards])
            count = manifest["crystals"]
        except LibraryError:
            raise
        except (KeyError, TypeError, AttributeError, IndexError, OSError, ValueError) as error:
            raise LibraryError(f"{directory}: damaged ({first_line(error)})") from error
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


def shard_name(number: int) -> str:
    """The file of a part of a library."""
    return f"{number:05d}.shard"


def read_manifest(directory: Path) -> dict:
    """The manifest of a library.

    Raises:
        LibraryError: nothing there, no manifest, or of another format.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise LibraryError(f"{directory}: no library here ({MANIFEST} is missing)")
    try:
        manifest = read_json(path)
        if manifest["format"] not in _READ:
            raise LibraryError(f"{path}: format {manifest['format']}, this is {_READ[-1]}")
    except LibraryError:
        raise
    except (KeyError, TypeError, OSError, ValueError) as error:
        raise LibraryError(f"{directory}: damaged ({first_line(error)})") from error
    return manifest


def write_manifest(directory: Path, shards: list[Path], model: str, report: dict) -> None:
    """Make a library of the parts that lie in a folder."""
    parts = [Shard(path) for path in shards]
    entries = [
        {
            "name": part.path.name,
            "crystals": len(part),
            "bytes": part.path.stat().st_size,
            "sha256": digest(part.path),
        }
        for part in parts
    ]
    count = sum(entry["crystals"] for entry in entries)
    kind = MIXED_FORMAT if any(part.mixed for part in parts) else FORMAT
    facts = {"format": kind, "model": model, "crystals": count}
    write_json(directory / MANIFEST, {**facts, "report": report, "shards": entries})


def _open(directory: Path, entry: dict, verify: bool) -> Shard:
    name = entry["name"]
    # Names come from the file: only our own are opened.
    if not (isinstance(name, str) and name[:-6].isdecimal() and name == shard_name(int(name[:-6]))):
        raise LibraryError(f"{directory / MANIFEST}: unknown file {name!r}")
    path = directory / name
    shard = Shard(path)
    size = path.stat().st_size
    if size != entry["bytes"] or len(shard) != entry["crystals"]:
        raise LibraryError(f"{path}: damaged, {size} bytes instead of {entry['bytes']}")
    if verify and digest(path) != entry["sha256"]:
        raise LibraryError(f"{path}: damaged, build the library again")
    return shard

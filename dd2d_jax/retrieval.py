"""From a pattern to a ranked list of crystals."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase
import jax
import numpy as np
from ase.data import atomic_numbers

from dd2d_jax import lattice as lattices
from dd2d_jax.lattice import PatternError
from dd2d_jax.library import Library
from dd2d_jax.patterns import as_pattern
from dd2d_jax.refine import Fit, fit, r_factors
from dd2d_jax.score import score, simulate_table
from dd2d_jax.spots import Conditions, Spots, power_of_two, strongest
from dd2d_jax.trained import Model, load

if TYPE_CHECKING:
    import matplotlib.figure
    import rich.table

# Spot pairs that the comparison by simulation sees.
_PAIRS = 128
# A crystal that is known to exist wins against made-up ones that explain the pattern as well.
_KNOWN = 0.002


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A crystal that may have made the pattern.

    Attributes:
        uid: its name in the library.
        formula: reduced formula.
        structure: the layer, with the vacuum that ASE needs; after refinement the refined one.
        score: higher is better, 1 for a perfect match; see `dd2d_jax.score`. Known crystals have
            0.002 more. Without reranking the same as `similarity`.
        similarity: cosine of the network's embeddings.
        r_factor: R1 = sum |sqrt(I_o) - s sqrt(I_c)| / sum sqrt(I_o) over the pattern's spots.
        r_before: R1 before refinement; the same as r_factor without.
        b_iso: angstrom^2, of the simulation that r_factor belongs to.
        prototype: where the library knows it.
        known: True for a crystal that the library lists as known.
        simulated: the candidate's pattern in the setting that fits best, spots as in `query`.
        query: the pattern in that setting.
    """

    uid: str
    formula: str
    structure: ase.Atoms
    score: float
    similarity: float
    r_factor: float
    r_before: float
    b_iso: float
    prototype: str
    known: bool
    simulated: np.ndarray
    query: Spots


@dataclasses.dataclass(frozen=True)
class Found(Sequence[Candidate]):
    """Candidates, the best first.

    Attributes:
        candidates: at most k.
        indexed: the pattern's spots and their lattice.
        searched: number of crystals that were compared.
    """

    candidates: tuple[Candidate, ...]
    indexed: lattices.Indexed
    searched: int

    def __len__(self) -> int:
        return len(self.candidates)

    def __getitem__(self, index):
        return self.candidates[index]

    def table(self) -> rich.table.Table:
        """A table for the terminal: `rich.print(found.table())`."""
        from dd2d_jax.output import candidate_table

        return candidate_table(self)

    def plot(self) -> matplotlib.figure.Figure:
        """The pattern beside the first candidates and their structures."""
        from dd2d_jax.figures import plot_found

        return plot_found(self)

    def to_dict(self) -> dict[str, Any]:
        """What `dd2d retrieve --json` prints."""
        from dd2d_jax.output import found_dict

        return found_dict(self)

    def write(self, directory: str | Path) -> None:
        """Write CIF and POSCAR files, found.json, found.csv and found.png into a new folder.

        Raises:
            FileExistsError: something is there already.
        """
        from dd2d_jax.output import write_found

        write_found(self, Path(directory))


def retrieve(
    pattern: Any,
    library: Library | str | Path | None = None,
    model: Model | None = None,
    k: int = 10,
    elements: Sequence[str] | None = None,
    rerank: int = 100,
    refine: bool = False,
) -> Found:
    """Rank the crystals of a library by how well each explains a pattern.

    The lattice is found from the spots; the pattern may have any in-plane rotation and either
    side up. The network proposes, simulation decides.

    Args:
        pattern: a `dx.Pattern`, a path (see `read_pattern`), an array of (qx, qy, intensity) rows
            in 1/angstrom, or a calibrated hyperspy signal.
        library: a `Library` or its folder; None takes the one in the package.
        model: from `dd2d_jax.load`; None takes the weights in the package.
        k: number of candidates to return.
        elements: keep candidates made only of these, e.g. ["Mo", "S"].
        rerank: number of the network's candidates that are simulated and compared; 0 leaves the
            network's order.
        refine: fit the first k candidates' cell, atoms and B to the pattern. The order stays: a
            fit that is free enough explains anything.

    Raises:
        PatternError: the pattern is empty, not finite, or has no lattice.
        LibraryError: the library is damaged or was built by another model.
        ValueError: k or rerank out of range, an unknown element, or no crystal of these elements.
    """
    if k < 1 or rerank < 0:
        raise ValueError(f"k must be at least 1 and rerank at least 0, got k={k}, rerank={rerank}")
    indexed = lattices.find(as_pattern(pattern))
    model = load() if model is None else model
    if not isinstance(library, Library):
        library = _default_library() if library is None else Library.load(library)
    library.check(model)
    allowed = _allowed(library, elements)
    conditions = model.conditions

    settings = lattices.canonical_spots(indexed, conditions.q_max, _PAIRS)
    few = strongest(settings, conditions.tokens)
    rows, cosines = library.search(model.embed_patterns(few), max(k, rerank), allowed)
    similarity, setting = cosines.max(0), cosines.argmax(0)
    value, order = similarity, np.arange(len(rows))
    if rerank:
        seen = dataclasses.replace(conditions, q_max=_reach(settings, conditions.q_max))
        value, setting = _compare(library, rows, settings, seen)
        value = value + _KNOWN * library.crystals.known[rows]
        again = np.argsort(-value, kind="stable")
        order, value, setting = order[again], value[again], setting[again]
    order, value, setting = order[:k], value[:k], setting[:k]
    queries = jax.tree.map(lambda x: x[setting], settings)
    chosen = library.crystals.take(rows[order])
    fits = (fit if refine else r_factors)(chosen, queries, conditions)
    candidates = [
        _candidate(chosen, i, value[i], similarity[order[i]], fits, queries)
        for i in range(len(order))
    ]
    return Found(tuple(candidates), indexed, int(allowed.sum()))


@functools.cache
def _default_library() -> Library:
    return Library.load()


def _allowed(library: Library, elements: Sequence[str] | None) -> np.ndarray:
    """(n,) True for crystals made only of `elements`."""
    if elements is None:
        return np.ones(len(library), bool)
    if isinstance(elements, str):
        elements = [e.strip() for e in elements.split(",")]
    unknown = [e for e in elements if e not in atomic_numbers or e == "X"]
    if unknown:
        raise ValueError(f"unknown element {unknown[0]!r}; give symbols such as Mo,S")
    allowed = library.only([atomic_numbers[e] for e in elements])
    if not allowed.any():
        raise ValueError(f"the library has no crystal made only of {', '.join(elements)}")
    return allowed


def _reach(settings: Spots, q_max: float) -> float:
    """How far candidates are simulated: nothing is known beyond a pattern's last spot."""
    last = float(np.linalg.norm(np.asarray(settings.q), axis=-1).max())
    # A little beyond, as lattices differ a little; and never without any rod.
    return min(q_max, max(1.01 * last, 0.5 * q_max))


def _compare(
    library: Library, rows: np.ndarray, settings: Spots, conditions: Conditions
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n,) of candidates by simulation and the setting that each fits best."""
    # The last row is repeated up to a power of two: few shapes are compiled.
    size = power_of_two(len(rows))
    filled = rows[np.minimum(np.arange(size), len(rows) - 1)]
    table = simulate_table(library.crystals.take(filled).crystal, conditions, together=True)
    scores = np.stack(
        [np.asarray(score(table, jax.tree.map(lambda x, s=s: x[s], settings)))
         for s in range(len(settings.q))]
    )[:, : len(rows)]
    return scores.max(0), scores.argmax(0)


def _candidate(
    chosen, i: int, value: float, similarity: float, fits: Fit, queries: Spots
) -> Candidate:
    structure = fits.crystals[i].to_ase()
    structure.info["uid"] = str(chosen.uid[i])
    return Candidate(
        uid=str(chosen.uid[i]),
        formula=str(chosen.formula[i]),
        structure=structure,
        score=float(value),
        similarity=float(similarity),
        r_factor=float(fits.r_factor[i]),
        r_before=float(fits.r_before[i]),
        b_iso=float(fits.b_iso[i]),
        prototype=str(chosen.prototype[i]),
        known=bool(chosen.known[i]),
        simulated=fits.intensity[i],
        query=jax.tree.map(lambda x: np.asarray(x[i]), queries),
    )


__all__ = ["Candidate", "Found", "PatternError", "retrieve"]

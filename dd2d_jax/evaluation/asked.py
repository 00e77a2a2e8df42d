"""A pattern as it is searched with: in the cell that was found, and in its parents."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from dd2d_jax.lattices.indexed import Indexed
from dd2d_jax.matching.readings import log_readings
from dd2d_jax.matching.rerank import Query
from dd2d_jax.matching.score import strain_between
from dd2d_jax.matching.superlattice import Superlattice, superlattices


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """A pattern's readings, as `retrieve` tries them.

    Attributes:
        queries: of the cell that was found, then of each parent whose superlattice it may be.
        above: these superlattices, one fewer.
        indexed: its lattice; None where its setting is known.
    """

    queries: Sequence[Query]
    above: Sequence[Superlattice] = ()
    indexed: Indexed | None = None

    @classmethod
    def of(cls, indexed: Indexed, q_max: float) -> Asked:
        """Of a pattern whose lattice was found, as far as `q_max`, 1/angstrom."""
        above = superlattices(indexed)
        every = [indexed, *(one.parent for one in above)]
        return cls([Query.indexed(one, q_max) for one in every], above, indexed)

    def log_readings(self, totals: Sequence[float]) -> np.ndarray:
        """Log-probability of each reading, given that of the pattern in each."""
        return log_readings(totals, self.above, self.queries[0])

    def nearness(self, cells: jax.Array) -> np.ndarray:
        """(n,) higher where a crystal's cell (n, 2, 2) is nearer to one of the query's."""
        settings = [cell for one in self.queries for cell in one.settings.lattice]
        strains = [strain_between(cells, cell) for cell in settings]
        return np.max([-np.asarray(stretch**2 + shear**2) for stretch, shear in strains], axis=0)


def merged(
    rows: Sequence[np.ndarray], values: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a library from several readings, best first, each once and with the log-probability
    of all its readings.
    """
    once, place = np.unique(np.concatenate(rows), return_inverse=True)
    value = np.full(len(once), -np.inf)
    np.logaddexp.at(value, place, np.concatenate(values))
    order = np.argsort(-value, kind="stable")
    return once[order], value[order]

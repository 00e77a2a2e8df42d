"""What was found for a pattern: candidates, the best first, for each lattice."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase
import numpy as np

import diffraction as dx
from dd2d_jax.lattices import indexed
from dd2d_jax.spots import Spots

if TYPE_CHECKING:
    import matplotlib.figure
    import rich.console

    from dd2d_jax.images.measurement import Measured
    from dd2d_jax.matching.layers import Flake
    from dd2d_jax.matching.next_tilt import NextTilt
    from dd2d_jax.matching.superlattice import Superlattice


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A crystal that may have made the pattern.

    Attributes:
        uid: its name in the library.
        formula: reduced formula.
        structure: the layer, with the vacuum that ASE needs; after refinement the refined one.
        score: natural logarithm of the probability of this crystal over that of none of the
            library's: below 0 none of them is likelier. Ranks, scores and probabilities have one
            order. Without reranking the same as `similarity`.
        log_evidence: natural logarithm of how much more probable the pattern is if this crystal
            made it than if none of the library's did; see `dd2d_jax.matching.evidence`.
        probability: that this crystal made the pattern; NaN without reranking. Of several entries
            of one structure, of them together.
        similarity: cosine of the network's embeddings.
        r_factor: R1 = sum |sqrt(I_o) - s sqrt(I_c)| / sum sqrt(I_o) over the pattern's spots.
        r_before: R1 before refinement; the same as r_factor without.
        wr2: sqrt(sum w (I_o - s I_c)^2 / sum w I_o^2) over the same spots.
        wr2_before: before refinement.
        undetermined: what refinement could not determine, such as "z of S1"; () without.
        correlations: what trades off, such as ("B", "background", 0.9), see `Fit.correlations`.
        doubts: why its uncertainties may be too small, in words.
        cif: the refined structure, symmetrised, with standard uncertainties; None without.
        b_iso: angstrom^2, of the simulation that r_factor belongs to.
        prototype: where the library knows it.
        known: True for a crystal that the library lists as known.
        ehull: energy above the convex hull, eV/atom; NaN where the library does not know it.
        layer_group: symbol; "" where the library does not know it.
        lattice: (2, 2) angstrom, the library's own cell.
        strain: isotropic strain from that cell to the measured one, as it is without `tilt`.
        shear: the same, its shear.
        entries: uids of this structure in the library, the likeliest first.
        superlattice: such as "3 x 3", where the pattern is of this crystal with a weak
            superlattice; "" else, and where its spots are so few that they may be false.
        stacked: whether it is read as a stack of its layers, so shifted against each other that
            only some rods of its cell show spots, see `dd2d_jax.matching.stacks`.
        tilt: (2,) degrees about x and y of the pattern, as in `dx.simulate`, where it is read as
            tilted because its hexagonal or square cell looks foreshortened; None else.
        flake: what it is as a flake of several layers, where it explains the pattern better so than
            as a single one; None else. `r_factor` and `simulated` are then the flake's, and it is
            not refined.
        power: of counts that the pattern's intensities are if this crystal made it, fitted where
            `dx.Pattern.power_error` says that they may be one; 1 else. `query` and what is compared
            with it are straightened.
        simulated: the candidate's pattern in the setting that fits best, spots as in `query`.
        query: the pattern in that setting.
        axes: (2, 2), the setting's in the pattern: `query.q @ axes` is where the spots were seen.
    """

    uid: str
    formula: str
    structure: ase.Atoms
    score: float
    log_evidence: float
    probability: float
    similarity: float
    r_factor: float
    r_before: float
    wr2: float
    wr2_before: float
    undetermined: tuple[str, ...]
    correlations: tuple[tuple[str, str, float], ...] = dataclasses.field(default=(), kw_only=True)
    doubts: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    cif: str | None = dataclasses.field(default=None, kw_only=True)
    b_iso: float
    prototype: str
    known: bool
    ehull: float
    layer_group: str
    lattice: np.ndarray
    strain: float
    shear: float
    entries: tuple[str, ...]
    superlattice: str
    stacked: bool = dataclasses.field(default=False, kw_only=True)
    tilt: tuple[float, float] | None = dataclasses.field(default=None, kw_only=True)
    flake: Flake | None = dataclasses.field(default=None, kw_only=True)
    power: float = dataclasses.field(default=1.0, kw_only=True)
    simulated: np.ndarray
    query: Spots
    axes: np.ndarray

    @property
    def leans(self) -> float:
        """Degrees that it is read as tilted by, see `tilt`."""
        return 0.0 if self.tilt is None else math.hypot(*self.tilt)


@dataclasses.dataclass(frozen=True)
class Found(Sequence[Candidate]):
    """Candidates, the best first.

    Attributes:
        candidates: at most k.
        indexed: the pattern's spots and their lattice.
        searched: number of crystals that were compared.
        none: probability that none of the library's crystals made the pattern; NaN without
            reranking.
        others: what was found for each further lattice in the pattern (twisted layers, grains).
        superlattice: the pattern's lattice as a superlattice of a smaller cell, whose further spots
            are weak; None where it is none.
        weighed: uids of all crystals that were weighed, the likeliest first.
        energy: of the electrons, keV; None where it was not told: the model's was taken.
    """

    candidates: tuple[Candidate, ...]
    indexed: indexed.Indexed
    searched: int
    none: float = float("nan")
    others: tuple[Found, ...] = ()
    superlattice: Superlattice | None = None
    weighed: tuple[str, ...] = ()
    energy: float | None = None

    def __len__(self) -> int:
        return len(self.candidates)

    def __getitem__(self, index):
        return self.candidates[index]

    def next_tilt(
        self, size: float = 20.0, radiation: dx.Electrons | dx.Xrays | None = None
    ) -> NextTilt:
        """The tilt of `size` degrees whose pattern would tell these candidates apart best.

        See `matching.next_tilt.next_tilt`. The radiation is that of the pattern, or 80 keV
        electrons, where none is given.
        """
        from dd2d_jax.matching.next_tilt import next_tilt

        if radiation is None:
            radiation = dx.Electrons(80.0 if self.energy is None else self.energy)
        return next_tilt(self, radiation, size)

    def table(self, every: bool = False) -> rich.console.RenderableType:
        """A table for each lattice, for the terminal: `rich.print(found.table())`.

        Candidates of less than 0.1 % are left out but for `every`.
        """
        from dd2d_jax.reports.tables import found_table

        return found_table(self, every)

    def plot(self, measured: Measured | None = None) -> matplotlib.figure.Figure:
        """The pattern (on its image, where given) beside the first candidates."""
        from dd2d_jax.reports.figures import plot_found

        return plot_found(self, measured)

    def to_dict(self) -> dict[str, Any]:
        """What `dd2d retrieve --json` prints."""
        from dd2d_jax.reports.as_json import found_dict

        return found_dict(self)

    def page(
        self, measured: Measured | None = None, about: Mapping[str, str] | None = None
    ) -> str:
        """A page (HTML) that shows all of it, with its pictures inside; see `query_page.page`."""
        from dd2d_jax.reports.query_page import page

        return page(self, measured, about)

    def show(self, measured: Measured | None = None) -> Any:
        """The same alive, in a notebook: candidates over the pattern, structures that turn.

        Needs the extra `app`.
        """
        from dd2d_jax.app.answers import show

        return show(self, measured)

    def _repr_html_(self) -> str:
        from dd2d_jax.reports.notebook import found_html

        return found_html(self)

    def write(
        self,
        directory: str | Path,
        measured: Measured | None = None,
        about: Mapping[str, str] | None = None,
    ) -> None:
        """Write CIF and POSCAR files, page.html, found.json, .csv and .png into a new folder.

        Args:
            directory: the folder to make.
            measured: the image that the pattern was seen in, for the page.
            about: "file", "command" and "library" for the head of the page.

        Raises:
            FileExistsError: something is there already.
        """
        from dd2d_jax.reports.found_files import write_found

        write_found(self, Path(directory), measured, about=about)

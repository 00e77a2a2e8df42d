"""A candidate as users see it, of the rows of a library and their fits."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.matching.found import Candidate
from dd2d_jax.matching.score import strain_between
from dd2d_jax.refinement.cif import fitted_cif
from dd2d_jax.refinement.refine import Fit
from dd2d_jax.spots import Spots


def candidate(
    chosen: CrystalSet,
    i: int,
    value: float,
    probability: float,
    similarity: float,
    fits: Fit,
    queries: Spots,
    axes: np.ndarray,
    score: float,
    kind: type[Candidate] = Candidate,
    **more: Any,
) -> Candidate:
    """Candidate i of those chosen; `more` are further fields of its `kind`."""
    own = chosen.lattice[i]
    stretch, shear = strain_between(own, np.asarray(queries.lattice[i]))
    crystal = jax.tree.map(lambda x: np.asarray(x)[i], fits.crystals)
    if not chosen.mixed[i]:
        crystal = dataclasses.replace(crystal, occupancy=None)
    structure = crystal.to_ase()
    structure.info["uid"] = str(chosen.uid[i])
    # Of several tilts the first is shown.
    shown = fits.intensity[i]
    return kind(
        uid=str(chosen.uid[i]),
        formula=str(chosen.formula[i]),
        structure=structure,
        score=float(score),
        log_evidence=float(value),
        probability=float(probability),
        similarity=float(similarity),
        r_factor=float(fits.r_factor[i]),
        r_before=float(fits.r_before[i]),
        wr2=float(fits.wr2[i]),
        wr2_before=float(fits.wr2_before[i]),
        undetermined=() if fits.undetermined is None else fits.undetermined[i],
        correlations=() if fits.correlations is None else fits.correlations[i],
        doubts=() if fits.doubts is None else fits.doubts[i],
        cif=None if fits.position_sigma is None else fitted_cif(fits, i, chosen),
        b_iso=float(fits.b_iso[i]),
        prototype=str(chosen.prototype[i]),
        known=bool(chosen.known[i]),
        ehull=float(chosen.ehull[i]),
        layer_group=str(chosen.layer_group[i]),
        lattice=own,
        strain=float(stretch),
        shear=float(shear),
        simulated=shown[0] if shown.ndim == 3 else shown,
        query=jax.tree.map(lambda x: np.asarray(x[i]), queries),
        axes=axes[i],
        **more,
    )

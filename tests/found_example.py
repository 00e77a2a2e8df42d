"""What `retrieve` returns, without a model: candidates for a pattern of MoS2."""

import dataclasses

import ase.build
import numpy as np

import diffraction as dx
from dd2d_jax.lattices import lattice
from dd2d_jax.matching.found import Candidate, Found
from dd2d_jax.spots import Spots


def make_found(
    uid="mp-1", formula="MoS2", r_before=0.2, count=2, probability=0.421, none=0.158,
    undetermined=("z of S1", "z of S2", "B"),
) -> Found:  # fmt: skip
    """Candidates as `retrieve` returns them, without a model."""
    atoms = ase.build.mx2("MoS2", vacuum=8)
    pattern = dx.simulate(dx.Crystal.from_ase(atoms), q_max=1.0)
    indexed = lattice.find(pattern)
    settings = lattice.canonical_spots(indexed, 1.0, 16)
    query = Spots(*(np.asarray(getattr(settings, f))[0]
                    for f in ("q", "hk", "intensity", "measured", "lattice")))  # fmt: skip
    candidate = Candidate(
        uid=uid, formula=formula, structure=atoms, score=0.9, log_evidence=2.0,
        probability=probability,
        similarity=0.8, r_factor=0.1, r_before=r_before, wr2=0.15,
        wr2_before=0.15 + (r_before - 0.1), undetermined=undetermined, b_iso=0.5,
        prototype="2H", known=True, ehull=0.012, layer_group="p-6m2",
        lattice=np.asarray(query.lattice) * 0.99,
        strain=0.01, shear=0.0, entries=(uid,), superlattice="",
        simulated=query.intensity * 0.9, query=query, axes=lattice.frames(indexed)[0],
    )  # fmt: skip
    return Found((candidate,) * count, indexed, 42, none)


def make_twisted(**options) -> Found:
    """Two lattices 7 degrees apart."""
    found = make_found(**options)
    c, s = np.cos(np.deg2rad(7)), np.sin(np.deg2rad(7))
    turn = np.array([[c, s], [-s, c]])
    indexed = found.indexed
    other = dataclasses.replace(indexed, lattice=indexed.lattice @ turn, q=indexed.q @ turn)
    return dataclasses.replace(found, others=(dataclasses.replace(found, indexed=other),))

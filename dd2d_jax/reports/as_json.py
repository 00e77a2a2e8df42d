"""What was found, as JSON."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from dd2d_jax.crystals.cell import cell
from dd2d_jax.lattices.lattice import twist
from dd2d_jax.util.text import finite

if TYPE_CHECKING:
    from dd2d_jax.lattices.indexed import Indexed
    from dd2d_jax.matching.found import Candidate, Found


def found_dict(found: Found) -> dict[str, Any]:
    """All that was found as JSON: cells in angstrom and degrees, positions in angstrom."""
    return {
        **_lattice_found(found),
        "others": [
            {"twist": dict(zip(("degrees", "sigma"), map(finite, turn), strict=True)),
             **_lattice_found(other)}
            for other in found.others
            for turn in [twist(found.indexed, other.indexed)]
        ],
    }  # fmt: skip


def _lattice_found(found: Found) -> dict[str, Any]:
    return {
        "searched": found.searched,
        "lattice": lattice_dict(found.indexed),
        "none": finite(found.none),
        "energy": found.energy,
        "superlattice": None
        if found.superlattice is None
        else {
            "name": found.superlattice.name,
            "satellites": found.superlattice.satellites,
            "parent": lattice_dict(found.superlattice.parent),
        },
        "weighed": len(found.weighed),
        "candidates": [
            {"rank": rank, **candidate_dict(candidate)}
            for rank, candidate in enumerate(found.candidates, 1)
        ],
    }


def lattice_dict(found: Indexed) -> dict[str, Any]:
    """A pattern's lattice as JSON: angstrom and degrees."""
    a, b, gamma = cell(found.lattice)
    return {
        "a": a,
        "b": b,
        "gamma": gamma,
        "vectors": found.lattice.tolist(),
        "explained": found.explained,
        "residual": found.residual,
        "spots": len(found.q),
        "strength": found.strength,
        "parent": None if found.parent is None else found.parent.tolist(),
        "satellites": 0 if found.satellites is None else int(found.satellites.sum()),
        "alternatives": [one.tolist() for one in found.alternatives],
        "shift": found.warp.shift.tolist(),
        "ellipticity": found.warp.ellipticity,
        "radial": found.warp.radial,
        "notes": list(found.notes),
    }


def candidate_dict(candidate: Candidate) -> dict[str, Any]:
    """A candidate as JSON, see `found_dict`."""
    atoms = candidate.structure
    shares = atoms.arrays.get("occupancies")
    a, b, gamma = cell(atoms.cell.array[:2, :2])
    return {
        "uid": candidate.uid,
        "formula": candidate.formula,
        "prototype": candidate.prototype,
        "known": candidate.known,
        # Of crystals that are in no library (`propose.Proposed`).
        "parent": getattr(candidate, "parent", ""),
        "substitution": getattr(candidate, "substitution", ""),
        "ehull": finite(candidate.ehull),
        "layer_group": candidate.layer_group,
        "entries": list(candidate.entries),
        "superlattice": candidate.superlattice,
        "stacked": candidate.stacked,
        "tilt": candidate.tilt,
        "flake": None if candidate.flake is None else dataclasses.asdict(candidate.flake),
        "score": finite(candidate.score),
        "log_evidence": finite(candidate.log_evidence),
        "probability": finite(candidate.probability),
        "similarity": finite(candidate.similarity),
        "r_factor": finite(candidate.r_factor),
        "r_before": finite(candidate.r_before),
        "wr2": finite(candidate.wr2),
        "wr2_before": finite(candidate.wr2_before),
        "undetermined": list(candidate.undetermined),
        "correlations": [list(pair) for pair in candidate.correlations],
        "doubts": list(candidate.doubts),
        "b_iso": finite(candidate.b_iso),
        "power": finite(candidate.power),
        "strain": finite(candidate.strain),
        "shear": finite(candidate.shear),
        "library_cell": dict(zip(("a", "b", "gamma"), cell(candidate.lattice), strict=True)),
        "a": a,
        "b": b,
        "gamma": gamma,
        "structure": {
            "cell": atoms.cell.array.tolist(),
            "symbols": atoms.get_chemical_symbols(),
            "positions": atoms.positions.tolist(),
            # Only of crystals with mixed sites.
            **({"occupancies": shares.tolist()} if shares is not None else {}),
        },
    }

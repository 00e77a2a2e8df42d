"""Lines about a lattice that a person should read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dd2d_jax.lattices.origin import DOUBTFUL, Rival
from dd2d_jax.lattices.reduction import reduce

if TYPE_CHECKING:
    from dd2d_jax.lattices.indexed import Indexed

# A distortion that would be shown as 0.0 % is none.
_STRAIGHT = 5e-4


def notes(found: Indexed, spots: int, other: Rival | None) -> tuple[str, ...]:
    """What a person should know of a lattice found among so many spots; `other` is its `rival`."""
    lines, warp = [], found.warp
    away = float(np.hypot(*warp.shift))
    shortest = float(np.linalg.norm(np.linalg.inv(found.lattice), axis=0).min())
    if away > 0.1 * shortest:
        doubt = "; the beam may also be at a neighbouring lattice point" * (away > 0.3 * shortest)
        lines.append(
            f"the lattice's origin is ({warp.shift[0]:.4f}, {warp.shift[1]:.4f}) 1/A from the "
            f"given centre: the centre was moved there{doubt}"
        )
    if other is not None and other.significance > DOUBTFUL:
        x, y = warp.measured(other.hk @ np.linalg.inv(found.lattice).T)
        lines.append(
            "the centre may be off by a lattice vector: the intensities are more symmetric about "
            f"({x:.4f}, {y:.4f}) 1/A"
        )
    bulge = warp.radial * float(np.square(found.q).sum(1).max())
    if max(warp.ellipticity, abs(bulge)) > _STRAIGHT:
        lines.append(
            f"the pattern is distorted: {100 * warp.ellipticity:.1f} % elliptic, "
            f"{100 * bulge:+.1f} % radially at its outermost spot; the lattice is "
            "that of the straightened pattern (calibrate the camera to be sure)"
        )
    lines += of_cells(found)
    elsewhere = spots - len(found.q)
    if found.explained < 0.5:
        lines.append(
            f"{elsewhere} of {spots} spots are not on this lattice, with "
            f"{100 * (1 - found.strength):.0f} % of the intensity"
        )
    return tuple(lines)


def of_cells(found: Indexed) -> list[str]:
    """Notes of other cells and of a superlattice."""
    lines = []
    if found.alternatives:
        sizes = [np.linalg.norm(c, axis=1) for c in found.alternatives]
        cells = ", ".join(f"{a:.2f} x {b:.2f} A" for a, b in sizes[:3])
        lines.append(f"the spots do not rule out other cells: {cells}")
    if found.parent is not None:
        a, b = np.sort(np.linalg.norm(reduce(found.main) @ found.main, axis=1))
        lines.append(
            f"{int(found.satellites.sum())} weak spots are those of a superlattice, "
            f"{round(abs(np.linalg.det(found.parent)))} times the main cell of {a:.3f} x {b:.3f} A"
        )
    return lines


def notes_of_all(found: Sequence[Indexed]) -> list[str]:
    """The notes of a pattern's lattices; what is true of a further one alone names it."""
    lines = list(found[0].notes)
    for number, other in enumerate(found[1:], 2):
        lines += [f"lattice {number}: {note}" for note in other.notes if note not in lines]
    return lines

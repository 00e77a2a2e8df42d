"""Layers that lean far: their hexagonal or square cell is foreshortened in the pattern.

Rippled layers and ones that no one oriented are tilted by 10 degrees and more. Their intensities
are then those of other cuts through the rods, and their cell is 2 % and more too short in one
direction.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dd2d_jax.lattices.indexed import Indexed
from dd2d_jax.lattices.tilts import leaning
from dd2d_jax.matching.hypotheses import Hypothesis

# The share of layers that lean, before the pattern was seen, and by how much, degrees.
_SHARE, _WIDTH = 0.03, 10.0


class Leaning(NamedTuple):
    """A pattern as that of a tilted layer.

    Attributes:
        indexed: its lattice without the tilt; `q` as measured.
        tilt: (2,) degrees about x and y, as in `dx.simulate`.
        log_p: log-probability of this reading before the intensities were compared.
    """

    indexed: Indexed
    tilt: np.ndarray
    log_p: float


def leanings(indexed: Indexed, hypothesis: Hypothesis) -> list[Leaning]:
    """The tilts, one in either sense, that make a pattern's cell hexagonal or square; or none."""
    return [
        Leaning(one, tilt, _log_p(float(np.hypot(*tilt)), hypothesis))
        for one, tilt in leaning(indexed)
    ]


def _log_p(size: float, hypothesis: Hypothesis) -> float:
    """The tilt's density over that of the shear which it is chosen to leave none of.

    A tilt t, in radians, shears by t^2 / 4: that plane is covered twice, by either sense.
    """
    relative, width = size / _WIDTH, math.radians(_WIDTH)
    leans = math.log(_SHARE) - 0.5 * relative**2 + math.log(4 / (math.radians(size) * width) ** 2)
    own, wide = hypothesis.shear, math.hypot(hypothesis.shear, hypothesis.elliptic)
    return leans - math.log((1 - hypothesis.often) / own**2 + hypothesis.often / wide**2)

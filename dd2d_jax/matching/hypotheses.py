"""How a pattern may differ from its crystal's: strain, displacements, noise, B, missed spots."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """How a query may differ from its crystal: standard deviations.

    Attributes:
        displacement: of an atom's coordinates in the plane, angstrom.
        noise: of the logarithm of an intensity.
        stretch: of the cell's isotropic strain.
        shear: of its shear.
        tilt: of the layer about x and about y, degrees.
        missing: probability that a spot is not seen, however strong.
        background: that is still in an intensity, or was subtracted too much, relative to the
            strongest spot.
        softness: of B, the same for all atoms, angstrom^2. A slope of the intensities in q^2, from
            the detector or an energy filter, is the same to the pattern.
        scatter: of each element's B about that, angstrom^2.
        softer: B that is expected beyond that of `Conditions`, angstrom^2.
        elliptic: of the shear that an elliptic camera adds. often: the share of these.
        stray: share of the patterns whose strain is `FARTHER` times as wide.
        temperature: that the intensities' log-probability is divided by, the cell's is not: spots'
            errors are not as independent as the likelihood has it.
        gradient: of intensities across the pattern: of their logarithm from the centre to the
            farthest spot, along x and along y.
        power: of counts that the intensities are, its standard deviation; None where they are
            proportional to counts. flatter: the power that is expected.
    """

    displacement: float
    noise: float
    stretch: float
    shear: float
    tilt: float = 0.0
    missing: float = 0.0
    background: float = 0.0
    softness: float = 0.0
    scatter: float = 0.0
    softer: float = 0.0
    elliptic: float = 1.0
    often: float = 0.0
    stray: float = 0.0
    temperature: float = 1.0
    gradient: float = 0.0
    power: float | None = None
    flatter: float = 1.0


# What B is expected to be beyond 0.5 angstrom^2, and how widely it differs: people measure 0 to 3,
# and detectors and energy filters make intensities fall off more or less, too.
SOFTER, SOFTNESS = 0.4, 1.0
# Elements' B differ by this, angstrom^2.
SCATTER = 0.25
# Of patterns from a microscope. Fitted, see docs/retrieval.md.
TEMPERATURE = 3.0
# Diffuse scattering and halos under the spots are never subtracted better than so.
BACKGROUND = 5e-4
# Microscopes' images are elliptic: the shear that a pattern has beyond a hypothesis's own, a
# component's standard deviation, and the share of patterns that have it. Of nine measured patterns
# without a calibration six have a shear of 0.4 to 3 %.
ELLIPTIC, OFTEN = 0.012, 0.4
# Scales are now and then farther off than was told: the gold standard of the measured MoO3 by 5 %.
STRAY, FARTHER = 0.1, 3.0
OF_MICROSCOPES = {
    "softness": SOFTNESS,
    "scatter": SCATTER,
    "softer": SOFTER,
    "elliptic": ELLIPTIC,
    "often": OFTEN,
    "stray": STRAY,
    "temperature": TEMPERATURE,
}


# Of a crystal's cell against the library's. Cells by density functional theory (PBE) are too large
# by 1.0 % with a spread of 0.6 % (graphene, h-BN, MoS2, MoSe2, WS2, WSe2, SnS2, TiS2, TaS2, NbSe2,
# PtSe2); what is common to all candidates tells none apart.
STRAIN = 0.006
# Powers of counts for which crystals are looked up where it is not known.
_POWERS = (1.0, 0.8, 0.6)


def measured(
    scale_error: float = 0.02, strain: float = STRAIN, power_error: float | None = None
) -> tuple[Hypothesis, ...]:
    """Of patterns from a microscope whose scale may be wrong by `scale_error`, evenly.

    The crystal itself, nearly so, a disturbed copy as in the level `measured`, and three with ever
    poorer intensities (a cruder structure, a thick layer, many layers). Each may have intensities
    that grow across the pattern: detectors and thick or bent layers make them so, measured patterns
    mostly by 0.1 to 0.3. `strain` is the standard deviation of the crystal's strain against the
    library's, `power_error` that of `dx.Pattern`.
    """
    # Cells are never measured better than this.
    stretch = max(math.hypot(strain, scale_error / math.sqrt(3)), 1e-3)
    # Exports for the screen flatten more often than not.
    power = {} if power_error is None else {"power": power_error, "flatter": 1 - power_error / 2}
    return tuple(
        Hypothesis(*errors[:2], stretch, *errors[2:], **OF_MICROSCOPES, **power, gradient=gradient)
        for gradient, errors in (
            (0.05, (0.005, 0.01, 0.003, 0.1, 0.02)),
            (0.2, (0.01, 0.03, 0.003, 0.3, 0.05, BACKGROUND)),
            (0.3, (0.03, 0.1, 0.003, 0.8, 0.25, BACKGROUND)),
            (0.3, (0.03, 0.2, 0.003, 0.3, 0.05, BACKGROUND)),
            (0.4, (0.06, 0.4, 0.006, 0.8, 0.25, BACKGROUND)),
            (0.6, (0.1, 1.2, 0.006, 0.8, 0.4, BACKGROUND)),
        )
    )


def powers(hypotheses: Sequence[Hypothesis]) -> tuple[float, ...]:
    """Powers of counts that the intensities may be, for which crystals are looked up."""
    return (1.0,) if hypotheses[0].power is None else _POWERS


def likely_powers(hypotheses: Sequence[Hypothesis]) -> tuple[float, ...]:
    """Powers of counts that the intensities may be: counts, and two within what is expected."""
    error = hypotheses[0].power
    return (1.0,) if error is None else tuple(max(1 - error * n, 0.3) for n in range(3))

"""The scale and the distortion of a camera from the spots of one crystal that is known."""

from __future__ import annotations

import numpy as np
from scipy import optimize
from scipy.spatial import cKDTree

from dd2d_jax.images.calibration import Calibration
from dd2d_jax.images.distortion import Mapping, spots_pattern
from dd2d_jax.images.spot_finding import SpotList, find_spots
from dd2d_jax.lattices import lattice
from dd2d_jax.util.errors import PatternError

# Hexagonal crystals that microscopes are calibrated with: a at room temperature, angstrom, of
# graphene and graphite (Trucano and Chen, Nature 258, 136 (1975)) and of boron nitride (Paszkowicz
# et al., Appl. Phys. A 75, 431 (2002)).
HEXAGONAL = {"graphene": 2.464, "graphite": 2.464, "hBN": 2.504}
# A camera stretches by less than this, and a lattice is found where this share of spots fits it.
_MOST_STRETCH, _SHARE = 0.12, 0.5
# Of the shortest reciprocal vector: spots that are farther from their places belong elsewhere.
_NEAR = 0.15


def calibrate_crystal(
    image: np.ndarray,
    material: str = "graphene",
    scale: float | None = None,
    centre: tuple[float, float] | None = None,
) -> Calibration:
    """Scale, centre, ellipticity and radial distortion from a hexagonal crystal along its axis.

    The pattern's lattice is found at a scale that makes its spots as far apart as the material's;
    then scale, stretch, centre, rotation and radial term are fitted by least squares to all spots
    on it. Every hexagonal crystal fits: that it is the material is for the user to know.

    Args:
        image: (H, W).
        material: a name of `HEXAGONAL`.
        scale: about, 1/angstrom per pixel; None takes it from the distances of the spots.
        centre: column and row of the beam, pixels; None finds it.

    Raises:
        PatternError: no spots, no lattice, or one that is not hexagonal for any usual camera.
    """
    a = HEXAGONAL[material]
    spots = find_spots(np.asarray(image, float), centre)
    offset = spots.position - spots.centre
    start = Mapping(_likely_scale(spots, a) if scale is None else scale)
    found = lattice.find(spots_pattern(start.q(offset), spots.intensity))
    basis = np.linalg.inv(found.lattice).T
    angle = np.degrees(np.arccos(basis[0] @ basis[1] / np.linalg.norm(basis, axis=1).prod()))
    ratio = np.linalg.norm(basis[1]) / np.linalg.norm(basis[0])
    if abs(angle - 60) > 15 or abs(np.log(ratio)) > 2 * _MOST_STRETCH:
        raise PatternError(
            f"the spots' lattice is not that of {material}: its reciprocal vectors are as 1 to "
            f"{ratio:.2f} at {angle:.0f} degrees, hexagonal ones as 1 to 1 at 60"
        )
    return _fit(offset, spots, start, basis, a, material)


def _likely_scale(spots: SpotList, a: float) -> float:
    """1/angstrom per pixel by the distance between neighbouring spots."""
    places = np.concatenate([spots.position, spots.centre[None]])
    distance, _ = cKDTree(places).query(places, 2)
    return 2 / np.sqrt(3) / a / float(np.median(distance[:, 1]))


def _fit(
    offset: np.ndarray,
    spots: SpotList,
    start: Mapping,
    basis: np.ndarray,
    a: float,
    material: str,
) -> Calibration:
    length, side = 2 / np.sqrt(3) / a, np.sign(np.linalg.det(basis))
    hk = np.rint(start.q(offset) @ np.linalg.inv(basis))
    unit = float(np.linalg.norm(offset, axis=1).max())

    def mapping(x: np.ndarray) -> Mapping:
        return Mapping(float(np.exp(x[0])), complex(x[1], x[2]), float(x[6] / unit**2))

    def places(x: np.ndarray, hk: np.ndarray) -> np.ndarray:
        turns = x[3] + np.array([0, side * np.pi / 3])
        return hk @ (length * np.stack([np.cos(turns), np.sin(turns)], -1))

    def misfit(x: np.ndarray, some: np.ndarray) -> np.ndarray:
        return mapping(x).q(offset[some] - x[4:6]) - places(x, hk[some])

    # Where the lattice as it was found would be, were it hexagonal.
    turn = np.angle((basis @ [1, 1j]) * np.exp([0, -1j * side * np.pi / 3]))
    turn = np.angle(np.exp(1j * turn).sum())
    size = length / np.sqrt(abs(np.linalg.det(basis)) / np.sin(np.pi / 3))
    x = np.array([np.log(start.scale * size), 0, 0, turn, 0, 0, 0])
    order = np.argsort(np.linalg.norm(offset, axis=1))
    for share in (0.3, 0.6, 1.0, 1.0):
        some = order[: max(int(share * len(order)), min(12, len(order)))]
        # A radial term, or a false spot, may have led the first guess of the indices astray.
        q = mapping(x).q(offset - x[4:6]) @ np.linalg.inv(places(x, np.eye(2)))
        hk = np.rint(q) if share > 0.3 else hk
        near = np.linalg.norm(misfit(x, some), axis=1) < (3 if share == 0.3 else 1) * _NEAR * length
        some = some[near & (hk[some] != 0).any(1)]
        if len(some) < 5:
            raise PatternError(f"fewer than five spots in the image lie on a lattice of {material}")
        for count in (6, 7) if share == 1 else (6,):
            fit = optimize.least_squares(
                lambda y, some=some: misfit(np.append(y, np.zeros(7 - len(y))), some).ravel(),
                x[:count],
                loss="soft_l1",
                f_scale=0.01 * length,
                x_scale=np.array([0.01, 0.01, 0.01, 0.01, 1, 1, 0.01])[:count],
            )
            covariance = np.linalg.pinv(fit.jac.T @ fit.jac) * 2 * fit.cost
            sigma = np.sqrt(np.diag(covariance) / max(2 * len(some) - count, 1))
            # A radial term stays out unless it is three times its uncertainty.
            if count == 6 or abs(fit.x[6]) > 3 * sigma[6]:
                x = np.append(fit.x, np.zeros(7 - count))
                sigmas = np.append(sigma, np.zeros(7 - count))
    share = len(some) / len(offset)
    made = mapping(x)
    if share < _SHARE or abs(made.stretch) > _MOST_STRETCH:
        raise PatternError(
            f"the spots are not those of {material}: {share:.0%} of them lie on its lattice, for "
            f"an ellipticity of {made.ellipticity:.0%}"
        )
    return _calibration(x, sigmas, made, spots, hk[some], length, unit, share, material)


def _calibration(
    x: np.ndarray,
    sigma: np.ndarray,
    made: Mapping,
    spots: SpotList,
    hk: np.ndarray,
    length: float,
    unit: float,
    share: float,
    material: str,
) -> Calibration:
    families = np.unique(hk[:, 0] ** 2 + hk[:, 0] * hk[:, 1] + hk[:, 1] ** 2)
    stretch = float(np.hypot(sigma[1], sigma[2]))
    return Calibration(
        material,
        tuple(int(n) for n in spots.measured.shape),
        tuple(float(v) for v in spots.centre + x[4:6]),
        made,
        {
            "scale": float(made.scale * sigma[0]),
            "centre": [float(v) for v in sigma[4:6]],
            "ellipticity": float(2 * stretch / np.sqrt(2)),
            "axis": float(min(np.degrees(stretch / 2 / max(abs(made.stretch), 1e-12)), 90.0)),
            "radial": float(sigma[6] / unit**2),
        },
        tuple(float(v) for v in length * np.sqrt(families)),
        share,
    )

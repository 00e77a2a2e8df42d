"""The scale and the distortion of a camera from the rings of a known polycrystal."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
from scipy import ndimage, optimize
from scipy.interpolate import BSpline

from dd2d_jax.images import background
from dd2d_jax.images.centre import symmetry_centre
from dd2d_jax.images.distortion import Mapping
from dd2d_jax.images.values import unmeasured
from dd2d_jax.util.errors import PatternError
from dd2d_jax.util.files import new_file
from dd2d_jax.util.limits import read_json

# Lattice parameters at room temperature, angstrom: Pearson's and the Handbook of Chemistry and
# Physics (elements), Trucano and Chen, Nature 258, 136 (1975) (graphite).
_CUBIC = {
    "Ag": ("fcc", 4.0857), "Al": ("fcc", 4.0495), "Au": ("fcc", 4.0786), "Cu": ("fcc", 3.6149),
    "Ni": ("fcc", 3.5240), "Pt": ("fcc", 3.9242), "Pd": ("fcc", 3.8907), "Fe": ("bcc", 2.8665),
    "W": ("bcc", 3.1652), "Si": ("diamond", 5.4310),
}  # fmt: skip
_GRAPHITE = (2.464, 6.711)
MATERIALS = (*_CUBIC, "graphite")
# Rings farther out than this hardly ever show, 1/angstrom.
_Q_MAX = 2.5
_SECTORS = 36
# Rings that explain less than this of a profile (correlation), or of what a smooth background
# leaves of the image (share of the variance), are those of something else.
_CORRELATION, _EXPLAINED = 0.5, 0.7


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What a ring pattern says of its camera length.

    Attributes:
        material: name, or the file that it was read from.
        shape: (H, W) of the image.
        centre: (2,) column and row of the beam in it, pixels.
        mapping: from pixels to 1/angstrom.
        sigma: standard uncertainties: "scale", "centre" (2,), "ellipticity", "axis" (degrees),
            "radial".
        rings: (R,) q of those that lie within the image, 1/angstrom.
        explained: share of the variance beside a smooth background that the rings explain.
    """

    material: str
    shape: tuple[int, int]
    centre: tuple[float, float]
    mapping: Mapping
    sigma: dict
    rings: tuple[float, ...]
    explained: float

    def as_dict(self) -> dict:
        """JSON: lengths in pixels and 1/angstrom, angles in degrees from +x towards +y (up)."""
        m = self.mapping
        return {
            "material": self.material,
            "shape": list(self.shape),
            "centre": list(self.centre),
            "scale": m.scale,
            "ellipticity": m.ellipticity,
            "axis": m.axis,
            "radial": m.radial,
            "stretch": [m.stretch.real, m.stretch.imag],
            "sigma": self.sigma,
            "rings": list(self.rings),
            "explained": self.explained,
        }

    def save(self, path: str | Path) -> None:
        """Write as JSON, moved into place once it is whole.

        Raises:
            OSError: the file cannot be written.
        """
        with new_file(path) as part:
            part.write_text(json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote.

        Raises:
            PatternError: not such a file, with the field that is wrong.
            FileNotFoundError: no such file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; make it with dd2d calibrate")
        try:
            data = read_json(path, error=PatternError)
            numbers = [data["scale"], data["radial"], *data["stretch"], *data["centre"]]
            scale, radial, real, imaginary, column, row = (float(x) for x in numbers)
            height, width = (int(x) for x in data["shape"])
            material, rings = str(data["material"]), tuple(float(x) for x in data["rings"])
            sigma, explained = dict(data["sigma"]), float(data["explained"])
        except KeyError as error:
            raise PatternError(f"{path}: no calibration, {error.args[0]!r} is missing") from error
        except PatternError:
            raise
        except (ValueError, TypeError, OverflowError) as error:
            raise PatternError(f"{path}: not a calibration made by dd2d calibrate") from error
        finite = all(math.isfinite(x) for x in (radial, real, imaginary, column, row))
        if not (finite and 1e-12 < scale < 1e12 and math.hypot(real, imaginary) < 0.5):
            raise PatternError(f"{path}: scale must be positive, stretch and radial small numbers")
        mapping = Mapping(scale, complex(real, imaginary), radial)
        return cls(material, (height, width), (column, row), mapping, sigma, rings, explained)


def ring_positions(material: str) -> tuple[np.ndarray, np.ndarray]:
    """q (R,) in 1/angstrom and intensities (R,) a pixel of a powder's rings, kinematic.

    A ring's pixels share m |F|^2 d of its lines (multiplicity m, spacing d) over 2 pi q.

    Args:
        material: a name of `MATERIALS`, or a CIF or other structure file.

    Raises:
        PatternError: neither of them.
    """
    import ase.build
    import jax.numpy as jnp

    import diffraction as dx

    if material in _CUBIC:
        structure, a = _CUBIC[material]
        atoms = ase.build.bulk(material, structure, a=a, cubic=True)
    elif material == "graphite":
        a, c = _GRAPHITE
        places = [(0, 0, 0.25), (0, 0, 0.75), (1 / 3, 2 / 3, 0.25), (2 / 3, 1 / 3, 0.75)]
        atoms = ase.Atoms("C4", scaled_positions=places, cell=[a, a, c, 90, 90, 120], pbc=True)
    elif Path(material).is_file():
        from dd2d_jax.crystals.structure_files import read_structure
        from dd2d_jax.crystals.structures import MAX_NUMBER

        atoms = read_structure(material)
        if not 1 <= atoms.numbers.min() <= atoms.numbers.max() <= MAX_NUMBER:
            raise PatternError(f"{material}: atomic numbers beyond 1 to {MAX_NUMBER}")
    else:
        names = ", ".join(MATERIALS)
        raise PatternError(f"material {material!r} is neither a file nor one of {names}")
    if atoms.cell.rank < 3:
        raise PatternError(f"{material}: a cell of three independent vectors is needed")
    reciprocal = atoms.cell.reciprocal()[:]
    most = np.floor(_Q_MAX * atoms.cell.lengths())
    # All lines and atoms are held in memory; of what is no number the comparison fails, too.
    if not np.prod(2 * most + 1) * max(len(atoms), 100) < 2e8:
        raise PatternError(f"{material}: too large a cell for a ring pattern")
    most = most.astype(int)
    hkl = np.array(list(itertools.product(*(range(-n, n + 1) for n in most))))
    q = hkl @ reciprocal
    length = np.linalg.norm(q, axis=1)
    inside = (length > 1e-6) & (length < _Q_MAX)
    order = np.argsort(length[inside])
    q, length = q[inside][order], length[inside][order]
    crystal = dx.Crystal(
        jnp.eye(2), jnp.asarray(atoms.positions), jnp.asarray(atoms.numbers)
    )  # only its atoms are used
    with np.errstate(all="ignore"):
        f = np.asarray(dx.structure_factor(crystal, jnp.asarray(q), dx.Electrons(200.0)))
    ring = np.cumsum(np.append(0, np.diff(length) > 1e-4))
    strength = np.bincount(ring, np.abs(f) ** 2 / length**2)
    place = np.bincount(ring, length) / np.bincount(ring)
    seen = strength > 1e-4 * strength.max()
    return place[seen], strength[seen] / strength.max()


def calibrate(
    image: np.ndarray,
    material: str = "Au",
    scale: float | None = None,
    centre: tuple[float, float] | None = None,
) -> Calibration:
    """Scale, centre, ellipticity and radial distortion from a ring pattern.

    The image in polar coordinates is fitted by least squares: a smooth background by radius, and
    the rings of a randomly oriented powder with kinematic intensities, one width and one B
    factor, under a `Mapping`. A radial term stays 0 unless it is three times its uncertainty.

    Args:
        image: (H, W).
        material: see `ring_positions`.
        scale: where to look for it, within 15 %, 1/angstrom per pixel; None looks everywhere.
        centre: column and row of the beam in pixels, where to begin; None takes the centre of
            symmetry.

    Raises:
        PatternError: no rings, or not those of this material.
    """
    q, strength = ring_positions(material)
    image = np.asarray(image, float)
    if image.ndim != 2 or min(image.shape) < 64:
        raise PatternError(f"an image of shape {image.shape}; at least 64 x 64 pixels are needed")
    measured = ~unmeasured(image)
    if measured.mean() < 0.5 or np.ptp(image[measured]) == 0:
        raise PatternError("there are no rings in the image: it is flat or hardly measured")
    image = np.where(measured, image, 0.0)
    start = symmetry_centre(image) if centre is None else np.asarray(centre, float)
    polar = _Polar(image, measured, start)
    scale, correlation = _coarse_scale(polar, q, strength, scale)
    if correlation < _CORRELATION:
        raise PatternError(
            f"no rings of {material} in the image: the best scale, {scale:.4g} 1/angstrom per "
            f"pixel, explains its profile with a correlation of {correlation:.2f} only"
        )
    inside = q * (1 - 0.02) < scale * polar.radius[-1]
    q, strength = q[inside], strength[inside]
    if (q > scale * polar.radius[0]).sum() < 2:
        raise PatternError(f"fewer than two rings of {material} lie within the image")
    return _fit(polar, image.shape, q, strength, scale, material)


class _Polar:
    """An image by angle and radius about a centre, relative to its trend along the radius."""

    def __init__(self, image: np.ndarray, measured: np.ndarray, centre: np.ndarray):
        height, width = image.shape
        self.centre = centre
        smooth = background.blurred(image, measured, 1.0)
        far = np.hypot(*np.maximum(centre, np.array([width, height]) - 1 - centre))
        radius = np.arange(4.0, far, max(1.0, far / 160))
        angle = np.arange(_SECTORS) * 2 * np.pi / _SECTORS
        x = centre[0] + radius * np.cos(angle[:, None])
        y = centre[1] - radius * np.sin(angle[:, None])
        at = [y, x]
        values = ndimage.map_coordinates(smooth, at, order=1, cval=0.0)
        good = ndimage.map_coordinates(measured * 1.0, at, order=1, cval=0.0) > 0.99
        # A frame around the image, and whatever is dark, is not measured.
        usual = np.array([np.median(v[g]) if g.any() else 0 for v, g in zip(values.T, good.T,
                          strict=True)])  # fmt: skip
        good &= values > 0.3 * usual
        keep = (good.mean(0) > 0.15) & (usual > 0)
        if keep.sum() < 30:
            raise PatternError("there are no rings in the image: most of it is dark")
        # From where the beam, or the beam stop's edge, has fallen off.
        profile = np.where(keep, usual, 1.0)
        steep = np.abs(np.gradient(np.log(profile), np.log(radius))) * keep * (radius < far / 4)
        edge = int(np.argmax(steep))
        gentle = np.flatnonzero(steep[edge:] < 3.5)
        keep[: edge + gentle[0] if steep[edge] > 3.5 else 0] = False
        self.radius, profile = radius[keep], profile[keep]
        if len(profile) < 30:
            raise PatternError("there are no rings in the image beside the central beam")
        self.trend = np.exp(ndimage.gaussian_filter1d(np.log(profile), len(profile) / 12))
        self.profile = profile / self.trend
        self.good = good[:, keep]
        self.values = values[:, keep] / self.trend
        self.offset = np.stack([(x - centre[0])[:, keep], (y - centre[1])[:, keep]], -1)


def _coarse_scale(
    polar: _Polar, q: np.ndarray, strength: np.ndarray, about: float | None
) -> tuple[float, float]:
    """Scale and correlation of profile and rings, both without their trends.

    Only what lies outside of the first ring's inner edge is compared: nearer to the beam the halo
    is all there is.
    """
    r = polar.radius
    wide = len(r) / 12
    data = np.log(polar.profile * polar.trend)
    strong = q[strength > 0.1]
    low, high = strong[1] / r[-1] * 1.1, strong[0] / (0.08 * r[-1])
    if about is not None:
        low, high = about * 0.85, about * 1.15
    best = (low, -1.0)
    for scale in np.exp(np.arange(np.log(low), np.log(max(high, low * 1.01)), 0.006)):
        outer = r > 0.8 * strong[0] / scale
        if outer.sum() < 0.3 * len(r):
            continue
        x = np.log(r[outer])
        trend = np.linalg.qr(np.vander((x - x.mean()) / np.ptp(x), 5))[0]
        left = data[outer] - trend @ (trend.T @ data[outer])
        for width in (1.0, 2.0, 4.0):
            width *= r[-1] / 100
            shape = np.exp(-((r[:, None] - q / scale) ** 2) / (2 * width**2)) @ (
                strength * np.exp(-0.5 * q**2)
            )
            shape = np.log(shape + 2 * ndimage.gaussian_filter1d(shape, wide) + 1e-6)[outer]
            model = shape - trend @ (trend.T @ shape)
            norm = np.linalg.norm(model) * np.linalg.norm(left)
            value = float(model @ left / norm) if norm > 0 else -1.0
            best = max(best, (float(scale), value), key=lambda x: x[1])
    return best


def _fit(
    polar: _Polar,
    shape: tuple[int, int],
    q: np.ndarray,
    strength: np.ndarray,
    scale: float,
    material: str,
) -> Calibration:
    good, r = polar.good, polar.radius
    values, offset = polar.values[good], polar.offset[good]
    radius = np.broadcast_to(r, good.shape)[good]
    trend = np.broadcast_to(polar.trend / polar.trend.mean(), good.shape)[good]
    inner = np.linspace(r[0], r[-1] + 1e-9, 8)
    knots = np.r_[[inner[0]] * 3, inner, [inner[-1]] * 3]
    smooth = np.linalg.qr(BSpline.design_matrix(radius, knots, 3).toarray())[0]
    data = values - smooth @ (smooth.T @ values)
    unit = r[-1]

    def mapping(x: np.ndarray) -> Mapping:
        return Mapping(float(scale * np.exp(x[2])), complex(x[3], x[4]), float(x[7] / unit**2))

    def misfit(x: np.ndarray) -> np.ndarray:
        found = np.linalg.norm(mapping(x).q(offset - x[:2]), axis=1)
        width, b = 0.01 * np.exp(x[5]), x[6]
        # The rings' profile, finely enough for linear interpolation.
        fine = np.arange(0, 1.02 * found.max(), width / 12)
        profile = np.exp(-((fine[:, None] - q) ** 2) / (2 * width**2)) @ (
            strength * np.exp(-b * q**2)
        )
        lines = np.interp(found, fine, profile) / trend
        # Background and the rings' strength are linear: they are solved for on the way.
        lines = lines - smooth @ (smooth.T @ lines)
        return lines * (lines @ data) / (lines @ lines + 1e-30) - data

    start = np.array([0, 0, 0, 0, 0, np.log(2 * r[-1] * scale), 0.5, 0.0])
    sizes = np.array([1, 1, 0.01, 0.01, 0.01, 0.3, 0.3, 0.01])
    fits = []
    for count in (7, 8):
        fit = optimize.least_squares(
            lambda x: misfit(np.append(x, np.zeros(8 - len(x)))),
            (fits[-1][0] if fits else start)[:count],
            x_scale=sizes[:count],
            loss="soft_l1",
            f_scale=0.1,
            max_nfev=60,
        )
        # Neighbouring values of the polar image say the same: count a ring's width once.
        alike = max(1.0, np.exp(fit.x[5]) * 0.01 / scale) * 3
        covariance = np.linalg.pinv(fit.jac.T @ fit.jac) * 2 * fit.cost / len(values) * alike
        sigma = np.sqrt(np.diag(covariance))
        x = np.append(fit.x, np.zeros(8 - count))
        fits.append((x, np.append(sigma, np.zeros(8 - count)), misfit(x)))
    x, sigma, rest = fits[1] if abs(fits[1][0][7]) > 3 * fits[1][1][7] else fits[0]
    explained = 1 - float(rest @ rest) / float(data @ data)
    if explained < _EXPLAINED or abs(x[2]) > 0.1 or np.hypot(x[3], x[4]) > 0.2:
        raise PatternError(
            f"no rings of {material} in the image: where they fit best they explain only "
            f"{max(explained, 0):.0%} of what is above the background"
        )
    made = mapping(x)
    size = max(abs(made.stretch), 1e-12)
    return Calibration(
        material,
        tuple(int(n) for n in shape),
        tuple(float(v) for v in polar.centre + x[:2]),
        made,
        {
            "scale": float(made.scale * sigma[2]),
            "centre": [float(v) for v in sigma[:2]],
            "ellipticity": float(2 * np.hypot(sigma[3], sigma[4]) / np.sqrt(2)),
            "axis": float(min(np.degrees(np.hypot(sigma[3], sigma[4]) / 2 / size), 90.0)),
            "radial": float(sigma[7] / unit**2),
        },
        tuple(float(v) for v in q),
        explained,
    )

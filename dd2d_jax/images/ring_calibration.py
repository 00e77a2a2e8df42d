"""The scale and the distortion of a camera from the rings of a known polycrystal."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from scipy import ndimage, optimize
from scipy.interpolate import BSpline

from dd2d_jax.images import background
from dd2d_jax.images.calibration import Calibration
from dd2d_jax.images.centre import symmetry_centre
from dd2d_jax.images.distortion import Mapping
from dd2d_jax.images.grey_levels import averaged_down
from dd2d_jax.images.pixel_values import unmeasured
from dd2d_jax.util.errors import PatternError

# Lattice parameters at room temperature, angstrom: Pearson's and the Handbook of Chemistry and
# Physics (elements), Trucano and Chen, Nature 258, 136 (1975) (graphite).
_CUBIC = {
    "Ag": ("fcc", 4.0857), "Al": ("fcc", 4.0495), "Au": ("fcc", 4.0786), "Cu": ("fcc", 3.6149),
    "Ni": ("fcc", 3.5240), "Pt": ("fcc", 3.9242), "Pd": ("fcc", 3.8907), "Fe": ("bcc", 2.8665),
    "W": ("bcc", 3.1652), "Si": ("diamond", 5.4310),
}  # fmt: skip
_GRAPHITE = (2.464, 6.711)
POWDERS = (*_CUBIC, "graphite")
# Rings farther out than this hardly ever show, 1/angstrom.
_Q_MAX = 2.5
_SECTORS = 36
# Rings that explain less than this of a profile (correlation), or of what a smooth background and
# noise leave of the image (share of the variance), are those of something else.
_CORRELATION, _EXPLAINED = 0.5, 0.7
# How firmly a ring's strength in a sector is held to that of a random powder, of its own weight.
_HOLD = 0.3
# Scales that are tried; steps, bounds and, where the rings leave them open, usual sizes (shift of
# the centre, pixels; stretch) of what is fitted, see `_Fit`.
_TRIED = 4
_STEPS = (1, 1, 0.01, 0.01, 0.01, 0.3, 0.3, 0.01)
_BOUNDS = (20, 20, 0.15, 0.15, 0.15, 3, 4, 0.1)
_USUAL = (2.0, 2.0, 0.02, 0.02)
# Share of the variance that noise is taken for at most, and, of the rest, that the rings of a
# powder without texture explain at least: 25 to 40 % of strongly textured rings, 3 % of spots.
_NOISE, _POWDER = 0.7, 0.1
# Angstrom^2: what is left of the rings' fall-off where the detector's own is the other way.
_LEAST_B = -2.0
# Pixels along the longer side of the image in which the rings' centre is looked for.
_SIDE = 192


def ring_positions(material: str) -> tuple[np.ndarray, np.ndarray]:
    """q (R,) in 1/angstrom and intensities (R,) a pixel of a powder's rings, kinematic.

    A ring's pixels share m |F|^2 d of its lines (multiplicity m, spacing d) over 2 pi q.

    Args:
        material: a name of `POWDERS`, or a CIF or other structure file.

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
        names = ", ".join(POWDERS)
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


def calibrate_rings(
    image: np.ndarray,
    material: str = "Au",
    scale: float | None = None,
    centre: tuple[float, float] | None = None,
) -> Calibration:
    """Scale, centre, ellipticity and radial distortion from a ring pattern.

    The image in polar coordinates is fitted by least squares: in each sector a smooth background
    by radius and the rings, with one width and one B factor, under a `Mapping`. A ring's strength
    is free in each sector, as textured films need it, and held to that of a powder of random
    orientation. A radial term stays 0 unless it is three times its uncertainty.

    Args:
        image: (H, W).
        material: see `ring_positions`.
        scale: where to look for it, within 15 %, 1/angstrom per pixel; None looks everywhere.
        centre: column and row of the beam in pixels, where to begin; None looks for it.

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
    start = _ring_centre(image, measured) if centre is None else np.asarray(centre, float)
    polar = _Polar(image, measured, start)
    scales, correlation = _coarse_scales(polar, q, strength, scale)
    if correlation < _CORRELATION:
        raise PatternError(
            f"no rings of {material} in the image: the best scale, {scales[0]:.4g} 1/angstrom per "
            f"pixel, explains its profile with a correlation of {correlation:.2f} only"
        )
    # Where rings are textured their profile may be like those of other scales.
    fits = [_Fit(polar, q, strength, scale) for scale in scales]
    fits = [fit for fit in fits if (fit.q > fit.scale * polar.radius[0]).sum() >= 2]
    if not fits:
        raise PatternError(f"fewer than two rings of {material} lie within the image")
    best = min(fits, key=lambda fit: fit.begin()) if len(fits) > 1 else fits[0]
    return best.calibration(image.shape, material)


def _ring_centre(image: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Column and row (2,) about which an image is most nearly made of rings.

    Where to begin is said by symmetry under inversion, and by the lines along which grey levels
    rise: rings' and halos' meet in their centre, wherever that is (Parthasarathy, Nature Methods
    9, 724 (2012)).
    """
    factor = -(-max(image.shape) // _SIDE)
    small, good = averaged_down(image, measured, factor)
    soft = np.sqrt(np.maximum(background.blurred(small, good, 1.5), 0))
    uneven = np.where(good, soft - background.blurred(soft, good, max(small.shape) / 25), 0)
    rows, columns = np.indices(small.shape)
    rows, columns, height = rows[good], columns[good], uneven[good]

    def contrast(place: np.ndarray) -> float:
        """Less the share of the variance that means along rings have."""
        ring = np.hypot(columns - place[0], rows - place[1]).astype(int)
        count = np.maximum(np.bincount(ring), 1)
        return -float((np.bincount(ring, height) ** 2 / count).sum())

    starts = [(symmetry_centre(image) - (factor - 1) / 2) / factor, _meeting_point(soft, good)]
    fits = []
    for start in starts:
        simplex = start + np.array([[0, 0], [4, 0], [0, 4]])
        options = {"initial_simplex": simplex, "xatol": 0.05, "fatol": 1e-6, "maxfev": 120}
        fits.append(optimize.minimize(contrast, start, method="Nelder-Mead", options=options))
    return min(fits, key=lambda fit: fit.fun).x * factor + (factor - 1) / 2


def _meeting_point(soft: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Column and row (2,) nearest to the lines along the gradients of an image (H, W)."""
    down, right = np.gradient(soft)
    size = np.hypot(down, right)
    use = ndimage.binary_erosion(good, iterations=2) & (size > 0)
    rows, columns = np.nonzero(use)
    along = np.stack([right[use], down[use]], -1) / size[use][:, None]
    across = np.eye(2) - along[:, :, None] * along[:, None]
    places = np.stack([columns, rows], -1).astype(float)
    weight, spread = size[use], max(soft.shape) / 50
    for _ in range(8):
        weighted = across * weight[:, None, None]
        point = np.linalg.solve(weighted.sum(0), np.einsum("nij,nj->i", weighted, places))
        away = np.linalg.norm(np.einsum("nij,nj->ni", across, point - places), axis=1)
        weight = size[use] / (1 + (away / spread) ** 2) ** 2
    return point


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
        # Of textured rings the median would see nothing.
        usual = (values * good).sum(0) / np.maximum(good.sum(0), 1)
        keep = (good.mean(0) > 0.15) & (usual > 0)
        if keep.sum() < 30:
            raise PatternError("there are no rings in the image: most of it is dark")
        # From where the beam, or the beam stop's edge, has fallen off.
        profile = np.where(keep, usual, 1.0)
        inner = radius < min(far / 4, min(height, width) / 6)
        steep = np.abs(np.gradient(np.log(profile), np.log(radius))) * keep * inner
        edge = int(np.argmax(steep))
        gentle = np.flatnonzero(steep[edge:] < 3.5)
        keep[: edge + gentle[0] if steep[edge] > 3.5 else 0] = False
        self.radius, profile = radius[keep], profile[keep]
        if len(profile) < 30:
            raise PatternError("there are no rings in the image except the central beam")
        self.trend = np.exp(ndimage.gaussian_filter1d(np.log(profile), len(profile) / 12))
        self.profile = profile / self.trend
        self.good = good[:, keep]
        self.values = values[:, keep] / self.trend
        # What counting adds to each value's variance; the blur is a mean over 4 pi pixels.
        rough = ndimage.convolve(image, [[1, -2, 1], [-2, 4, -2], [1, -2, 1]]) ** 2 / 36
        rough = background.blurred(rough, measured, 4.0) / (4 * np.pi)
        self.noise = ndimage.map_coordinates(rough, at, order=1)[:, keep] / self.trend**2
        self.offset = np.stack([(x - centre[0])[:, keep], (y - centre[1])[:, keep]], -1)


def _coarse_scales(
    polar: _Polar, q: np.ndarray, strength: np.ndarray, about: float | None
) -> tuple[list[float], float]:
    """The likeliest scales, best first, and the best's correlation of profile and rings.

    Both without their trends.

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
    tried = []
    for scale in np.exp(np.arange(np.log(low), np.log(max(high, low * 1.01)), 0.006)):
        outer = r > 0.8 * strong[0] / scale
        if outer.sum() < 0.3 * len(r):
            continue
        x = np.log(r[outer])
        trend = np.linalg.qr(np.vander((x - x.mean()) / np.ptp(x), 5))[0]
        left = data[outer] - trend @ (trend.T @ data[outer])
        values = [-1.0]
        for width in (1.0, 2.0, 4.0):
            width *= r[-1] / 100
            shape = np.exp(-((r[:, None] - q / scale) ** 2) / (2 * width**2)) @ (
                strength * np.exp(-0.5 * q**2)
            )
            shape = np.log(shape + 2 * ndimage.gaussian_filter1d(shape, wide) + 1e-6)[outer]
            model = shape - trend @ (trend.T @ shape)
            norm = np.linalg.norm(model) * np.linalg.norm(left)
            values.append(float(model @ left / norm) if norm > 0 else -1.0)
        tried.append((max(values), float(scale)))
    if not tried:
        return [float(low)], -1.0
    # The best first, without those that are the same within some steps.
    found: list[float] = []
    for _, scale in sorted(tried, reverse=True):
        if all(abs(np.log(scale / other)) > 0.03 for other in found):
            found.append(scale)
    return found[:_TRIED], max(tried)[0]


class _Fit:
    """A camera fitted to a polar image, beginning at one scale.

    The parameters x: shift of the centre (pixels), logarithm of the scale, stretch, logarithm of
    the rings' width in 0.01/angstrom, B, and the radial term at the rim.
    """

    def __init__(self, polar: _Polar, q: np.ndarray, strength: np.ndarray, scale: float):
        inside = q * (1 - 0.02) < scale * polar.radius[-1]
        self.q, self.strength = q[inside], strength[inside]
        self.polar, self.scale, self.sectors = polar, scale, _Sectors(polar)
        self.start = np.array([0, 0, 0, 0, 0, np.log(2 * polar.radius[-1] * scale), 0.5, 0.0])
        # Neighbouring values of the polar image say the same, so that a guess counts for more.
        self.guess = 2 * np.sqrt(polar.noise[polar.good].mean()) / np.array(_USUAL)

    def mapping(self, x: np.ndarray) -> Mapping:
        radial = x[7] / self.polar.radius[-1] ** 2
        return Mapping(float(self.scale * np.exp(x[2])), complex(x[3], x[4]), float(radial))

    def rings(self, x: np.ndarray) -> np.ndarray:
        """The rings (S, N, R) of a powder of random orientation in the polar image."""
        offset = (self.polar.offset - x[:2]).reshape(-1, 2)
        found = np.linalg.norm(self.mapping(x).q(offset), axis=1).reshape(self.polar.good.shape)
        lines = np.exp(-((found[..., None] - self.q) ** 2) / (2 * (0.01 * np.exp(x[5])) ** 2))
        return lines * (self.strength * np.exp(-x[6] * self.q**2)) / self.polar.trend[:, None]

    def misfit(self, x: np.ndarray) -> np.ndarray:
        x = np.append(x, np.zeros(8 - len(x)))
        # Where a quarter of the rings is all there is, shift and stretch would do the same.
        return np.append(self.sectors.left_by(self.rings(x)), self.guess * x[[0, 1, 3, 4]])

    def solve(self, x: np.ndarray, steps: int) -> optimize.OptimizeResult:
        count = len(x)
        return optimize.least_squares(
            self.misfit,
            x,
            x_scale=np.array(_STEPS)[:count],
            bounds=((self.start - _BOUNDS)[:count], (self.start + _BOUNDS)[:count]),
            loss="soft_l1",
            f_scale=0.1,
            max_nfev=steps,
        )

    def begin(self) -> float:
        """Less than what another scale leaves, if this is the right one."""
        fit = self.solve(self.start[:7], 8)
        self.start[:7] = fit.x
        return float(fit.cost)

    def calibration(self, shape: tuple[int, int], material: str) -> Calibration:
        polar, fits = self.polar, []
        for count in (7, 8):
            begin = fits[-1][0] if fits else self.start
            fit = self.solve(begin[:count], 60)
            # Neighbouring values of the polar image say the same: count a ring's width once.
            alike = max(1.0, np.exp(fit.x[5]) * 0.01 / self.scale) * 4
            # Each sector's background and rings took their share of the values.
            left = max(polar.good.sum() - polar.good.shape[0] * (len(self.q) + 10), 100)
            noise = 2 * fit.cost / left * alike
            sigma = np.sqrt(np.diag(np.linalg.pinv(fit.jac.T @ fit.jac)) * noise)
            fits.append([np.append(x, np.zeros(8 - count)) for x in (fit.x, sigma)])
        x, sigma = fits[1] if abs(fits[1][0][7]) > 3 * fits[1][1][7] else fits[0]
        rest = self.misfit(x)[:-4]
        whole = self.sectors.variance
        noise = min(float(polar.noise[polar.good].sum()), _NOISE * whole)
        explained = (whole - float(rest @ rest)) / (whole - noise)
        # The spots of a lattice, too, lie on rings that are strong in some sectors.
        spotty = self.sectors.powder_share(self.rings(x)) < _POWDER * (1 - noise / whole)
        if spotty:
            raise PatternError(f"no rings of {material} in the image: it shows spots")
        # No powder's outer rings are that much stronger than its inner ones.
        far = abs(x[2]) > 0.1 or np.hypot(x[3], x[4]) > 0.2 or x[6] < _LEAST_B
        if explained < _EXPLAINED or far:
            raise PatternError(
                f"no rings of {material} in the image: where they fit best they explain only "
                f"{max(explained, 0):.0%} of what is above background and noise"
            )
        made = self.mapping(x)
        stretch = float(np.hypot(sigma[3], sigma[4]))
        axis = np.degrees(stretch / 2 / max(abs(made.stretch), 1e-12))
        return Calibration(
            material,
            tuple(int(n) for n in shape),
            tuple(float(v) for v in polar.centre + x[:2]),
            made,
            {
                "scale": float(made.scale * sigma[2]),
                "centre": [float(v) for v in sigma[:2]],
                "ellipticity": float(2 * stretch / np.sqrt(2)),
                "axis": float(min(axis, 90.0)),
                "radial": float(sigma[7] / polar.radius[-1] ** 2),
            },
            tuple(float(v) for v in self.q),
            min(explained, 1.0),
        )


class _Sectors:
    """Least squares of background and rings in each sector of a polar image (S, N)."""

    def __init__(self, polar: _Polar):
        r, self.good = polar.radius, polar.good
        # Halos are steep near the beam.
        inner = np.geomspace(r[0], r[-1] + 1e-6, 8)
        knots = np.r_[[inner[0]] * 3, inner, [inner[-1]] * 3]
        basis = BSpline.design_matrix(r, knots, 3).toarray() * self.good[..., None]
        # Where a sector has nothing of a spline's reach, the others must not suffer.
        self.smooth = np.linalg.svd(basis, full_matrices=False)[0]
        self.data = self._above(polar.values[..., None])[..., 0]
        self.variance = float((self.data**2).sum())

    def _above(self, values: np.ndarray) -> np.ndarray:
        """What the background leaves of values (S, N, R); 0 where not measured."""
        values = values * self.good[..., None]
        # Products of matrices, several times as fast here as np.einsum.
        part = self.smooth.swapaxes(1, 2) @ values
        return (values - self.smooth @ part) * self.good[..., None]

    def left_by(self, lines: np.ndarray) -> np.ndarray:
        """What rings (S, N, R) of a powder leave of the data, each as strong as it has to be."""
        lines = self._above(lines)
        common = self._common(lines.sum(-1))
        normal = lines.swapaxes(1, 2) @ lines
        hold = _HOLD * np.einsum("srr->r", normal) / len(normal) + 1e-12
        seen = (self.data[:, None] @ lines)[:, 0] + hold * common
        share = np.linalg.solve(normal + np.eye(len(hold)) * hold, seen[..., None])[..., 0]
        model = (lines @ np.maximum(share, 0)[..., None])[..., 0]
        return (model - self.data)[self.good]

    def powder_share(self, lines: np.ndarray) -> float:
        """Share of the variance that rings (S, N, R) explain which are alike in all sectors."""
        whole = self._above(lines).sum(-1)
        rest = self._common(whole) * whole - self.data
        return 1 - float((rest**2).sum()) / self.variance

    def _common(self, whole: np.ndarray) -> float:
        """How strong the rings of a powder are, summed (S, N)."""
        return max(float((whole * self.data).sum() / ((whole**2).sum() + 1e-30)), 0.0)

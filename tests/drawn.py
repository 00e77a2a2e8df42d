"""A small diffraction image whose spots are known, and cameras that take it."""

import numpy as np
from scipy import ndimage


def lattice(
    shape=(256, 256), centre=(128.4, 126.7), spacing=27.0, turn=17.0, seed=0
) -> tuple[np.ndarray, np.ndarray]:
    """Places (K, 2), column and row, of a hexagonal lattice and strengths, Friedel mates alike."""
    angle = np.radians(turn + np.array([0.0, 60.0]))
    basis = spacing * np.stack([np.cos(angle), np.sin(angle)], 1)
    hk = np.stack(np.meshgrid(*(np.arange(-12, 13),) * 2), -1).reshape(-1, 2)
    hk = hk[(hk != 0).any(1)]
    upper = np.where((hk[:, 0] > 0) | ((hk[:, 0] == 0) & (hk[:, 1] > 0)), 1, -1)
    pair = (hk * upper[:, None]) @ [25, 1]
    strength = np.random.default_rng(seed).lognormal(0, 0.7, 1000)[pair % 1000]
    offset = hk @ basis
    strength = strength * np.exp(-((np.linalg.norm(offset, axis=1) / (4 * spacing)) ** 2))
    places = offset + centre
    inside = ((places > 6) & (places < np.array(shape[::-1]) - 7)).all(1)
    return places[inside], strength[inside]


def expected(
    places, strength, shape=(256, 256), centre=(128.4, 126.7), width=1.6, peak=300.0, halo=20.0
) -> np.ndarray:
    """Electrons a pixel (H, W): spots of `peak` at strength 1, a halo and two counts anywhere."""
    rows, columns = np.indices(shape).astype(float)
    image = 2 + halo * np.exp(-np.hypot(columns - centre[0], rows - centre[1]) / 40)
    for (x, y), s in zip(places, strength, strict=True):
        image += s * peak * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * width**2))
    return image


def discs(places, strength, radius, shape=(256, 256), centre=(128.4, 126.7), peak=20.0):
    """Electrons a pixel (H, W) of a convergent beam: flat discs, that of the beam the brightest."""
    rows, columns = np.indices(shape).astype(float)
    image = np.full(shape, 0.1)
    for (x, y), s in zip([*places, centre], [*strength, 30.0], strict=True):
        image += s * peak / (1 + np.exp((np.hypot(columns - x, rows - y) - radius) / 0.5))
    return image


def counted(image, seed=1) -> np.ndarray:
    """As a counting camera has it."""
    return np.random.default_rng(seed).poisson(image).astype(float)


def scintillated(image, seed=1, gain=20.0, blur=1.0, offset=100.0, readout=1.5) -> np.ndarray:
    """As a scintillator and a CCD have it: each electron a blob, gain, offset, readout noise."""
    rng = np.random.default_rng(seed)
    blobs = ndimage.gaussian_filter(gain * rng.poisson(image).astype(float), blur)
    return np.rint(blobs + offset + rng.normal(0, readout, image.shape))


def matched(found, places) -> tuple[int, int]:
    """How many true places have no spot within 1.5 pixels, and how many spots no place."""
    distance = np.linalg.norm(found[:, None] - places[None], axis=-1)
    return int((distance.min(0) > 1.5).sum()), int((distance.min(1) > 1.5).sum())

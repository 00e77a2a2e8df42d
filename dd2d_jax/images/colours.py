"""Colour pictures: grey levels behind coloured marks, and numbers behind false colours."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

# Channels that differ by more, of 255, are a colour; JPEG makes smaller differences of grey.
_COLOURED = 40
# A picture with a smaller share of coloured pixels is grey with coloured marks on it. Their edges
# blend into it: so many pixels about each are left out as well.
_MARKS, _EDGE = 0.1, 2
# Colours lie this near to a map's, of 255, but for a share of them: marks, and what a lossy file or
# another size of the picture blends. So many pixels tell.
_NEAR, _OTHER, _SAMPLE = 16.0, 0.02, 4096
# Maps whose numbers can be told from their colours: each has one place on its line.
_MAPS = (
    "viridis", "inferno", "magma", "plasma", "cividis", "hot", "afmhot", "gnuplot", "gnuplot2",
    "CMRmap", "jet", "turbo", "cubehelix", "copper", "bone", "pink", "Blues_r", "YlGnBu_r",
    "YlOrRd_r", "Spectral_r", "RdYlBu_r", "rainbow", "nipy_spectral", "flame", "thermal",
)  # fmt: skip
# Of other programs: pyqtgraph's, by places and colours.
_OTHERS = {
    "flame": (
        (0.0, 0.2, 0.5, 0.8, 1.0),
        ((0, 0, 0), (7, 0, 220), (236, 0, 134), (246, 246, 0), (255, 255, 255)),
    ),
    "thermal": (
        (0.0, 1 / 3, 2 / 3, 1.0), ((0, 0, 0), (185, 0, 0), (255, 220, 0), (255, 255, 255))
    ),
}  # fmt: skip


def grey(pixels: np.ndarray) -> tuple[np.ndarray, str]:
    """What a colour picture (H, W, 3) shows, (H, W), and what a person should know of it.

    Of grey pictures their level, NaN under coloured marks; of false colours, where their map is a
    usual one, places on it from 0 to 255; of others the mean of the channels.
    """
    pixels = np.asarray(pixels, float)
    mean = pixels.mean(-1)
    top = pixels.max()
    if top <= 0:
        return mean, ""
    spread = np.ptp(pixels, -1) * (255 / top)
    coloured = spread > _COLOURED
    if not coloured.any():
        return mean, ""
    name, place = _on_map(pixels * (255 / top), coloured)
    if name:
        return place, f"the image is in false colours: numbers were read from the colour map {name}"
    if coloured.mean() < _MARKS:
        marks = ndimage.binary_dilation(coloured, iterations=_EDGE)
        return np.where(marks, np.nan, mean), "coloured marks on the image were left out"
    return mean, "the image is in colour: the mean of red, green and blue was taken"


def _on_map(pixels: np.ndarray, coloured: np.ndarray) -> tuple[str, np.ndarray]:
    """The map that a picture's colours (H, W, 3) lie on and their places there; "" for none.

    Both those that are `coloured` (H, W) and those that are not black: most of a picture may be.
    """
    flat = pixels.reshape(-1, 3)
    random = np.random.default_rng(0)
    samples = [
        flat[random.permutation(np.flatnonzero(some))[:_SAMPLE]]
        for some in (coloured, pixels.max(-1) > _COLOURED)
    ]
    best, share = "", _OTHER
    for name in _MAPS:
        line = cKDTree(_line(name))
        far = max(float((line.query(one)[0] > _NEAR).mean()) for one in samples)
        if far < share:
            best, share = name, far
    if not best:
        return "", pixels[..., 0]
    away, place = cKDTree(_line(best)).query(flat)
    return best, np.where(away > _NEAR, np.nan, place).reshape(pixels.shape[:2])


def _line(name: str) -> np.ndarray:
    """Colours (256, 3) of a map, 0 to 255."""
    if name in _OTHERS:
        at, colours = _OTHERS[name]
        return np.stack([np.interp(np.arange(256) / 255, at, c) for c in np.transpose(colours)], 1)
    from matplotlib import colormaps

    return 255 * colormaps[name](np.linspace(0, 1, 256))[:, :3]

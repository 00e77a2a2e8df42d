"""A measured image as grey levels that show strong and weak spots alike."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage

if TYPE_CHECKING:
    from dd2d_jax.images.measurement import Measured

# The longer side of a picture in a page, pixels.
_SIDE = 900


def grey(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W) as levels from 0 to 1 on a logarithmic scale, rid of the darkest and brightest.

    Pixels that the file does not have (NaN) are black.
    """
    known = np.isfinite(pixels)
    if not known.any():
        return np.zeros(pixels.shape)
    some = pixels[known]
    low, middle, high = np.quantile(some, [0.01, 0.1, 0.9])
    step = max(high - middle, 1e-4 * np.ptp(some), 1e-12) / 3
    level = np.log1p(np.maximum(np.where(known, pixels, low) - low, 0) / step)
    bottom, top = np.quantile(level[known], [0.02, 0.9995])
    return np.clip((level - bottom) / max(top - bottom, 1e-12), 0, 1)


def around_spots(measured: Measured) -> tuple[int, int, int, int]:
    """First column and row, and those after the last, of the part that holds every spot."""
    spots = measured.spots
    reach = 1.12 * np.linalg.norm(spots.position - spots.centre, axis=1).max()
    rows, columns = measured.image.pixels.shape
    x, y = spots.centre
    return (
        max(int(x - reach), 0), max(int(y - reach), 0),
        min(int(x + reach) + 2, columns), min(int(y + reach) + 2, rows),
    )  # fmt: skip


def embedded(measured: Measured, box: tuple[int, int, int, int]) -> tuple[str, str | None]:
    """Data links of the image within a box (JPEG), and of what was not measured there (PNG).

    The second is None where everything was measured.
    """
    left, top, right, bottom = box
    shown = grey(measured.image.pixels[top:bottom, left:right])
    hidden = ~measured.spots.measured[top:bottom, left:right]
    zoom = min(1.0, _SIDE / max(shown.shape))
    if zoom < 1:
        # Weak spots must not fall between the pixels that are kept.
        shown = ndimage.zoom(ndimage.gaussian_filter(shown, 0.4 / zoom), zoom, order=1)
        hidden = ndimage.zoom(hidden.astype(np.uint8), zoom, order=0) > 0
    levels = (255 * shown + 0.5).astype(np.uint8)
    image = _link(levels, "L", "jpeg", quality=85)
    if not hidden.any():
        return image, None
    paint = np.zeros((*hidden.shape, 2), np.uint8)
    paint[..., 0], paint[..., 1] = 128, 110 * hidden
    return image, _link(paint, "LA", "png", optimize=True)


def _link(pixels: np.ndarray, mode: str, kind: str, **options) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"

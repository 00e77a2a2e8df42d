"""The picture in a figure: what lies on a white page, without axes, letters and colour bar."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

# A page is at least so bright, of 255; a lossy file makes some of it darker.
_WHITE = 250
# It takes this share of a figure at least, and the picture that of it.
_PAGE, _PICTURE = 0.05, 0.08
# A picture fills this share of the rectangle that it and its tick marks span, and its rows and
# columns that share of their lengths, which tick marks do not.
_FILLS, _FULL = 0.9, 0.5
# At its edges a frame is drawn: this share of a side, and so many pixels more.
_EDGE, _MORE = 0.006, 1


def picture(levels: np.ndarray) -> tuple[slice, slice] | None:
    """Rows and columns of the largest picture on a white page; None without a page.

    Args:
        levels: (H, W) of grey or (H, W, 3) of red, green and blue, 0 to 255.
    """
    white = levels.min(-1) >= _WHITE if levels.ndim == 3 else levels >= _WHITE
    which, _ = ndimage.label(white)
    rim = np.concatenate([which[0], which[-1], which[:, 0], which[:, -1]])
    page = np.isin(which, np.unique(rim[rim > 0]))
    if page.mean() < _PAGE or page.all():
        return None
    areas, _ = ndimage.label(~page, np.ones((3, 3)))
    largest = int(np.bincount(areas.ravel())[1:].argmax())
    part = ndimage.find_objects(areas)[largest]
    own = areas[part] == largest + 1
    if own.mean() < _FILLS or own.size < _PICTURE * page.size:
        return None
    sides = []
    for axis, lines in ((1, part[0]), (0, part[1])):
        full = np.flatnonzero(own.mean(axis) > _FULL)
        cut = _MORE + int(np.ceil(_EDGE * full.size))
        sides.append(slice(lines.start + full[cut], lines.start + full[-cut]))
    return sides[0], sides[1]

"""One picture of every step from an image to its lattice, for a person to judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

from dd2d_jax.crystals.cell import cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from dd2d_jax.images.measurement import Measured
    from dd2d_jax.lattices.indexed import Indexed

# Okabe and Ito's colours, which people tell apart whatever colours they see.
_FOUND, _DOUBTFUL, _REJECTED, _MISSED = "#56b4e9", "#f0e442", "#d55e00", "#cc79a7"
_LATTICES = ("#0072b2", "#009e73", "#e69f00", "#cc79a7")


def plot_steps(
    measured: Measured,
    found: Indexed | None = None,
    note: str = "",
    others: Sequence[Indexed] = (),
) -> Figure:
    """Image, spots, radial profile and lattice of a measured pattern.

    Args:
        measured: from `measure.measure`.
        found: the lattice, whose places without a spot are shown; None where there is none.
        note: a line for the title, such as why there is no lattice.
        others: further lattices of the pattern.
    """
    figure = Figure(figsize=(13, 13), layout="constrained")
    axes = figure.subplots(2, 2)
    _image(axes[0, 0], measured)
    _spots(axes[0, 1], measured, found)
    _profile(axes[1, 0], measured)
    _lattice(axes[1, 1], measured, [*([] if found is None else [found]), *others])
    if note:
        figure.suptitle(note, fontsize=11, parse_math=False, wrap=True)
    return figure


def missed(measured: Measured, found: Indexed) -> np.ndarray:
    """Column and row (M, 2) of the lattice's places on the image where no spot was found.

    Places that are not measured, and those farther out than the outermost spot, are left out.
    """
    spots = measured.spots
    reciprocal = np.linalg.inv(found.lattice).T
    q_max = np.linalg.norm(found.q, axis=1).max()
    most = np.ceil(q_max * np.linalg.norm(found.lattice, axis=1)).astype(int)
    grid = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in most)), -1).reshape(-1, 2)
    q = grid @ reciprocal
    length = np.linalg.norm(q, axis=1)
    q = q[(length > 0) & (length <= q_max)]
    seen = found.warp.measured(q)
    place = spots.centre + measured.mapping.pixels(seen)
    pixel = np.rint(place[:, ::-1]).astype(int)
    inside = ((pixel >= 0) & (pixel < np.array(spots.measured.shape))).all(1)
    inside[inside] &= spots.measured[tuple(pixel[inside].T)]
    near = 0.25 * min(np.linalg.norm(reciprocal, axis=1))
    own = np.asarray(measured.pattern.q, float)
    away = np.linalg.norm(seen[:, None] - own[None], axis=-1).min(1)
    return place[inside & (away > near)]


def _image(ax: Axes, measured: Measured) -> None:
    spots, pixels = measured.spots, measured.image.pixels
    show(ax, logarithm(pixels), "magma")
    hidden = np.ma.masked_where(spots.measured, np.ones(pixels.shape))
    ax.imshow(hidden, cmap="winter", alpha=0.45, interpolation="nearest")
    ax.plot(*spots.centre, "+", color="white", markersize=16, markeredgewidth=1.5)
    column, row = spots.centre
    ax.set_title(f"image, centre ({column:.1f}, {row:.1f}), blue: not measured", fontsize=10)


def _spots(ax: Axes, measured: Measured, found: Indexed | None) -> None:
    spots = measured.spots
    residual = ndimage.gaussian_filter(spots.residual, 0.7 * spots.width)
    show(ax, np.arcsinh(residual / (3 * step(residual))), "gray")
    # Points, around what is bright of a spot in a picture five inches wide.
    size = max(8.0, 12 * spots.width / max(spots.measured.shape) * 5 * 72)
    names = [
        ("spot", spots.position[~spots.saturated], "o", _FOUND),
        ("saturated", spots.position[spots.saturated], "o", _DOUBTFUL),
        ("rejected: at beam, stop or edge", spots.rejected, "x", _REJECTED),
    ]
    if found is not None:
        names.append(("lattice, no spot", missed(measured, found), "s", _MISSED))
    for name, places, marker, color in names:
        if len(places):
            paint = {"color": color} if marker == "x" else {"fc": "none", "ec": color}
            label = f"{name} ({len(places)})"
            ax.scatter(*places.T, s=size**2, marker=marker, linewidths=0.9, label=label, **paint)
    ax.legend(loc="lower left", fontsize=8, framealpha=0.8, markerscale=0.4)
    ax.set_title("background subtracted", fontsize=10)


def _profile(ax: Axes, measured: Measured) -> None:
    spots = measured.spots
    rows, columns = np.indices(spots.measured.shape)
    radius = np.hypot(columns - spots.centre[0], rows - spots.centre[1])
    rings = radius.astype(int)[spots.measured]
    count = np.maximum(np.bincount(rings), 1)
    level = np.bincount(rings, spots.level[spots.measured]) / count
    mean = level + np.bincount(rings, spots.residual[spots.measured]) / count
    some = np.bincount(rings) > 0
    at = np.flatnonzero(some) + 0.5
    ax.plot(at, mean[some], color="#444444", lw=1.0, label="mean")
    ax.plot(at, level[some], color="#d55e00", lw=1.4, label="background")
    low = max(np.quantile(level[some], 0.02), mean[some].max() * 1e-6, 1e-12)
    ax.set_yscale("log")
    ax.set_ylim(0.5 * low, 2 * mean[some].max())
    away = np.linalg.norm(spots.position - spots.centre, axis=1)
    ax.plot(away, np.full(len(away), 0.7 * low), "|", color="#0072b2", label="spots")
    ax.set_xlabel("radius (pixels)")
    ax.set_ylabel("counts per pixel")
    ax.legend(fontsize=8)
    ax.set_title(f"radial profile, spots {spots.width:.1f} pixels wide (sigma)", fontsize=10)


def _lattice(ax: Axes, measured: Measured, found: Sequence[Indexed]) -> None:
    q = np.asarray(measured.pattern.q, float)
    root = np.sqrt(np.asarray(measured.pattern.intensity, float))
    # An image may be refused for having no spot at all.
    limit = 1.08 * np.linalg.norm(q, axis=1).max(initial=1e-3)
    area = 4 + 120 * root / root.max(initial=1e-30)
    left = np.ones(len(q), bool)
    titles = []
    for number, one in enumerate(found):
        color = _LATTICES[number % len(_LATTICES)]
        # Where they were measured, a distortion or a wrong centre included.
        for vector in np.linalg.inv(one.lattice).T:
            tip, origin = one.warp.measured(np.stack([vector, 0 * vector]))
            ax.annotate("", tip, origin, arrowprops={"arrowstyle": "->", "color": color})
        mine = np.zeros(len(q), bool)
        mine[one.spots] = True
        weak = np.zeros(len(q), bool)
        if one.satellites is not None:
            weak[one.spots[one.satellites]] = True
        name = "on the lattice" if len(found) == 1 else f"on lattice {number + 1}"
        ax.scatter(*q[mine & ~weak].T, s=area[mine & ~weak], color=color,
                   label=f"{name} ({(mine & ~weak).sum()})")  # fmt: skip
        if weak.any():
            ax.scatter(*q[weak].T, s=area[weak] + 8, fc="none", ec=color,
                       label=f"satellites ({weak.sum()})")  # fmt: skip
        left &= ~mine
        ideal = one.warp.measured(one.hk @ np.linalg.inv(one.lattice).T)
        ax.scatter(*ideal.T, s=14, marker="+", color="black", linewidths=0.6)
        a, b, gamma = cell(one.lattice)
        titles.append(f"a = {a:.3f} A, b = {b:.3f} A, gamma = {gamma:.1f} degrees")
    if left.any():
        ax.scatter(*q[left].T, s=area[left], color="#d55e00", label=f"not on it ({left.sum()})")
    ax.plot(0, 0, "+", color="black", markersize=9)
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    ax.set_xlabel("q$_x$ (1/Å)")
    ax.set_ylabel("q$_y$ (1/Å)")
    ax.legend(fontsize=8, loc="upper right")
    ax.set_title("\n".join(titles) or "no lattice", fontsize=10)


def show(ax: Axes, values: np.ndarray, colors: str) -> None:
    """An image with pixels as coordinates, its brightest spots cut off."""
    ax.imshow(values, cmap=colors, vmax=np.quantile(values, 0.998) or None)
    ax.set_xlabel("column (pixels)")
    ax.set_ylabel("row (pixels)")


def logarithm(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W) so that strong and weak spots are both seen."""
    pixels = np.nan_to_num(pixels)
    return np.log1p(np.maximum(pixels - np.quantile(pixels, 0.01), 0) / step(pixels))


def step(values: np.ndarray) -> float:
    """A small difference of the values, for logarithms."""
    spread = np.quantile(values, 0.9) - np.quantile(values, 0.1)
    return float(max(spread, 1e-4 * np.ptp(values), 1e-12)) / 3

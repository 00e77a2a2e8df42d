"""Figures of patterns, structures and what was found.

Figures are made without pyplot: nothing global changes, no window opens, any backend will do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase.data import chemical_symbols
from ase.data.colors import jmol_colors
from matplotlib import rcParams
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Polygon
from matplotlib.patheffects import withStroke

from dd2d_jax.crystals.cell import cell
from dd2d_jax.lattices.lattice import check
from dd2d_jax.reports.comparison import Difference, difference, pixels
from dd2d_jax.reports.image_view import around_spots, grey
from dd2d_jax.reports.layer_view import View, common_window, side_view, top_view
from dd2d_jax.util.files import new_file
from dd2d_jax.util.text import change, percent, printable

if TYPE_CHECKING:
    import ase
    from matplotlib.axes import Axes

    import diffraction as dx
    from dd2d_jax.images.measurement import Measured
    from dd2d_jax.matching.found import Candidate, Found

DARK = "#0d1321"
_FAINT = "#5b6780"
# Okabe and Ito's colours, which people tell apart whatever colours they see.
MEASURED, STRONGER, WEAKER = "#56b4e9", "#0072b2", "#d55e00"
# Largest spot's diameter as a share of the axes' width.
_SPOT = 0.05
_CANDIDATES = 6


def plot_pattern(pattern: dx.Pattern, ax: Axes | None = None, title: str | None = None) -> Figure:
    """A single pattern: discs whose area grows with the amplitude, sqrt(intensity).

    Args:
        pattern: q in 1/angstrom.
        ax: axes to draw on; None makes a figure.
        title: None for none.

    Returns:
        The figure that holds the axes.

    Raises:
        PatternError: see `lattice.check`.
    """
    q, intensity = check(pattern)
    ax = _axes((5, 5)) if ax is None else ax
    limit = 1.08 * np.linalg.norm(q, axis=1).max()
    _pattern_axes(ax, limit)
    _discs(ax, q, intensity, limit, MEASURED)
    ax.plot(0, 0, "+", color=_FAINT, markersize=8)
    if title:
        ax.set_title(title, fontsize=11, parse_math=False)
    return ax.figure


def plot_structure(
    atoms: ase.Atoms,
    ax: Axes | None = None,
    width: float | None = None,
    view: str = "top",
    height: float | None = None,
) -> Figure:
    """A window on a layer, as balls and bonds, with one cell outlined.

    Args:
        atoms: a layer, a1 and a2 in the plane (x, y); lengths in angstrom.
        ax: axes to draw on; None makes a figure.
        width: of the window, angstrom; None takes one that shows a whole cell.
        view: "top" along -z, or "side" along y.
        height: of the window from the side, angstrom; None takes one that shows the whole layer.

    Returns:
        The figure that holds the axes.

    Raises:
        ValueError: another view.
    """
    if view not in ("top", "side"):
        raise ValueError(f"view must be 'top' or 'side', got {view!r}")
    ax = _axes((4, 4)) if ax is None else ax
    seen = top_view(atoms, width) if view == "top" else side_view(atoms, width, height)
    _balls(ax, seen)
    if len(seen.cell):
        ink = rcParams["text.color"]
        ax.add_patch(Polygon(seen.cell, fill=False, ec=ink, lw=1.3, ls="--", zorder=20))
    ax.set_xlim(-seen.width / 2, seen.width / 2)
    ax.set_ylim(-seen.height / 2, seen.height / 2)
    ax.set_aspect("equal")
    ax.axis("off")
    if view == "top":
        _elements(ax, atoms.numbers)
    return ax.figure


def plot_pattern_and_structure(crystal: dx.Crystal, pattern: dx.Pattern) -> Figure:
    """A single crystal from above and, at the same scale, from the side, beside its pattern."""
    atoms = crystal.to_ase()
    window, legend = 3.5, 0.4
    width, thickness = common_window([atoms])
    side = float(np.clip(window * thickness / width, 0.8, window))
    height = window + legend + side + 0.25
    figure = Figure(figsize=(window + height + 0.75, height))
    plot_structure(atoms, axes_at(figure, 0.1, side + legend + 0.1, window, window), width)
    below = axes_at(figure, 0.1, 0.1, window, side)
    plot_structure(atoms, below, width, "side", width * side / window)
    square = height - 0.95
    title = _formula(atoms.get_chemical_formula("metal"))
    plot_pattern(pattern, axes_at(figure, window + 1.1, 0.55, square, square), title)
    return figure


def plot_found(found: Found, measured: Measured | None = None) -> Figure:
    """The pattern, and of the first six candidates the structure and what differs.

    Args:
        found: from `retrieve`.
        measured: the image that the pattern was seen in; None draws the spots alone.
    """
    shown = found.candidates[:_CANDIDATES]
    columns = 2 if len(shown) == 4 else min(3, max(len(shown), 1))
    rows = -(-max(len(shown), 1) // columns)
    square, panel, query, top = 2.15, (4.65, 3.0), 4.0, 0.6
    foot = 0.6
    height = max(rows * panel[1] + foot + 0.1, query + 1.2)
    figure = Figure(figsize=(query + 1.2 + columns * panel[0], height))
    _plot_query(found, measured, axes_at(figure, 0.8, (height - query) / 2, query, query))
    width = common_window([candidate.structure for candidate in shown])[0]
    differences = [difference(candidate) for candidate in shown]
    most = max([1e-6, *(np.abs(one.amplitude).max(initial=0) for one in differences)])
    spare = (height - foot - rows * panel[1]) / 2
    for number, candidate in enumerate(shown):
        x = query + 1.2 + number % columns * panel[0]
        y = height - spare - (number // columns + 1) * panel[1] + panel[1] - top - square
        plot_structure(candidate.structure, axes_at(figure, x, y, square, square), width)
        beside = axes_at(figure, x + square + 0.1, y, square, square)
        _plot_difference(differences[number], most, beside)
        across, full = figure.get_size_inches()
        figure.text(x / across, (y + square + 0.08) / full, _heading(candidate, number + 1),
                    fontsize=10, va="bottom", parse_math=False)  # fmt: skip
    if shown:
        _difference_legend(figure, most)
    return figure


def axes_at(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """New axes that stand at (x, y) inches from the lower left corner."""
    across, up = figure.get_size_inches()
    return figure.add_axes((x / across, y / up, width / across, height / up))


def save(figure: Figure, path: str | Path, dpi: int = 150) -> None:
    """Write a figure as .png, .pdf or .svg, moved into place once it is whole.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    with new_file(path) as part:
        figure.savefig(part, dpi=dpi, format=path.suffix[1:].lower())


def _axes(size: tuple[float, float]) -> Axes:
    return Figure(figsize=size, layout="constrained").add_subplot()


def _pattern_axes(ax: Axes, limit: float, small: bool = False) -> None:
    ax.set_facecolor(DARK)
    ax.set_aspect("equal")
    ax.set_xlim(-limit, limit)
    ax.set_ylim(-limit, limit)
    if small:
        ax.set_xticks([])
        ax.set_yticks([])
        return
    ax.set_xlabel("$q_x$ (1/Å)")
    ax.set_ylabel("$q_y$ (1/Å)")


def _discs(ax: Axes, q: np.ndarray, relative: np.ndarray, limit: float, colour: str) -> None:
    """Spots q (K, 2) as discs, area and brightness by the amplitude."""
    amplitude = np.sqrt(np.clip(relative, 0, 1))
    radius = _SPOT * limit * np.sqrt(0.05 + 0.95 * amplitude)
    for (x, y), r, value in zip(q, radius, amplitude, strict=True):
        ax.add_patch(Circle((x, y), r, color=colour, alpha=0.4 + 0.6 * value, lw=0))


def _plot_query(found: Found, measured: Measured | None, ax: Axes) -> None:
    indexed = found.indexed
    if measured is None:
        limit = 1.08 * np.linalg.norm(indexed.q, axis=1).max()
        _pattern_axes(ax, limit)
        _discs(ax, indexed.q, indexed.intensity, limit, MEASURED)
    else:
        _plot_image(ax, found, measured)
    outline = [withStroke(linewidth=3, foreground=DARK)]
    for vector, name in zip(np.linalg.inv(indexed.lattice).T, ("a*", "b*"), strict=True):
        tip, place = vector, vector * (1 + 0.28 / max(np.linalg.norm(vector), 0.28) * 0.35)
        origin = np.zeros(2)
        if measured is not None:
            origin, tip, place = pixels(measured, indexed, np.array([origin, tip, place]))
        ax.annotate(
            "", xy=tip, xytext=origin, arrowprops={"arrowstyle": "-|>", "color": "#ffffff"}
        )
        ax.text(
            *place, name, color="#ffffff", fontsize=11, ha="center", va="center",
            path_effects=outline, clip_on=True,
        )  # fmt: skip
    a, b, gamma = cell(indexed.lattice)
    ax.set_title(f"measured\n{a:.3f} × {b:.3f} Å, {gamma:.1f}°", fontsize=11)


def _plot_image(ax: Axes, found: Found, measured: Measured) -> None:
    """The image out to the last spot, with rings around the spots of the lattice."""
    left, top, right, bottom = around_spots(measured)
    ax.imshow(grey(measured.image.pixels), cmap="gray", interpolation="nearest")
    ax.set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5), xticks=[], yticks=[])
    for place in measured.spots.position[found.indexed.spots]:
        ax.add_patch(Circle(place, 0.02 * (right - left), fill=False, ec=MEASURED, lw=1.0))


def _heading(candidate: Candidate, rank: int) -> str:
    r1 = change(candidate.r_before, candidate.r_factor).replace("->", "→")
    known = np.isfinite(candidate.probability)
    how = f"{percent(candidate.probability)} %" if known else f"score {candidate.score:.3f}"
    return (
        f"{rank}   {_formula(candidate.formula)}   {_shortened(candidate.uid, 30)}\n"
        f"{how}   R1 {r1}"
    )


def _plot_difference(one: Difference, most: float, ax: Axes) -> None:
    """Discs whose area grows with the difference of amplitudes; the largest of all is `most`."""
    limit = 1.1 * max(np.linalg.norm(one.q, axis=1).max(initial=0), 1e-6)
    _pattern_axes(ax, limit, small=True)
    ax.set_facecolor("white")
    ax.plot(*one.q.T, ".", color="#b0b0b0", markersize=2, zorder=0)
    for place, value in zip(one.q, one.amplitude, strict=True):
        colour = STRONGER if value > 0 else WEAKER
        radius = 0.09 * limit * np.sqrt(abs(value) / most)
        ax.add_patch(Circle(place, radius, color=colour, lw=0))


def _difference_legend(figure: Figure, most: float) -> None:
    marks = [
        Line2D([], [], marker="o", ls="", color=colour, label=name)
        for colour, name in (
            (STRONGER, "measured stronger than calculated"),
            (WEAKER, "measured weaker than calculated"),
        )
    ]
    figure.legend(
        handles=marks, loc="lower right", ncols=2, frameon=False, fontsize=9,
        title=f"difference of amplitudes; largest disc: {100 * most:.0f} % of the strongest spot's",
        title_fontsize=9,
    )  # fmt: skip


def _formula(formula: str) -> str:
    """Digits of a formula as subscripts; other signs as they are."""
    return _shortened(formula, 20).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _shortened(text: str, length: int) -> str:
    text = printable(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def _balls(ax: Axes, seen: View) -> None:
    colours = jmol_colors[seen.numbers]
    halves = LineCollection(seen.halves, colors=0.75 * colours[seen.owner], linewidths=2.2)
    ax.add_collection(halves).set_zorder(5)
    discs = [Circle(place, radius) for place, radius in zip(seen.flat, seen.radii, strict=True)]
    balls = PatchCollection(discs, facecolors=colours, edgecolors="#333333", linewidths=0.6)
    ax.add_collection(balls).set_zorder(10)


def _elements(ax: Axes, numbers: np.ndarray) -> None:
    """A legend of the elements."""
    for number in np.unique(numbers):
        ax.plot(
            [], [], "o", color=jmol_colors[number], markeredgecolor="#333333",
            markeredgewidth=0.6, markersize=7, label=chemical_symbols[number],
        )  # fmt: skip
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=6, frameon=False, fontsize=9,
        handletextpad=0.1, columnspacing=1.0, borderaxespad=0.1,
    )  # fmt: skip

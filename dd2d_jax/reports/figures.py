"""Figures of patterns, structures and what was found.

Figures are made without pyplot: nothing global changes, no window opens, any backend will do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon
from matplotlib.patheffects import withStroke

from dd2d_jax.util.files import new_file

if TYPE_CHECKING:
    import ase
    from matplotlib.axes import Axes

    import diffraction as dx
    from dd2d_jax.matching.found import Candidate, Found

DARK = "#0d1321"
_FAINT = "#5b6780"
MEASURED = "#7fe3ff"
SIMULATED = "#ffb454"
# Largest spot's diameter as a share of the axes' width.
_SPOT = 0.05
_CANDIDATES = 6
_NONMETALS = (1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 32, 33, 34, 35, 51, 52, 53)


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
    from dd2d_jax.lattices.lattice import check

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
    atoms: ase.Atoms, ax: Axes | None = None, width: float = 12.0, view: str = "top"
) -> Figure:
    """A window on a layer, as balls and bonds, with one cell outlined.

    Args:
        atoms: a layer, a1 and a2 in the plane (x, y); lengths in angstrom.
        ax: axes to draw on; None makes a figure.
        width: of the window, angstrom; larger cells get a larger one.
        view: "top" along -z, or "side" along y.

    Returns:
        The figure that holds the axes.

    Raises:
        ValueError: another view.
    """
    if view not in ("top", "side"):
        raise ValueError(f"view must be 'top' or 'side', got {view!r}")
    ax = _axes((4, 4)) if ax is None else ax
    corners = _corners(atoms)
    middle = corners.mean(0)
    width = _window(atoms, width)
    positions, numbers = _around(atoms, middle, width / 2 + 2)
    if view == "top":
        flat, depth, centre, height = positions[:, :2], positions[:, 2], middle, width
        ax.add_patch(Polygon(corners, fill=False, edgecolor="#111111", lw=1.3, ls="--", zorder=900))
    else:
        near = np.abs(positions[:, 1] - middle[1]) < max(np.ptp(corners[:, 1]) / 2, 1.5)
        positions, numbers = positions[near], numbers[near]
        z = atoms.positions[:, 2]
        flat, depth = positions[:, [0, 2]], -positions[:, 1]
        centre, height = (middle[0], (z.min() + z.max()) / 2), np.ptp(z) + 3.0
    _bonds(ax, positions, flat, numbers)
    _balls(ax, flat, depth, numbers)
    ax.set_xlim(centre[0] - width / 2, centre[0] + width / 2)
    ax.set_ylim(centre[1] - height / 2, centre[1] + height / 2)
    ax.set_aspect("equal")
    ax.axis("off")
    if view == "top":
        _elements(ax, atoms.numbers)
    return ax.figure


def _corners(atoms: ase.Atoms) -> np.ndarray:
    return np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) @ atoms.cell.array[:2, :2]


def _window(atoms: ase.Atoms, width: float = 12.0) -> float:
    """Width in angstrom of a window that shows a whole cell at least."""
    return max(width, 1.15 * float(np.ptp(_corners(atoms), axis=0).max()))


def _around(
    atoms: ase.Atoms, middle: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and numbers of a layer's atoms within a square of half side `reach`."""
    lattice = atoms.cell.array[:2, :2]
    far = reach * np.sqrt(2) + np.linalg.norm(lattice, axis=1).sum()
    count = np.ceil(far * np.linalg.norm(np.linalg.inv(lattice), axis=0)).astype(int)
    grid = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in count)), -1).reshape(-1, 2)
    shifts = np.concatenate([grid @ lattice, np.zeros((len(grid), 1))], 1)
    positions = (shifts[:, None] + atoms.positions[None]).reshape(-1, 3)
    inside = (np.abs(positions[:, :2] - middle) < reach).all(1)
    return positions[inside], np.tile(atoms.numbers, len(grid))[inside]


def plot_pattern_and_structure(crystal: dx.Crystal, pattern: dx.Pattern) -> Figure:
    """A single crystal from above and, at the same scale, from the side, beside its pattern."""
    atoms = crystal.to_ase()
    window, legend = 3.5, 0.4
    thickness = np.ptp(atoms.positions[:, 2])
    side = float(np.clip(window * (thickness + 3) / _window(atoms), 0.8, window))
    height = window + legend + side + 0.25
    figure = Figure(figsize=(window + height + 0.75, height))
    _place(figure, 0.1, side + legend + 0.1, window, window, plot_structure, atoms)
    _place(figure, 0.1, 0.1, window, side, plot_structure, atoms, view="side")
    square = height - 0.95
    title = _formula(atoms.get_chemical_formula("metal"))
    _place(figure, window + 1.1, 0.55, square, square, plot_pattern, pattern, title=title)
    return figure


def plot_found(found: Found) -> Figure:
    """The measured pattern and the first six candidates: structure, and both patterns halved."""
    shown = found.candidates[:_CANDIDATES]
    columns = 2 if len(shown) == 4 else min(3, max(len(shown), 1))
    rows = -(-max(len(shown), 1) // columns)
    square, panel, query, top = 2.15, (4.65, 3.0), 4.0, 0.6
    height = max(rows * panel[1] + 0.05, query + 1.2)
    figure = Figure(figsize=(query + 1.2 + columns * panel[0], height))
    middle = (height - query) / 2
    _place(figure, 0.8, middle, query, query, _plot_query, found)
    spare = (height - rows * panel[1]) / 2
    for number, candidate in enumerate(shown):
        x = query + 1.2 + number % columns * panel[0]
        y = height - spare - (number // columns + 1) * panel[1] + panel[1] - top - square
        _place(figure, x, y, square, square, plot_structure, candidate.structure)
        _place(figure, x + square + 0.1, y, square, square, _plot_halves, candidate)
        width, full = figure.get_size_inches()
        figure.text(x / width, (y + square + 0.08) / full, _heading(candidate, number + 1),
                    fontsize=10, va="bottom", parse_math=False)  # fmt: skip
    return figure


def plot_candidate(candidate: Candidate) -> Figure:
    """A candidate from above and from the side, and both patterns halved."""
    square, gap = 2.6, 0.15
    thickness = np.ptp(candidate.structure.positions[:, 2]) + 3.0
    side = float(np.clip(square * thickness / _window(candidate.structure), 0.5, square))
    figure = Figure(figsize=(3 * square + 4 * gap, square + 0.45))
    _place(figure, gap, 0.4, square, square, plot_structure, candidate.structure)
    middle = 0.4 + (square - side) / 2
    _place(figure, 2 * gap + square, middle, square, side, plot_structure, candidate.structure,
           view="side")  # fmt: skip
    _place(figure, 3 * gap + 2 * square, 0.4, square, square, _plot_halves, candidate)
    return figure


def axes_at(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """New axes that stand at (x, y) inches from the lower left corner."""
    across, up = figure.get_size_inches()
    return figure.add_axes((x / across, y / up, width / across, height / up))


def _place(figure: Figure, x: float, y: float, width: float, height: float, draw, *args, **kwargs):
    """Draw on new axes."""
    draw(*args, axes_at(figure, x, y, width, height), **kwargs)


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


def _plot_query(found: Found, ax: Axes) -> None:
    from dd2d_jax.crystals.cell import cell

    indexed = found.indexed
    limit = 1.08 * np.linalg.norm(indexed.q, axis=1).max()
    _pattern_axes(ax, limit)
    _discs(ax, indexed.q, indexed.intensity, limit, MEASURED)
    for vector, name in zip(np.linalg.inv(indexed.lattice).T, ("a*", "b*"), strict=True):
        ax.annotate(
            "", xy=vector, xytext=(0, 0), arrowprops={"arrowstyle": "-|>", "color": "#ffffff"}
        )
        outline = [withStroke(linewidth=3, foreground=DARK)]
        place = vector * (1 + 0.09 * limit / np.linalg.norm(vector))
        ax.text(
            *place, name, color="#ffffff", fontsize=11, ha="center", va="center",
            path_effects=outline,
        )  # fmt: skip
    a, b, gamma = cell(indexed.lattice)
    ax.set_title(f"measured\n{a:.3f} × {b:.3f} Å, {gamma:.1f}°", fontsize=11)


def _heading(candidate: Candidate, rank: int) -> str:
    from dd2d_jax.util.text import change, percent

    r1 = change(candidate.r_before, candidate.r_factor).replace("->", "→")
    known = np.isfinite(candidate.probability)
    how = f"{percent(candidate.probability)} %" if known else f"score {candidate.score:.3f}"
    return (
        f"{rank}   {_formula(candidate.formula)}   {_shortened(candidate.uid, 30)}\n"
        f"{how}   R1 {r1}"
    )


def _plot_halves(candidate: Candidate, ax: Axes) -> None:
    """Measured spots on the left, simulated ones on the right, in the candidate's setting."""
    query = candidate.query
    pair, measured = np.asarray(query.q, float), np.asarray(query.measured, bool)
    q = np.concatenate([pair, -pair])
    seen = np.concatenate([measured[:, 0], measured[:, 1]])
    observed = np.concatenate([query.intensity[:, 0], query.intensity[:, 1]])
    simulated = np.concatenate([candidate.simulated[:, 0], candidate.simulated[:, 1]])
    limit = 1.08 * max(np.linalg.norm(q[seen], axis=1).max(), 1e-6)
    # Spots on the dividing line are shared out by their other coordinate.
    line = np.abs(q[:, 0]) < 1e-3 * limit
    left = np.where(line, q[:, 1] < 0, q[:, 0] < 0)
    _pattern_axes(ax, limit, small=True)
    ax.axvline(0, color=_FAINT, lw=0.8)
    _discs(ax, q[seen & left], observed[seen & left], limit, MEASURED)
    _discs(ax, q[seen & ~left], simulated[seen & ~left], limit, SIMULATED)
    for x, name, colour in ((0.02, "measured", MEASURED), (0.98, "simulated", SIMULATED)):
        ax.text(
            x, 0.02, name, color=colour, fontsize=8, ha="left" if x < 0.5 else "right",
            va="bottom", transform=ax.transAxes,
        )  # fmt: skip


def _formula(formula: str) -> str:
    """Digits of a formula as subscripts; other signs as they are."""
    return _shortened(formula, 20).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _shortened(text: str, length: int) -> str:
    from dd2d_jax.util.text import printable

    text = printable(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def _balls(ax: Axes, flat: np.ndarray, depth: np.ndarray, numbers: np.ndarray) -> None:
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors

    order = np.argsort(depth, kind="stable")
    for z, i in enumerate(order):
        ax.add_patch(
            Circle(
                flat[i],
                0.55 * covalent_radii[numbers[i]],
                facecolor=jmol_colors[numbers[i]],
                edgecolor="#333333",
                lw=0.6,
                zorder=10 + 800 * z / len(order),
            )
        )


def _bonds(ax: Axes, positions: np.ndarray, flat: np.ndarray, numbers: np.ndarray) -> None:
    from ase.data import covalent_radii

    radius = covalent_radii[numbers]
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    near = np.triu(distance < 1.2 * (radius[:, None] + radius[None]), 1)
    metal = ~np.isin(numbers, _NONMETALS)
    if not metal.all():
        # Metals are near each other in most compounds without being bonded.
        near &= ~(metal[:, None] & metal[None])
    segments = [(flat[i], flat[j]) for i, j in np.argwhere(near)]
    ax.add_collection(LineCollection(segments, colors="#8a8a8a", linewidths=1.8, zorder=5))


def _elements(ax: Axes, numbers: np.ndarray) -> None:
    """A legend of the elements."""
    from ase.data import chemical_symbols
    from ase.data.colors import jmol_colors

    for number in np.unique(numbers):
        ax.plot(
            [], [], "o", color=jmol_colors[number], markeredgecolor="#333333",
            markeredgewidth=0.6, markersize=7, label=chemical_symbols[number],
        )  # fmt: skip
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=6, frameon=False, fontsize=9,
        handletextpad=0.1, columnspacing=1.0, borderaxespad=0.1,
    )  # fmt: skip

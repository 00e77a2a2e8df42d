"""The figures of `dd2d report`, after those of Fu et al., Communications Physics 8, 221 (2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import rcParams
from matplotlib.colors import LogNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from scipy.cluster.hierarchy import dendrogram

import diffraction as dx
from dd2d_jax.reports.figures import STRONGER, axes_at, plot_pattern, plot_structure
from dd2d_jax.util.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dd2d_jax.data.crystal_set import CrystalSet
    from dd2d_jax.networks.attention import Attention
    from dd2d_jax.reports.network_answers import Answers
    from dd2d_jax.spots import Conditions, Spots

# Tokens of a map that can still be read; spots come strongest first.
TOKENS = 33
# Up to so many tokens four heads stand in a row, else two.
_FEW = 16
# On the light cells of a map, whatever the screen.
_INK = "#222222"
# Okabe and Ito's colours, with hatches for those who see none.
_BARS = [("#0072b2", ""), ("#e69f00", "//"), ("#009e73", ".."), ("#cc79a7", "xx"), ("#56b4e9", "")]


def plot_attention(attention: Attention) -> Figure:
    """Maps of each head of the first and last layer, at most `TOKENS` tokens of each.

    A row is what its token looks at.
    """
    count = min(len(attention.tokens), TOKENS)
    weights = attention.weights[..., :count, :count]
    heads = weights.shape[1]
    columns = min(heads, 4 if count <= _FEW else 2)
    rows = -(-heads // columns)
    panel = float(np.clip(0.13 * count, 1.9, 4.0))
    figure = Figure(
        figsize=(columns * panel + 1.6, len(attention.layers) * rows * (panel + 0.25) + 0.5),
        layout="constrained",
    )
    axes = figure.subplots(len(attention.layers) * rows, columns, squeeze=False)
    norm = PowerNorm(0.5, 0, max(float(weights.max()), 1e-9))
    size = 8 if count <= _FEW else 6.5
    image = None
    for place, ax in np.ndenumerate(axes):
        layer, head = place[0] // rows, place[0] % rows * columns + place[1]
        if head >= heads:
            ax.set_axis_off()
            continue
        image = ax.imshow(weights[layer, head], cmap="viridis", norm=norm)
        ax.set_title(f"layer {attention.layers[layer]}, head {head + 1}", fontsize=9)
        labels = attention.tokens[:count]
        lowest = layer == len(attention.layers) - 1 and head + columns >= heads
        ax.set_xticks(range(count), labels if lowest else [], rotation=90, fontsize=size)
        ax.set_yticks(range(count), labels if place[1] == 0 else [], fontsize=size)
        ax.tick_params(length=0, pad=1.5)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.01, aspect=30)
    bar.set_label("share of a row's attention", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def plot_point_groups(numbers: dict[str, Any]) -> Figure:
    """The tree of point groups, and in its order the counts of true against predicted ones."""
    links, symbols = np.array(numbers["tree"]).reshape(-1, 4), numbers["symbols"]
    panels = numbers["attempts"]
    side, branches, names, bottom = float(np.clip(0.19 * len(symbols), 2.0, 4.4)), 1.2, 0.75, 0.9
    step = side + 0.2
    width = 0.2 + branches + names + len(panels) * step + 0.7
    figure = Figure(figsize=(width, bottom + side + 0.4))
    order = _plot_tree(axes_at(figure, 0.2, bottom, branches, side), links)
    labels = [symbols[i] for i in order]
    count = len(order)
    norm = LogNorm(1, max(2, *(np.max(panel["counts"]) for panel in panels)))
    for number, panel in enumerate(panels):
        ax = axes_at(figure, 0.2 + branches + names + number * step, bottom, side, side)
        table = np.array(panel["counts"])[np.ix_(order, order)]
        image = ax.imshow(np.ma.masked_equal(table, 0), cmap="Blues", norm=norm)
        for (i, j), value in np.ndenumerate(table):
            if value:
                colour = "white" if norm(value) > 0.6 else _INK
                ax.text(j, i, str(value), ha="center", va="center", fontsize=6, color=colour)
        ax.set_xticks(range(count), labels, rotation=90, fontsize=8)
        ax.set_yticks(range(count), [] if number else labels, fontsize=8)
        ax.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        ax.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        ax.grid(which="minor", lw=0.5, alpha=0.4)
        ax.tick_params(which="both", length=0, pad=2)
        tries = panel["attempts"]
        ax.set_title(f"{tries} attempt{'s' if tries > 1 else ''}", fontsize=10)
        ax.set_xlabel("point group of the candidates", fontsize=8.5)
        if number == 0:
            ax.set_ylabel("true point group", fontsize=8.5)
    bar = axes_at(figure, width - 0.7, bottom, 0.12, 0.8 * side)
    figure.colorbar(image, cax=bar, format="{x:.0f}").set_label("candidates", fontsize=8)
    bar.yaxis.set_minor_formatter(NullFormatter())
    bar.tick_params(labelsize=7)
    return figure


def _plot_tree(ax: Axes, links: np.ndarray) -> list[int]:
    """Draw the tree with its leaves at the right, one in each row from the top; their order."""
    for side in ("top", "left", "right"):
        ax.spines[side].set_visible(False)
    ax.set_yticks([])
    if not len(links):
        ax.set_axis_off()
        return [0]
    found = dendrogram(links, no_plot=True)
    for x, y in zip(found["icoord"], found["dcoord"], strict=True):
        # The leaves of scipy stand at 5, 15, 25, ...
        ax.plot(y, (np.array(x) - 5) / 10, color=rcParams["text.color"], lw=1)
    ax.set_xlim(1, 0)
    ax.set_ylim(len(links) + 0.5, -0.5)
    ax.set_xlabel("share of operations\nthat differ (Jaccard)", fontsize=8)
    ax.tick_params(labelsize=7)
    return found["leaves"]


def plot_candidates(
    numbers: dict[str, Any],
    answers: Answers,
    query: int,
    library: CrystalSet,
    conditions: Conditions,
) -> Figure:
    """A query's pattern and its true crystal; its candidates' clean patterns and layers."""
    rows = answers.order[query]
    patterns = dx.simulate(
        library.take(rows).crystal, conditions.radiation, conditions.q_max, conditions.b_iso
    )
    limit = 1.1 * conditions.q_max
    large, small, legend, title = 3.0, 1.9, 0.35, 0.65
    across = min(5, len(rows))
    panel = (small + 0.2, title + 2 * small + 0.05 + legend)
    height = max(-(-len(rows) // across) * panel[1] + 0.05, 2 * large + legend + 1.3)
    left = 0.8 + large + 0.3
    figure = Figure(figsize=(left + across * panel[0], height))
    asked = axes_at(figure, 0.8, height - 0.35 - large, large, large)
    plot_pattern(_whole(answers.spots, query), asked, f"query ({answers.level})")
    _limits(asked, limit)
    made = axes_at(figure, 0.8, legend + 0.05, large, large)
    _plot_layer(library, int(answers.truth[query]), made)
    made.set_title(
        f"the crystal that made it\n{_name(numbers['truth'])}", fontsize=9, parse_math=False
    )
    for place, row in enumerate(rows.tolist()):
        x = left + place % across * panel[0]
        y = height - (place // across + 1) * panel[1] + legend
        above = axes_at(figure, x, y + small + 0.05, small, small)
        plot_pattern(jax.tree.map(lambda x, i=place: x[i], patterns), above)
        _limits(above, limit)
        above.set(xlabel="", ylabel="", xticks=[], yticks=[])
        _head(above, numbers["candidates"][place])
        _plot_layer(library, row, axes_at(figure, x, y, small, small))
    return figure


def _plot_layer(library: CrystalSet, row: int, ax: Axes) -> None:
    plot_structure(library.atoms(row), ax)
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(
        handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=5, frameon=False,
        fontsize=6.5, handletextpad=-0.3, columnspacing=0.5, borderaxespad=0.1, markerscale=0.7,
    )  # fmt: skip


def _head(ax: Axes, candidate: dict[str, Any]) -> None:
    true = candidate["true"]
    cosine = "-" if candidate["cosine"] is None else f"{candidate['cosine']:.4f}"
    ax.set_title(
        f"{candidate['rank']}{' TRUE' if true else ''}   cosine {cosine}\n{_name(candidate)}",
        fontsize=8,
        parse_math=False,
        color=STRONGER if true else rcParams["text.color"],
        fontweight="bold" if true else "normal",
    )
    if true:
        for spine in ax.spines.values():
            spine.set(color=STRONGER, linewidth=4)


def _name(crystal: dict[str, Any]) -> str:
    """Formula and uid on lines of their own, cut to what a panel can hold."""
    lines = (printable(crystal[key]) for key in ("formula", "uid"))
    return "\n".join(line if len(line) <= 26 else line[:25] + "…" for line in lines)


def _limits(ax: Axes, limit: float) -> None:
    """One scale for all patterns, 1/angstrom."""
    ax.set_xlim(-limit, limit)
    ax.set_ylim(-limit, limit)


def _whole(spots: Spots, row: int) -> dx.Pattern:
    """Both halves of one pattern."""
    q, hk, pair, seen = (
        np.asarray(x[row]) for x in (spots.q, spots.hk, spots.intensity, spots.measured)
    )
    return dx.Pattern(
        jnp.asarray(np.concatenate([q, -q])),
        jnp.asarray(np.concatenate([pair[:, 0], pair[:, 1]])),
        jnp.asarray(np.concatenate([hk, -hk])),
        jnp.asarray(np.concatenate([seen[:, 0], seen[:, 1]])),
    )


def plot_learning(curves: dict[str, Any]) -> Figure:
    """Loss of the training batches, and top-1 of each level on the validation crystals, by step."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    loss, right = figure.subplots(1, 2)
    loss.plot(*zip(*curves["loss"], strict=True), color=_BARS[0][0], lw=1)
    loss.set_ylabel("loss")
    loss.set_yscale("log")
    for number, (level, points) in enumerate(curves["validation"].items()):
        colour, _ = _BARS[number % len(_BARS)]
        marker = "osv^D"[number % len(_BARS)]
        right.plot(*zip(*points, strict=True), color=colour, marker=marker, ms=3, lw=1, label=level)
    right.set_ylabel("validation top-1 (%)")
    right.set_ylim(0, 100)
    if curves["validation"]:
        right.legend(frameon=False, fontsize=8)
    for ax in (loss, right):
        ax.set_xlabel("training step")
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def plot_ranks(ranks: dict[str, dict[str, int]]) -> Figure:
    """How many queries of each level have which rank, of those that were not found first."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    ax = figure.add_subplot()
    width = 0.8 / len(ranks)
    for number, (level, found) in enumerate(ranks.items()):
        colour, hatch = _BARS[number % len(_BARS)]
        bars = ax.bar(
            np.arange(len(found)) + (number - (len(ranks) - 1) / 2) * width,
            list(found.values()),
            width,
            color=colour,
            hatch=hatch,
            edgecolor=rcParams["axes.facecolor"],
            label=level,
        )
        ax.bar_label(bars, [str(v) if v else "" for v in found.values()], fontsize=8)
    ax.set_xticks(range(len(found)), list(found))
    ax.set_xlabel("rank of the true crystal")
    ax.set_ylabel("queries")
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.set_ylim(0, 1.1 * max(1, *(max(v.values()) for v in ranks.values())))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(ranks))
    return figure

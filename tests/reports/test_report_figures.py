"""The report's figures: what is drawn is what the numbers say, in the tree's order."""

import numpy as np
import pytest
import tiny
from figure_texts import texts_inside
from scipy.cluster.hierarchy import leaves_list

import diffraction as dx
from dd2d_jax.crystals.point_groups import tree
from dd2d_jax.data import usable
from dd2d_jax.networks.attention import Attention
from dd2d_jax.reports import report_figures
from dd2d_jax.reports.network_answers import Answers
from dd2d_jax.spots import Conditions, Spots

SYMBOLS = ["-6m2", "1", "6/mmm", "m"]


def maps(heads: int, count: int, layers: tuple[int, ...] = (1, 3)) -> Attention:
    rng = np.random.default_rng(0)
    weights = rng.random((len(layers), heads, count, count))
    weights /= weights.sum(-1, keepdims=True)
    names = ["cell", *(f"({i} -{i})" for i in range(1, count))]
    return Attention("spots", names, ["cell", *["spots"] * (count - 1)], list(layers), weights)


def images(figure) -> list:
    return [ax.images[0] for ax in figure.axes if ax.images]


@pytest.mark.parametrize(("heads", "count"), [(1, 3), (5, 12), (3, 40)])
def test_every_head_of_both_layers_is_drawn_up_to_what_can_be_read(heads, count):
    one = maps(heads, count)
    figure = report_figures.plot_attention(one)
    assert texts_inside(figure)
    panels = [ax for ax in figure.axes if "head" in ax.get_title()]
    assert [ax.get_title() for ax in panels] == [
        f"layer {layer}, head {head}" for layer in (1, 3) for head in range(1, heads + 1)
    ]
    size = min(count, report_figures.TOKENS)
    shown = panels[-1].images[0].get_array()
    np.testing.assert_array_equal(shown, one.weights[1, -1, :size, :size])
    assert [t.get_text() for t in panels[0].get_yticklabels()] == one.tokens[:size]
    assert [t.get_text() for t in panels[-1].get_xticklabels()] == one.tokens[:size]


def test_counts_stand_in_the_trees_order():
    links = tree(SYMBOLS)
    table = np.array([[5, 0, 2, 0], [0, 3, 0, 1], [0, 0, 7, 0], [1, 0, 0, 4]])
    attempts = [{"attempts": k, "counts": (k * table).tolist()} for k in (1, 3, 5)]
    figure = report_figures.plot_point_groups(
        {"symbols": SYMBOLS, "tree": links.tolist(), "attempts": attempts}
    )
    assert texts_inside(figure)
    order = leaves_list(links)
    for image, k in zip(images(figure), (1, 3, 5), strict=True):
        ax = image.axes
        np.testing.assert_array_equal(image.get_array().filled(0), k * table[np.ix_(order, order)])
        wanted = [SYMBOLS[i] for i in order]
        assert [t.get_text() for t in ax.get_xticklabels()] == wanted
    assert [t.get_text() for t in images(figure)[0].axes.get_yticklabels()] == wanted


def test_a_single_point_group_needs_no_tree():
    figure = report_figures.plot_point_groups(
        {"symbols": ["m"], "tree": [], "attempts": [{"attempts": 1, "counts": [[9]]}]}
    )
    assert texts_inside(figure)
    assert images(figure)[0].get_array().tolist() == [[9]]


def test_candidates_are_drawn_in_order_and_the_true_one_is_marked():
    library = usable.from_atoms(tiny.sheets()[:7])
    conditions = Conditions(dx.Electrons(80.0), 0.8, 0.5, tokens=8)
    pairs = np.random.default_rng(0).random((1, 6, 2))
    measured = np.array([[[True, True]] * 4 + [[True, False]] + [[False, False]]])
    spots = Spots(pairs, np.ones((1, 6, 2), int), pairs, measured, library.lattice[4:5])
    order = np.array([[2, 4, 0, 1, 3, 5, 6]])
    answers = Answers("clean", spots, np.array([4]), np.zeros((1, 7)), np.array([2]), order)
    rows = [
        {"rank": i + 1, "uid": "$\\frac{" if i == 0 else f"uid {row}", "formula": "MoS2",
         "cosine": None if i == 3 else 0.5, "true": row == 4}
        for i, row in enumerate(order[0])
    ]  # fmt: skip
    numbers = {"truth": rows[1], "candidates": rows}
    figure = report_figures.plot_candidates(numbers, answers, 0, library, conditions)
    assert texts_inside(figure)
    heads = [ax for ax in figure.axes if "cosine" in ax.get_title()]
    assert [ax.get_title().split("\n")[2] for ax in heads] == [row["uid"] for row in rows]
    marked = ["TRUE" in ax.get_title() for ax in heads]
    framed = [ax.spines["left"].get_linewidth() > 3 for ax in heads]
    assert marked == framed == [row["true"] for row in rows]
    # All patterns at one scale, and the query's whole pattern.
    assert len({ax.get_xlim() for ax in (*heads, figure.axes[0])}) == 1
    assert len(figure.axes[0].patches) == 9


def test_learning_curves_hold_every_step():
    curves = {"loss": [(10, 5.0), (20, 2.0)], "validation": {"clean": [(20, 40.0)],
              "measured": [(20, 30.0)]}}  # fmt: skip
    figure = report_figures.plot_learning(curves)
    assert texts_inside(figure)
    loss, right = figure.axes
    np.testing.assert_array_equal(loss.lines[0].get_xydata(), curves["loss"])
    drawn = {line.get_label(): line.get_xydata().tolist() for line in right.lines}
    assert drawn == {"clean": [[20, 40]], "measured": [[20, 30]]}


def test_bars_are_as_high_as_queries_failed():
    ranks = {"clean": {"2": 1, "3": 0, "> 3": 2}, "perturbed": {"2": 4, "3": 7, "> 3": 0}}
    figure = report_figures.plot_ranks(ranks)
    assert texts_inside(figure)
    ax = figure.axes[0]
    assert [bar.get_height() for bar in ax.patches] == [1, 0, 2, 4, 7, 0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["2", "3", "> 3"]

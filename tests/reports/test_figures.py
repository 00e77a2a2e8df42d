"""Figures: everything inside, nothing global changed, no name from a file breaks them."""

import sys
import warnings

import ase.build
import numpy as np
import pytest
from tests.test_output import make_found

import diffraction as dx
from dd2d_jax.reports import figures


@pytest.fixture
def mos2() -> dx.Crystal:
    return dx.Crystal.from_ase(ase.build.mx2("MoS2", vacuum=8))


def texts_inside(figure) -> bool:
    """Whether every text of the figure lies within it."""
    figure.draw_without_rendering()
    box = figure.bbox
    found = list(figure.texts)
    for ax in figure.axes:
        found += [ax.title, *ax.texts]
        if ax.axison:
            found += [ax.xaxis.label, ax.yaxis.label]
    extents = [t.get_window_extent() for t in found if t.get_text() and t.get_visible()]
    return all(
        e.x0 >= box.x0 - 1 and e.x1 <= box.x1 + 1 and e.y0 >= box.y0 - 1 and e.y1 <= box.y1 + 1
        for e in extents
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 9])
def test_found_shows_the_query_and_two_panels_for_each_of_six(count):
    figure = figures.plot_found(make_found(count=count))
    assert len(figure.axes) == 1 + 2 * min(count, 6)
    assert texts_inside(figure)


def test_pattern_and_structure_fit_beside_each_other(mos2):
    figure = figures.plot_pattern_and_structure(mos2, dx.simulate(mos2, q_max=1.5))
    assert len(figure.axes) == 3 and texts_inside(figure)


def test_a_stronger_spot_is_a_larger_disc_in_its_place(mos2):
    pattern = dx.simulate(mos2, q_max=0.7)
    figure = figures.plot_pattern(pattern, title="MoS$_2")
    discs = figure.axes[0].patches
    mask = np.asarray(pattern.mask)
    assert len(discs) == mask.sum()
    np.testing.assert_allclose([d.center for d in discs], np.asarray(pattern.q)[mask], atol=1e-6)
    order = np.argsort(np.asarray(pattern.intensity)[mask])
    assert (np.diff(np.array([d.radius for d in discs])[order]) >= 0).all()


@pytest.mark.parametrize("view", ["top", "side"])
def test_a_structure_fills_its_window(mos2, view):
    figure = figures.plot_structure(mos2.to_ase(), view=view)
    ax = figure.axes[0]
    x = np.array([p.center[0] for p in ax.patches if hasattr(p, "center")])
    assert np.ptp(ax.get_xlim()) == pytest.approx(12)
    assert x.min() < ax.get_xlim()[0] + 3 and x.max() > ax.get_xlim()[1] - 3


def test_an_unknown_view_is_refused(mos2):
    with pytest.raises(ValueError, match="view must be"):
        figures.plot_structure(mos2.to_ase(), view="front")


def test_names_that_look_like_tex_or_commands_are_drawn_as_they_are(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # What other libraries will drop one day says nothing of names.
        warnings.simplefilter("ignore", DeprecationWarning)
        figures.save(
            figures.plot_found(make_found(uid="$\\frac{", formula="a\nb$", count=1)),
            tmp_path / "p.png",
            dpi=40,
        )
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_figures_are_saved_whole(mos2, tmp_path, suffix):
    figure = figures.plot_structure(mos2.to_ase())
    figures.save(figure, tmp_path / f"p{suffix}")
    assert (tmp_path / f"p{suffix}").stat().st_size > 1000
    with pytest.raises(OSError):
        figures.save(figure, tmp_path / "gone" / f"p{suffix}")


def test_pyplot_stays_untouched(mos2):
    figures.plot_structure(mos2.to_ase())
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()

"""Figures: everything inside, nothing global changed, no name from a file breaks them."""

import dataclasses
import sys
import warnings

import ase.build
import numpy as np
import pytest
from figure_texts import texts_inside
from found_example import make_found

import diffraction as dx
from dd2d_jax.reports import figures


@pytest.fixture
def mos2() -> dx.Crystal:
    return dx.Crystal.from_ase(ase.build.mx2("MoS2", vacuum=8))


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
    ax = figures.plot_structure(mos2.to_ase(), view=view).axes[0]
    balls = ax.collections[1].get_paths()
    x = np.array([path.vertices[:, 0].mean() for path in balls])
    assert np.ptp(ax.get_xlim()) == pytest.approx(12)
    assert x.min() < ax.get_xlim()[0] + 3 and x.max() > ax.get_xlim()[1] - 3


def test_structures_of_all_candidates_have_one_scale_and_differences_one_too():
    found = make_found(count=3)
    large = found[0].structure.repeat((4, 4, 1))
    worse = np.array(found[0].simulated) * 0.25
    last = dataclasses.replace(found[2], structure=large, simulated=worse)
    found = dataclasses.replace(found, candidates=(*found[:2], last))
    axes = figures.plot_found(found).axes
    assert len({ax.get_xlim() for ax in axes[1::2]}) == 1
    radii = [max(disc.radius for disc in ax.patches) for ax in axes[2::2]]
    assert radii[0] == radii[1] < 0.7 * radii[2]


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
    pyplot = sys.modules.get("matplotlib.pyplot")
    before = pyplot.get_fignums() if pyplot else []
    figures.plot_structure(mos2.to_ase())
    figures.plot_found(make_found(count=1))
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert (pyplot.get_fignums() if pyplot else []) == before

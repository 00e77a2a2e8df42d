"""Pages in a real browser: alive with scripts, readable without, and nothing to complain about."""

import dataclasses

import numpy as np
import pytest
from found_example import make_twisted

from dd2d_jax.reports import folder_page, query_page


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A page of two lattices, whose candidates differ."""
    found = make_twisted(count=3)
    names = ("MoS2", "WS2", "TaS2")
    candidates = tuple(
        dataclasses.replace(c, formula=name, probability=p, simulated=np.asarray(c.simulated) * p)
        for c, name, p in zip(found, names, (0.7, 0.2, 0.05), strict=True)
    )
    out = tmp_path_factory.mktemp("page") / "page.html"
    out.write_text(query_page.page(dataclasses.replace(found, candidates=candidates)), "utf-8")
    return out


def test_it_opens_soon_and_without_a_complaint(chromium, path):
    assert path.stat().st_size < 5e6
    seconds = chromium.open(path)
    assert 0 < seconds < 2
    assert chromium.complaints == []


def test_structures_turn_and_follow_the_candidate_chosen(chromium, path):
    chromium.open(path)
    chromium.ask("document.querySelector('.viewer').scrollIntoView()")
    chromium.wait("document.querySelector('.viewer canvas') !== null")
    chromium.ask("document.querySelectorAll('.picks input')[1].click()")
    shown = "getComputedStyle(document.querySelector('.explorer g.of-{}')).display"
    assert chromium.ask(shown.format(1)) == "none" and chromium.ask(shown.format(2)) != "none"
    # Cards lead to their candidate.
    chromium.ask("document.querySelectorAll('.show')[2].click()")
    assert chromium.ask(shown.format(2)) == "none" and chromium.ask(shown.format(3)) != "none"
    assert chromium.complaints == []


def test_a_column_sorts_up_and_down(chromium, path):
    chromium.open(path)
    column = (
        "[...document.querySelectorAll('table')[0].tBodies[0].rows].map(r => r.cells[{}].innerText)"
    )
    press = "document.querySelectorAll('table')[0].querySelectorAll('th button')[{}].click()"
    assert chromium.ask(column.format(1)) == ["MoS2", "WS2", "TaS2"]
    chromium.ask(press.format(1))
    assert chromium.ask(column.format(1)) == ["MoS2", "TaS2", "WS2"]
    chromium.ask(press.format(4))
    assert chromium.ask(column.format(4)) == ["5.0", "20.0", "70.0"]
    chromium.ask(press.format(4))
    assert chromium.ask(column.format(4)) == ["70.0", "20.0", "5.0"]


def test_the_overlay_zooms_by_buttons_and_by_the_keyboard(chromium, path):
    chromium.open(path)
    box = "document.querySelector('.overlay').getAttribute('viewBox').split(' ').map(Number)"
    whole = chromium.ask(box)
    chromium.ask("document.querySelector('[data-zoom=in]').click()")
    near = chromium.ask(box)
    assert near[2] < whole[2] and near[0] > 0
    chromium.ask("document.querySelector('.overlay').focus()")
    chromium.press("+")
    assert chromium.ask(box)[2] < near[2]
    chromium.press("ArrowRight")
    assert chromium.ask(box)[0] > near[0]
    chromium.press("0")
    assert chromium.ask(box)[2] == whole[2]


def test_pointing_at_a_ring_says_which_spot_it_is(chromium, path):
    chromium.open(path)
    chromium.ask(
        "document.querySelector('.overlay .predicted circle').dispatchEvent(new PointerEvent("
        "'pointermove', {bubbles: true, clientX: 50, clientY: 50}))"
    )
    text = chromium.ask("document.getElementById('tip').innerText")
    assert text.startswith("h k = ") and "I observed" in text and "I calculated" in text


def test_without_scripts_everything_can_still_be_read(chromium, path):
    chromium.open(path, scripts=False)
    hidden = "[...document.querySelectorAll('.scripted')].every(e => !e.checkVisibility())"
    assert chromium.ask(hidden)
    chromium.ask("document.querySelectorAll('.picks input')[1].checked = true")
    shown = "getComputedStyle(document.querySelector('.explorer g.of-{}')).display"
    assert chromium.ask(shown.format(1)) == "none" and chromium.ask(shown.format(2)) != "none"
    assert chromium.ask("document.querySelectorAll('circle > title').length") > 50
    assert chromium.complaints == []


@pytest.mark.parametrize("width", [360, 1280])
def test_pages_fit_narrow_windows(chromium, path, width, tmp_path):
    rows = [dict.fromkeys(("error", "folder", "formula", "uid", "probability", "none", "r1", "a",
                           "b", "gamma"), None) | {"file": "x" * 80, "lattices": 1}]  # fmt: skip
    (tmp_path / "folder.html").write_text(folder_page.page(rows), "utf-8")
    for page in (path, tmp_path / "folder.html"):
        chromium.open(page)
        chromium.size(width)
        assert chromium.ask("document.documentElement.scrollWidth") <= width

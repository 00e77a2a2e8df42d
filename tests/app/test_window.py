"""The widgets, without a browser: what is set reaches the session, what is found is shown."""

import pytest
from ase.data import chemical_symbols

pytest.importorskip("panel", reason="the extra app is not installed")

from bokeh.document import Document  # noqa: E402
from bokeh.models import ImportedStyleSheet  # noqa: E402
from panel.io.state import set_curdoc  # noqa: E402

from dd2d_jax.app import controls  # noqa: E402
from dd2d_jax.app.answers import show  # noqa: E402
from dd2d_jax.app.controls import regions_of  # noqa: E402
from dd2d_jax.app.periodic_table import place  # noqa: E402
from dd2d_jax.app.serve import local_styles  # noqa: E402
from dd2d_jax.app.session import Session  # noqa: E402
from dd2d_jax.app.view import CENTRE, MASK  # noqa: E402
from dd2d_jax.app.window import Window  # noqa: E402


@pytest.fixture
def window(here):
    made = Window(Session(".", library="lib", checkpoint="run"))
    made.open("small.tif")
    return made


def data(window, name):
    return window.view._sources[name].data


def test_a_file_is_opened_drawn_and_answered(window):
    assert window.controls.scale.value == pytest.approx(0.0124)
    assert len(data(window, "found")["x"]) > 40 and len(data(window, "image")["image"]) == 1
    assert "MoS2" in window.answers.conclusion.object
    assert next(iter(window.answers.candidates.options)).startswith("1. MoS2")
    assert 'srcdoc="' in window.answers.solid.object
    assert not window.save.disabled


def test_another_candidate_is_laid_over_the_image(window):
    first = list(data(window, "predicted")["size"])
    window.answers.candidates.value = 1
    assert "WSe2" in window.answers.about.object
    assert data(window, "predicted")["size"] != first
    window.answers.layers.value = ["image"]
    assert not window.view.layers["predicted"][0].visible
    assert window.view.layers["image"][0].visible


def test_the_centre_follows_the_mouse_and_the_keyboard(window):
    window.view.mouse(CENTRE)
    window.view._sources["placed"].data = {"x": [115.0], "y": [108.0]}  # as a drag does
    assert window.session.asked.centre == (115.0, 108.0)
    window.controls.column_x.value = 115.5
    assert window.session.asked.centre == (115.5, 108.0)
    window.controls.automatic.clicks += 1
    assert window.session.asked.centre is None
    assert window.controls.column_x.value == pytest.approx(115.5, abs=0.2)


def test_a_region_is_masked_by_the_mouse_and_unmasked_by_the_keyboard(window):
    window.view.mouse(MASK)
    square = {"x": [150, 175, 200, 200, 150], "y": [150, 150, 150, 200, 200]}
    window.view._sources["region"].data = square  # as a drag does
    assert window.controls.regions.value == "150,150 200,150 200,200 150,200"
    assert len(data(window, "regions")["xs"]) == 1
    assert window.session.asked.mask.startswith("dd2d-app/mask-")
    window.controls.regions.value = ""
    assert window.session.asked.mask is None and data(window, "regions")["xs"] == []


def test_what_is_known_narrows_the_list(window):
    window.controls.excludes.value = "W"
    assert [x for x in window.answers.candidates.options if "W" in x] == []
    window.controls.elements.value = "Au"
    assert "problem" in window.status.object and "Au" in window.status.object
    assert window.answers.candidates.options == {} and window.save.disabled


def test_elements_are_chosen_in_the_periodic_table_too(window):
    table = window.controls.table
    symbols = list(table._source.data["symbol"])
    table._source.selected.indices = [symbols.index("S"), symbols.index("W")]  # as clicks do
    assert window.session.asked.elements == window.controls.elements.value == "S,W"
    window.controls.elements.value = "MoS2"
    assert [symbols[i] for i in table._source.selected.indices] == ["S", "Mo"]


def test_every_element_has_a_place_of_its_own_in_the_periodic_table():
    places = {symbol: place(z) for z, symbol in enumerate(chemical_symbols[1:104], 1)}
    assert len(set(places.values())) == 103
    known = {"He": (18, 1), "B": (13, 2), "Mo": (6, 5), "W": (6, 6), "Ba": (2, 6), "Hf": (4, 6),
             "La": (3, 8.5), "Rn": (18, 6)}  # fmt: skip
    assert {symbol: places[symbol] for symbol in known} == known


def test_several_lattices_have_their_own_candidates(window):
    window.controls.example.value = "twisted: graphene on h-BN, twisted"
    assert window.answers.lattices.visible and len(window.answers.lattices.options) == 2
    first = data(window, "predicted")["x"]
    window.answers.lattices.value = 1
    assert data(window, "predicted")["x"] != first


def test_commands_are_shown_and_reports_saved(window, here):
    window.python.clicks += 1
    assert window.recipe.value == window.session.asked.python()
    window.save.clicks += 1
    assert "dd2d-app/small.html" in window.status.object
    assert (here / "dd2d-app/small.html").is_file()


def test_what_is_wrong_with_a_file_is_said(window):
    window._open(window.session.open_dropped, "run.py", b"")
    assert "format is unknown" in window.status.object


def test_more_than_the_limit_is_not_taken(monkeypatch):
    from panel.models.file_dropper import UploadEvent

    monkeypatch.setattr(controls, "MAX_DROPPED", 10)
    drop = controls._Drop()

    def piece(number, content):
        event = {"name": "a.csv", "chunk": number, "total_chunks": 3, "type": "", "data": content}
        drop._process_event(UploadEvent(None, event))

    piece(1, b"123456"), piece(2, b"123456"), piece(3, b"1")
    assert drop.value == {} and drop._file_buffer == {}
    for number in (1, 2, 3):
        piece(number, b"12")
    assert drop.value == {"a.csv": b"121212"}


def test_regions_are_lines_of_corners():
    assert regions_of("1,2 3,4 5,6\nnothing\n0,0 1,1") == (((1, 2), (3, 4), (5, 6)),)


def test_found_shows_itself_in_a_notebook():
    from found_example import make_twisted

    found = make_twisted()
    shown = found.show()
    assert type(shown) is type(show(found))


def test_styles_come_from_this_server_also_when_a_browser_connects_again(here):
    document = Document()
    with set_curdoc(document):
        local_styles()
        root = Window(Session(".")).layout.get_root(document)
    addresses = [str(one.url) for one in root.select({"type": ImportedStyleSheet})]
    assert addresses and not [one for one in addresses if "//" in one]

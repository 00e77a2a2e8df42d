"""Pages are valid, and nothing that comes in by a file runs, loads or breaks them."""

import html_pages
import jinja2
import pytest

from dd2d_jax.reports import html_page
from dd2d_jax.reports.html_page import Link, render, table

HOSTILE = '"></title></script><script>alert(1)</script><!--\x1b{{ 1 + 1 }}\' onload=x'


def folder_page(title: str, *rows: tuple) -> str:
    made = table(title, ("", "name"), rows or [("1", "a")])
    return render("folder.html", title, conclusion=title, facts=[(title, title)], table=made)


def test_a_page_is_valid_and_whole():
    elements = html_pages.check(folder_page("Patterns"))
    assert {"main", "h1", "table"} <= {tag for tag, _ in elements}


def test_text_from_files_stays_text_wherever_it_stands():
    made = folder_page(HOSTILE, (Link(HOSTILE, "#", HOSTILE), HOSTILE), (1, HOSTILE))
    elements = html_pages.check(made.replace('href="#"', 'href="data:"'))
    assert [tag for tag, _ in elements].count("script") == 1  # the page's own
    assert "\x1b" not in made and "{{ 1 + 1 }}" in made
    download = next(a["download"] for tag, a in elements if tag == "a")
    assert download == HOSTILE.replace("\x1b", "")


def test_formulas_are_set_as_chemists_do_and_escaped():
    shown = html_page._chemical("MoS2<b>3")
    assert str(shown) == "MoS<sub>2</sub>&lt;b&gt;3"
    alloy = html_page._chemical("Mo0.5W0.5S2")
    assert str(alloy) == "Mo<sub>0.5</sub>W<sub>0.5</sub>S<sub>2</sub>"


def test_what_a_template_names_must_be_given():
    with pytest.raises(jinja2.UndefinedError):
        render("folder.html", "x", conclusion="y", facts=[])


@pytest.mark.parametrize(
    ("column", "kind"),
    [(("1", "<0.1", "0.2 → 0.1", "-"), "number"), (("+0.1, -2.0",), "number"), (("Mo",), ""),
     (("1", "Mo"), ""), (("x" * 30,), "long"), ((1, 2.5), "number"), ((Link("1", "#"),), "")],
)  # fmt: skip
def test_columns_of_numbers_stand_to_the_right(column, kind):
    made = table("x", ("a",), [(value,) for value in column])
    assert made["head"] == [("a", kind)]


def test_a_script_that_would_end_its_element_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(html_page, "_HERE", tmp_path)
    (tmp_path / "static").mkdir()
    (tmp_path / "static/bad.js").write_text("'</SCRIPT>'")
    with pytest.raises(ValueError, match="bad.js"):
        html_page._file.__wrapped__("bad.js")

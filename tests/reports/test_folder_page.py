"""The overview of a folder: every pattern, its verdict and a link that stays in the folder."""

import html_pages
from html_pages import words

from dd2d_jax.reports.folder_page import page


def row(file: str, probability=None, none=None, error=None, folder=None) -> dict:
    known = None if error else 3.18
    return {
        "file": file, "folder": folder if error is None else None, "lattices": 0 if error else 1,
        "a": known, "b": known, "gamma": 120.0 if known else None,
        "formula": None if error else "MoS2", "uid": None if error else "mp-1",
        "probability": probability, "none": none, "r1": None if error else 0.08, "error": error,
    }  # fmt: skip


ROWS = [
    row("a.tif", 0.95, 0.01, folder="a"), row("b.tif", 0.6, 0.3, folder="b"),
    row("c.tif", 0.01, 0.98, folder="c"), row("d.tif", error="no diffraction pattern"),
    row("e.tif", folder="e"),
]  # fmt: skip


def test_it_counts_what_came_out_and_names_what_did_not():
    made = page(ROWS, {"folder": "mine", "command": "dd2d retrieve mine"})
    html_pages.check(made, tuple(f"./{name}/page.html" for name in "abce"))
    text = words(made)
    assert (
        "5 patterns: 1 identified, 1 likely, 1 not in the library, 1 not compared, 1 could not be "
        "used." in text
    )
    assert "d.tif could not be used - - - - - - - - - no diffraction pattern" in text


def test_links_lead_into_the_folder_whatever_the_names_are():
    hostile = ["javascript:alert(1)", "../../etc", 'a"><script>', "a b#?%"]
    made = page([row(name, 0.9, 0.1, folder=name) for name in hostile])
    links = (
        "./javascript%3Aalert%281%29/page.html", "./..%2F..%2Fetc/page.html",
        "./a%22%3E%3Cscript%3E/page.html", "./a%20b%23%3F%25/page.html",
    )  # fmt: skip
    html_pages.check(made, links)
    assert all(f'href="{link}"' in made for link in links)

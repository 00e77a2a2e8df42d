"""What notebooks show by themselves."""

import html5lib
import jax.numpy as jnp
import numpy as np
from found_example import make_found, make_twisted

import diffraction as dx


def parsed(text: str) -> str:
    html5lib.HTMLParser(strict=True).parseFragment(text)
    return text


def test_found_shows_its_conclusion_and_every_candidate():
    text = parsed(make_found()._repr_html_())
    assert "MoS2" in text and "42.1" in text and text.count("<tr>") == 3
    assert parsed(make_twisted()._repr_html_()).count("<table>") == 2


def test_texts_from_files_are_no_tags():
    text = parsed(make_found(uid="<script>alert(1)</script>", formula="<b>&x")._repr_html_())
    assert "<script" not in text and "<b>&x" not in text and "&lt;script&gt;" in text


def test_a_pattern_shows_its_spots_and_not_its_padding():
    q = jnp.array([[0.0, 0.3], [0.3, 0.0], [0.0, 0.0]])
    mask = jnp.array([True, True, False])
    one = dx.Pattern(q, jnp.ones(3), jnp.zeros((3, 2), int), mask, energy=80.0)
    text = parsed(one._repr_html_())
    assert "2 spots within 0.300 1/Å, 80 keV" in text and text.count("<circle") == 2
    none = dx.Pattern(q, jnp.ones(3), jnp.zeros((3, 2), int), np.zeros(3, bool))
    assert "0 spots" in parsed(none._repr_html_())


def test_a_batch_of_patterns_says_how_many():
    q = jnp.zeros((4, 3, 2))
    batch = dx.Pattern(q, jnp.ones((4, 3)), jnp.zeros((4, 3, 2), int), jnp.ones((4, 3), bool))
    assert "4 patterns, 12 spots" in batch._repr_html_()

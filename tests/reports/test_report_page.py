"""The report's page: sentences are made from the numbers, tables say what is best."""

import copy

import html_pages
import numpy as np
import pytest

from dd2d_jax.reports.report_page import page

CRYSTAL = {"uid": "c-1", "formula": "MoS2", "point_group": "-6m2", "a": 3.18, "b": 3.18,
           "gamma": 120.0}  # fmt: skip
DIFFRACTION = {"energy": 80.0, "q_max": 1.25, "b_iso": 0.5, "tokens": 48}


def tops(*values: float) -> dict[str, float]:
    return dict(zip(("top1", "top3", "top5", "top10"), values, strict=True))


def result(level: str) -> dict:
    methods = {name: {**tops(50, 60, 70, 80), "ms_per_query": 1.5}
               for name in ("neural", "physics", "neural+rerank")}  # fmt: skip
    return {"level": level, "library": 4000, "queries": 200, "methods": methods,
            "cell_alone": tops(11, 22, 33, 44)}  # fmt: skip


def network(name: str, top1: float) -> dict:
    return {"checkpoint": name, "network": "default", "heads": 4, "layers": 3, "width": 128,
            "parameters": 700000, "steps": 40, "diffraction": dict(DIFFRACTION),
            "clean": tops(99, 99, 99, 99), "perturbed": tops(top1, 90, 95, 99)}  # fmt: skip


NUMBERS = {
    "about": {
        "checkpoint": "runs/one", "queries": "q.db", "library": "l.db", "steps": 1234, "seed": 0,
        "parameters": 700000, "fingerprint": "abc", "device": "cpu",
        "versions": {"jax": "1.2.3"},
        "config": {"model": {"width": 128, "layers": 3, "heads": 4}, "diffraction": DIFFRACTION},
    },
    "accuracy": {
        "levels": [result("clean"), result("perturbed")],
        "chance": tops(0.025, 0.075, 0.125, 0.25),
        "published": {"source": "someone", "library": 796, "clean": tops(62, 92, 95, 99),
                      "perturbed": tops(55, 83, 94, 99)},
    },
    "attention": {
        "uid": "c-1", "formula": "MoS2", "encoder": "spots", "layers": [1],
        "tokens": ["cell", "(1 0)"], "kinds": ["cell", "spots"],
        "shares": {"cell": [[0.25, 0.75]], "spots": [[0.75, 0.25]]},
        "effective": [[1.5, 1.7]], "weights": [],
    },
    "point_groups": {
        "level": "perturbed", "tolerance": 0.1, "symbols": ["-6m2", "3m"],
        "distances": [[0, 0.5], [0.5, 0]],
        "attempts": [{"attempts": 5, "counts": [[3, 0], [4, 2]], "right": 55.5, "chance": 10.0,
                      "others": 3, "others_right": None, "others_chance": 9.5}],
    },
    "candidates": {
        "chosen": False,
        "level": "perturbed", "truth": CRYSTAL, "rank": 2,
        "candidates": [{"rank": i, **CRYSTAL, "uid": f"c-{i - 1}", "cosine": 0.9, "true": i == 2}
                       for i in (1, 2, 3)],
    },
    "ablation": [network("runs/one", 80), network("runs/two", 85)],
    "learning": {"loss": [(10, 5.0), (40, 2.0)], "validation": {"clean": [(40, 55.0)]}},
    "failures": {
        "level": "perturbed",
        "ranks": {"clean": {"2": 0}, "perturbed": {"2": 30}},
        "worst": [{"rank": 7, "true": CRYSTAL, "predicted": CRYSTAL, "cosine_true": 0.1,
                   "cosine_predicted": None}],
    },
}  # fmt: skip
IMAGES = dict.fromkeys(
    ("attention", "point_groups", "candidates", "ranks", "learning"),
    {"light": "data:image/png,a", "dark": "data:image/png,b"},
)


@pytest.fixture
def numbers() -> dict:
    return copy.deepcopy(NUMBERS)


def words(numbers: dict) -> str:
    return html_pages.words(page(numbers, IMAGES))


def test_the_page_is_valid_and_loads_nothing(numbers):
    elements = html_pages.check(page(numbers, IMAGES))
    assert [tag for tag, _ in elements].count("picture") == len(IMAGES)


def test_it_begins_with_what_most_readers_want_to_know(numbers):
    start = "Of 200 perturbed patterns, the network with reranking finds the right crystal among "
    assert start + "4,000 at the first attempt in 50.0 %, within ten in 80.0 %." in words(numbers)
    numbers["accuracy"]["levels"].append(result("measured"))
    assert "Of 200 measured patterns" in words(numbers)


def test_captions_state_the_numbers(numbers):
    text = words(numbers)
    for part in (
        "cell 50 % (25 to 75 by head; evenly 50)",
        "effectively attends to 1.6 of 2 tokens (1.5 to 1.7 by head)",
        "the commonest mistake is -6m2 for 3m (4 candidates)",
        "The true crystal has rank 2. 3 of the 3 have its point group, 3 its formula",
        "clean: 0 of 200 queries (0.0 %); perturbed: 30 of 200 queries (15.0 %)",
        "5 55.5 10.0 3 - 9.5",
        "drawn at random 0.025 0.075 0.12 0.25",
    ):
        assert part in text, part


def test_captions_change_with_the_numbers(numbers):
    numbers["candidates"]["rank"] = 40
    numbers["candidates"]["candidates"][0]["point_group"] = "m"
    numbers["point_groups"]["attempts"][0]["counts"] = [[3, 0], [0, 2]]
    text = words(numbers)
    assert "has rank 40 and is not among those drawn. 2 of the 3 have" in text
    assert "the first query, as none is ranked second to tenth" in text
    assert "the commonest mistake" not in text


def test_what_a_config_does_not_say_is_not_made_up(numbers):
    assert "trained on not known split not known training steps 1,234" in words(numbers)
    numbers["about"]["config"]["data"] = {"source": "c2db", "limit": 7951, "split": "random"}
    assert "trained on c2db, 7951 of its crystals" in words(numbers)


def test_the_best_network_of_each_column_is_marked(numbers):
    text = words(numbers)
    assert "runs/one default 4 3 128 700,000 40 99.0 ★ 99.0 ★ 99.0 ★ 99.0 ★ 80.0 90.0 ★" in text
    assert "runs/two default 4 3 128 700,000 40 99.0 ★ 99.0 ★ 99.0 ★ 99.0 ★ 85.0 ★ 90.0 ★" in text
    assert "taken under the same conditions" in text and "not taken under" not in text
    numbers["ablation"][1]["diffraction"]["q_max"] = 1.0
    assert "not taken under the same conditions" in words(numbers)


def test_sections_are_numbered_and_left_out_where_there_is_nothing_to_say(numbers):
    text = words(numbers)
    parts = ("6. Networks compared", "7. How it learned", "8. What it gets wrong")
    assert all(part in text for part in parts)
    numbers["ablation"] = []
    text = words(numbers)
    assert "Networks compared" not in text
    assert "6. How it learned" in text and "7. What it gets wrong" in text
    numbers["learning"] = None
    text = words(numbers)
    assert "How it learned" not in text and "6. What it gets wrong" in text


def test_the_page_says_whether_training_had_ended(numbers):
    assert "The weights of this report are those of step 1,234 of 40." in words(numbers)
    numbers["about"]["steps"] = 40
    assert "those of the last step: validation was still improving." in words(numbers)


@pytest.mark.parametrize(("encoder", "says"), [
    ("spots", "own simulated spots"), ("atoms", "one token for each atom"),
    ("sequence", "x, y, z and the atomic number Z of each atom"),
])  # fmt: skip
def test_what_each_network_reads_is_said(numbers, encoder, says):
    numbers["attention"]["encoder"] = encoder
    assert says in words(numbers)


def test_claims_of_the_paper_hold_where_heads_look_there(numbers):
    """Two heads and two layers; in the first layer one head looks at a, the other at b."""
    tokens = ["start", "a", "b", "γ", *(f"C{i}" for i in range(1, 6)), "end"]
    kinds = ["start", *["cell"] * 3, *["atoms"] * 5, "end"]
    weights = np.full((2, 2, 10, 10), 0.1)
    weights[0] *= 0.5
    weights[0, 0, :, 1] += 0.5
    weights[0, 1, :, 2] += 0.5
    one = numbers["attention"]
    even = {"shares": {kind: [[0.1, 0.1]] * 2 for kind in dict.fromkeys(kinds)}}
    one.update(tokens=tokens, kinds=kinds, layers=[1, 4], effective=[[5, 5]] * 2, **even)
    one["weights"] = weights.tolist()
    text = words(numbers)
    assert "head 1 looks most at a (55 % of its attention) and head 2 at b" in text
    assert "(55 %; evenly 10): this holds." in text
    assert "the end token puts 30 % of its attention on the cell in head 1" in text
    assert "(evenly 30): this does not hold." in text
    weights[0] = weights[0, :1]
    weights[1, 1, 9] = [0, 0.4, 0.2, 0.2, 0, 0, 0, 0, 0, 0.2]
    one["weights"] = weights.tolist()
    text = words(numbers)
    assert "and head 1 at b (5 %; evenly 10): this does not hold." in text
    assert "puts 80 % of its attention on the cell in head 2 and 55 % on average" in text
    assert "(evenly 30): this holds." in text


def test_no_failure_is_said_as_such(numbers):
    numbers["failures"]["worst"] = []
    assert "Level perturbed: every query is found first." in words(numbers)


@pytest.mark.parametrize("path", [
    ("about", "checkpoint"), ("about", "queries"), ("about", "device"), ("attention", "uid"),
    ("candidates", "truth", "uid"), ("failures", "worst", 0, "true", "formula"),
    ("about", "config", "model", "name"), ("ablation", 1, "checkpoint"),
])  # fmt: skip
def test_text_from_files_never_becomes_a_tag(numbers, path):
    *above, last = path
    holder = numbers
    for key in above:
        holder = holder[key]
    holder[last] = '"><script>x</script>\x1b&amp;'
    made = page(numbers, IMAGES)
    html_pages.check(made)
    assert "<script>x" not in made and "\x1b" not in made
    assert "&gt;&lt;script&gt;x&lt;/script&gt;&amp;amp;" in made


def test_a_long_map_says_how_much_is_not_drawn(numbers):
    one = numbers["attention"]
    count = 66
    one["tokens"], one["kinds"] = ["x"] * count, ["cell"] * 33 + ["atoms"] * 33
    one["weights"] = [[[[1 / count] * count] * count]]
    assert "The first 33 of 66 tokens are drawn; 50 % of their attention" in words(numbers)

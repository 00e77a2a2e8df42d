"""The one table of all benchmarks: it says on what it was measured, and what could not be."""

import sys
from importlib.metadata import version

import pytest

from benchmarks import run


def test_what_cannot_be_run_stands_in_the_table_with_its_reason(tmp_path, monkeypatch):
    out = tmp_path / "speed.md"
    line = ["run.py", "--only", "simulator", "library", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", line)
    run.main()
    text = out.read_text()
    assert "| library | not run: needs --library" in text
    assert "| simulator | not run: needs --data" in text
    assert f"jax {version('jax')}" in text and f"commit {run.commit()}" in text


def test_a_benchmark_that_fails_says_why():
    with pytest.raises(RuntimeError, match="no library here"):
        run.run(["library.py", "nowhere"])


def test_a_library_is_copied_to_about_a_million(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": 2, "crystals": 300000}')
    args = type("", (), {"library": tmp_path, "data": None})
    assert run.words("library", args) == [str(tmp_path), "--copies", "3"]


def test_rows_give_accuracy_and_time():
    method = {"top1": 90.0, "top3": 95.0, "top5": 99.0, "top10": 100.0, "ms_per_query": 2.5}
    report = {"level": "clean", "queries": 2, "library": 1000, "methods": {"neural": method}}
    assert run.retrieval([report]) == [
        ("clean, neural, 2 of 1,000", "90.0/95.0/99.0/100.0 %, 2.5 ms per query")
    ]

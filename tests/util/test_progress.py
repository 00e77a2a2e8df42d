"""What is being done is told to whoever watches: plain lines where it is piped."""

import io
import sys

import pytest

from dd2d_jax.util.progress import progress, stage, watched


class Terminal(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self):
        return True


def test_piped_stages_are_plain_lines():
    lines = []
    with watched(lines.append):
        stage("finding spots")
        stage("refining [red]x[/red]")
    assert lines == ["finding spots", "refining [red]x[/red]"]


def test_a_terminal_shows_the_stage_and_is_left_clean(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with watched(lambda line: pytest.fail("not piped")):
        stage("refining [red]x[/red]")
        print("a note", file=sys.stderr)
    shown = terminal.getvalue()
    assert "refining [red]x[/red]" in shown and "a note\n" in shown
    assert shown.endswith("\x1b[2K")  # the line is cleared


def test_without_a_watcher_nothing_is_said(capsys):
    with watched(lambda line: None):
        pass
    stage("nobody hears this")
    assert capsys.readouterr() == ("", "")


def test_an_error_ends_the_watch():
    lines = []
    with pytest.raises(KeyError), watched(lines.append):
        raise KeyError
    stage("after")
    assert lines == []


def test_a_bar_passes_on_every_item():
    assert list(progress([1, 2, 3], 3, "numbers")) == [1, 2, 3]

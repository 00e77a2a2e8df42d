"""What the documentation tells a reader to type and to follow is there."""

import functools
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

import dd2d_jax
import diffraction
from configs import base, paper, shipped, smoke, twin
from dd2d_jax.commands import main as cli
from train import main

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = {"base": base, "paper": paper, "shipped": shipped, "smoke": smoke, "twin": twin}
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)(?:    .*\n|\n(?=    ))+")


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of a language."""
    return [code for name, code in _FENCED.findall(page.read_text("utf-8")) if name == language]


def typed(page: Path) -> list[list[str]]:
    """The words of each command in the indented and the shell blocks of a page."""
    text = page.read_text("utf-8")
    shell = [*_INDENTED.findall(_FENCED.sub("", text)), *blocks(page, "bash")]
    out = []
    for line in "\n".join(shell).replace("\\\n", " ").splitlines():
        if not re.match(r"\s*(dd2d|python|for|srun|gcloud)\b", line):
            continue  # a formula, Python
        words = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        words.whitespace_split = True
        out.append([])
        for word in words:
            if set(word) <= set("&|;"):
                out.append([])
            else:
                out[-1].append(word)
    return out


def options_of(command: str) -> set[str]:
    """The flags that a command of `dd2d` has."""
    commands = next(x for x in cli._parser()._actions if isinstance(x.choices, dict)).choices
    return {flag for action in commands[command]._actions for flag in action.option_strings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_can_be_typed(page):
    for words in typed(page):
        if words[:1] == ["dd2d"]:
            cli._parser().parse_args(words[1:])
        elif "train.main" in words:
            check_training(words[words.index("train.main") + 1 :])
        elif words[:1] == ["python"] and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), words[1]
    for command, rest in re.findall(r"`dd2d ([a-z-]+)([^`]*)`", page.read_text("utf-8")):
        unknown = set(re.findall(r"(?<!\S)--[a-z-]+", rest)) - options_of(command)
        assert not unknown, f"dd2d {command} has no {unknown}"


def check_training(words: list[str]) -> None:
    """Flags of the training program are there, and so are the keys of its config."""
    given = dict(word.removeprefix("--").partition("=")[::2] for word in words)
    config = CONFIGS[Path(given.pop("config")).stem].get_config().to_dict()
    for name in given:
        if name.startswith("config."):
            functools.reduce(lambda tree, key: tree[key], name.split(".")[1:], config)
        else:
            assert name in main.flags.FLAGS, f"train.main has no --{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, target


def test_the_code_of_the_tutorial_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks(ROOT / "docs/tutorial-ml.md", "python"):
        exec(compile(code, "tutorial-ml.md", "exec"), names)
    assert names["found"][0].uid == names["crystals"].uid[0]


@pytest.mark.slow
def test_the_five_minutes_of_the_readme_work_from_top_to_bottom(tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text("utf-8")
    part = text[text.index("## Five minutes") : text.index("## What else")]
    program = [sys.executable, "-m", "dd2d_jax.commands.main"]
    space = {**os.environ, "PYTHONPATH": str(ROOT)}
    lines = ["dd2d demo --no-browser", *re.findall(r"^    (\S.*)$", part, re.MULTILINE)]
    assert len(lines) > 4
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:2] == ["dd2d", "app"]:
            continue  # it waits for a person; tests/app
        start = program if words[0] == "dd2d" else [sys.executable]
        done = subprocess.run([*start, *words[1:]], cwd=tmp_path, env=space, capture_output=True)
        assert done.returncode == 0, (line, done.stderr.decode()[-2000:])
    assert (tmp_path / "found" / "page.html").is_file()
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in _FENCED.findall(part):
        exec(compile(code[1], "README.md", "exec"), names)
    assert names["found"][0].formula == "MoS2" and (tmp_path / "from_python").is_dir()


def test_the_page_of_the_api_lists_every_public_name():
    listed = re.findall(r"^::: (\S+)$", (ROOT / "docs/api.md").read_text("utf-8"), re.MULTILINE)
    found = [pkgutil.resolve_name(name) for name in listed]
    for package in (diffraction, dd2d_jax):
        for name in package.__all__:
            assert getattr(package, name) in found, f"{package.__name__}.{name}"

"""`dd2d demo`, `dd2d app` before there is a window, and what a shell completes."""

import json
import subprocess

import pytest
import small_library

from dd2d_jax.commands import app, demo
from dd2d_jax.libraries.library import Library
from dd2d_jax.matching import retrieval
from dd2d_jax.networks.trained import load
from dd2d_jax.util import files


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small library and network."""
    folder = tmp_path_factory.mktemp("small")
    small_library.make(folder)
    return Library.load(folder / "lib"), load(folder / "run")


def test_the_demo_goes_from_an_image_to_its_crystal_and_on(
    small, tmp_path, monkeypatch, command_line
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(retrieval, "_default_library", lambda: small[0])
    monkeypatch.setattr(demo, "load_model", lambda checkpoint: small[1])
    opened = []
    monkeypatch.setattr(demo, "open_in_browser", opened.append)
    status, out, err = command_line("demo")
    assert status == 0, err
    folder = tmp_path / "dd2d-demo"
    assert opened == [(folder / "found" / "page.html").as_uri()]
    assert (folder / "steps.png").is_file() and (folder / "mos2.tif").is_file()
    found = json.loads((folder / "found" / "found.json").read_text())
    assert found["candidates"][0]["formula"] == "MoS2"
    assert "The crystal is" in out and "dd2d app dd2d-demo/mos2.tif --energy 80" in out
    # Once more: nothing is overwritten, and nothing is in the way.
    assert files.first_free(folder) == tmp_path / "dd2d-demo-2"


def test_the_demo_never_overwrites(tmp_path, monkeypatch, command_line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    status, _, err = command_line("demo --output here")
    assert status == 1 and "exists already" in err


def test_the_window_says_what_it_misses(tmp_path, monkeypatch, command_line):
    monkeypatch.chdir(tmp_path)
    status, _, err = command_line("app none.tif")
    assert status == 1 and err == "error: none.tif: no such file\n"
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: None)
    status, _, err = command_line("app")
    assert status == 1 and "pip install '.[app]'" in err


def test_a_shell_completes_commands_and_options(command_line):
    pytest.importorskip("shtab")
    status, out, _ = command_line("--print-completion bash")
    assert status == 0 and "retrieve" in out and "--scale-error" in out
    assert subprocess.run(["bash", "-n"], input=out, text=True).returncode == 0

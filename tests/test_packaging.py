"""The wheel carries the two packages with their data, and nothing else."""

import configparser
import fnmatch
import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser

import pytest
from paths import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: a build leaves build/ and *.egg-info behind, and stale ones would enter the wheel.
    shutil.copytree(
        ROOT,
        folder / "tree",
        ignore=shutil.ignore_patterns(
            ".*", "__pycache__", "build", "dist", "*.egg-info", "workdir*", "runs"
        ),
    )
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--quiet", "-w", "out"]
    try:
        setuptools = int(importlib.metadata.version("setuptools").split(".")[0])
    except importlib.metadata.PackageNotFoundError:  # Python 3.12 brings none along
        setuptools = 0
    if setuptools >= 77:
        command.append("--no-build-isolation")  # as [build-system] asks for: no download
    done = subprocess.run(command, cwd=folder / "tree", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = (folder / "tree" / "out").glob("*.whl")
    return zipfile.ZipFile(path)


def files(package: str, pattern: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / package).rglob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_has_two_packages_and_nothing_else(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    (info,) = [top for top in tops if top.endswith(".dist-info")]
    assert tops - {info} == {"dd2d_jax", "diffraction"}


def test_the_wheel_has_every_module(wheel):
    modules = files("dd2d_jax", "*.py") | files("diffraction", "*.py")
    assert modules == {name for name in wheel.namelist() if name.endswith(".py")}


def test_the_wheel_has_all_data(wheel):
    data = files("dd2d_jax/data/prototypes", "*.csv") | files("diffraction/tables", "*")
    assert len(data) >= 9
    if (ROOT / "dd2d_jax/weights").is_dir():
        data |= files("dd2d_jax/weights", "*")
    assert data <= set(wheel.namelist())


def test_no_file_of_the_packages_is_left_out(wheel):
    # A file of a new kind needs an entry in package_data.
    everything = files("dd2d_jax", "*") | files("diffraction", "*")
    left_out = everything - set(wheel.namelist())
    assert not {name for name in left_out if not name.endswith(".pyc")}


def test_the_wheel_has_the_licences(wheel):
    names = wheel.namelist()
    assert fnmatch.filter(names, "*.dist-info/*LICENSE")
    assert fnmatch.filter(names, "*.dist-info/*LICENSES.md")
    assert "diffraction/tables/LICENSES.md" in names


def test_the_wheel_has_the_command(wheel):
    (name,) = fnmatch.filter(wheel.namelist(), "*.dist-info/entry_points.txt")
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(name).decode())
    assert dict(parser["console_scripts"]) == {"dd2d": "dd2d_jax.commands.main:main"}


def test_the_wheel_says_what_it_is(wheel):
    (name,) = fnmatch.filter(wheel.namelist(), "*.dist-info/METADATA")
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["Name"] == "dd2d-jax"
    assert metadata["Requires-Python"] == ">=3.11"
    # What the tests need is not forced on users.
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra" not in line]
    assert not [line for line in needed if line.startswith(("pytest", "ruff", "hyperspy"))]


def test_every_extra_that_is_named_exists():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    named = {}
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("dd2d_jax/**/*.py")]:
        for text in re.findall(r"pip install (?:-e )?'\.\[([\w,]+)\]'", path.read_text("utf-8")):
            named |= dict.fromkeys(text.split(","), path.name)
    assert {"app", "completion", "test"} <= named.keys()
    assert not {x: where for x, where in named.items() if x not in config["options.extras_require"]}

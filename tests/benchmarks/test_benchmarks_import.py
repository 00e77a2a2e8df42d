"""Programs that measure, which no other test runs, know the package as it is."""

import importlib

import pytest
from paths import ROOT

OWN = ("benchmarks", "dd2d_jax", "diffraction", "train")


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py")))
def test_what_a_benchmark_imports_is_there(name, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    try:
        made = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] in OWN:
            raise
        pytest.skip(f"{error.name} is not installed")
    assert made.__file__ == str(ROOT / "benchmarks" / f"{name}.py")

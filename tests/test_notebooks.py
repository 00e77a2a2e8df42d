"""The notebooks run from top to bottom in a fresh kernel, and what they find is right."""

import glob
import importlib.util
import sys

import nbformat
import numpy as np
import pytest
import tiny
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from paths import ROOT
from programs import environment

NAMES = ("diffraction_on_the_fly", "train_and_retrieve", "image_to_structure")


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Executes a notebook in an empty folder: other parameters, and checks as its last cell."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("DD2D_DATA_DIR", str(tmp_path / "data"))
    # One device, as most runtimes have.
    monkeypatch.setenv("XLA_FLAGS", environment(1)["XLA_FLAGS"])
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    folder = tmp_path / "run"
    folder.mkdir()

    def run(name: str, parameters: str, checks: str, pictures: int) -> None:
        notebook = read(name)
        tagged = ["parameters" in cell.metadata.get("tags", []) for cell in notebook.cells]
        notebook.cells.insert(tagged.index(True) + 1, new_code_cell(parameters))
        notebook.cells.append(new_code_cell(checks))
        where = {"metadata": {"path": str(folder)}}
        client = NotebookClient(notebook, timeout=600, startup_timeout=300, resources=where)
        client.execute()
        outputs = [output for cell in code(notebook) for output in cell.outputs]
        assert pictures == sum("image/png" in output.get("data", {}) for output in outputs)
        assert not [output for output in outputs if output.get("name") == "stderr"]

    return run


@pytest.mark.parametrize("name", NAMES)
def test_they_are_valid_and_hold_no_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert not any(cell.outputs or cell.execution_count for cell in code(notebook))
    assert code(notebook)[0].source == code(read(NAMES[0]))[0].source


@pytest.mark.slow
def test_patterns_on_the_fly(run):
    checks = """
    assert abs(ring * 3.18 * np.sqrt(3) / 2 - 1) < 1e-3
    one = int(np.flatnonzero((np.asarray(made.hk[0]) == (1, 0)).all(-1))[0])
    row = np.asarray(strained.reciprocal[0, 0])
    plain = np.asarray(crystals.reciprocal)[int(rows[0]), 0]
    assert np.allclose(made.q[0, one], row, atol=1e-5) and not np.allclose(row, plain, atol=1e-4)
    assert len(made) == 64 and len(set(np.asarray(rows).tolist())) > 5 and rate > 0
    assert np.allclose(strongest, made.intensity.max(-1), rtol=1e-3)
    assert np.allclose(images[1e6].sum() / images[1e7].sum(), 0.1, rtol=0.02)
    film = profiles["electrons, flat film, layers 100 Å wide"]
    assert abs(q[np.argmax(film)] * 2.46 * np.sqrt(3) / 2 - 1) < 0.01
    """
    run(NAMES[0], "BATCH, STEPS, Q_MAX = 64, 2, 1.2", checks, pictures=6)


@pytest.mark.slow
def test_training_and_retrieval(run, tmp_path):
    path = tiny.write_db(tmp_path / "tiny.db")
    overrides = (
        "--config.data.source=ase_db", f"--config.data.path={path}", "--config.train.warmup=2",
        "--config.diffraction.tokens=8", "--config.model.width=16", "--config.model.heads=2",
        "--config.model.embedding=8", "--config.train.batch=16",
        "--config.train.evaluate_every=20", "--config.data.limit=0",
    )  # fmt: skip
    parameters = f"STEPS, LIBRARY, OVERRIDES = 40, {str(path)!r}, {' '.join(overrides)!r}"
    checks = """
    assert steps[-1]["step"] == 40 and steps[-1]["loss"] < 0.9 * steps[0]["loss"]
    table = json.loads((workdir / "test.json").read_text())
    assert all(0 < table[level]["full"]["top50"] <= 100 for level in ("clean", "perturbed"))
    assert len(library) == 32 and 1 <= place <= 32
    assert names[0] == uid and found[0].probability > found.none
    for result in results.values():
        assert result["library"] == 32 and result["queries"] == len(tests)
    assert results["clean"]["methods"]["physics"]["top1"] == 100
    """
    run(NAMES[1], parameters, checks, pictures=3)


@pytest.mark.slow
def test_from_an_image_to_a_structure(run):
    checks = """
    assert abs(calibration.mapping.scale / camera.scale - 1) < 0.005
    assert abs(calibration.mapping.ellipticity - camera.ellipticity) < 0.005
    assert np.allclose(cell(lattices[0].lattice)[:2], a0, rtol=0.01)
    assert best.uid == "1H-MoS2" and best.probability > 0.5 and best.known
    assert np.allclose((a, b), a0, rtol=0.003) and best.r_factor < best.r_before < 0.1
    assert any("z of S" in line for line in undetermined(found))
    assert {"01_MoS2.cif", "page.html", "found.json"} <= {path.name for path in folder.iterdir()}
    assert Path("found_1.zip").stat().st_size > 0 and "1H-MoS2" in page
    """
    run(NAMES[2], "PIXELS, DOSE, CANDIDATES = 256, 3e5, 2", checks, pictures=4)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Runs the first cell as IPython would where the package is not there yet; its commands."""

    def install(repository: str, devices: tuple[str, ...] = (), there: bool = False) -> list[str]:
        find_spec, commands = importlib.util.find_spec, []

        class Shell:
            def system(self, command: str) -> None:
                commands.append(command.format(**names))

            def run_line_magic(self, *magic: str) -> None:
                assert magic == ("matplotlib", "inline")

        def found(name: str):
            return find_spec(name) if there or len(commands) == 2 else None

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", sys.path[:])
        monkeypatch.setattr(importlib.util, "find_spec", found)
        monkeypatch.setattr(glob, "glob", lambda pattern: [d for d in devices if d in pattern])
        names = {"get_ipython": Shell}
        source = code(read(NAMES[0]))[0].source
        source = source.replace('REPOSITORY = ""', f"REPOSITORY = {repository!r}")
        exec(TransformerManager().transform_cell(source), names)
        assert names["ROOT"] == ROOT
        return commands

    return install


@pytest.mark.parametrize(
    ("devices", "extra"), [((), ""), (("/dev/nvidia",), "[cuda]"), (("/dev/vfio/",), "[tpu]")]
)
def test_the_first_cell_installs_what_the_accelerator_needs(install, tmp_path, devices, extra):
    clone, pip = install("https://example.org/dd2d-jax", devices)
    assert clone == f'git clone --depth 1 "https://example.org/dd2d-jax" "{tmp_path}/dd2d-jax"'
    assert pip.endswith(f'-m pip install --quiet -e "{tmp_path}/dd2d-jax{extra}"')


def test_the_first_cell_installs_nothing_where_the_package_is(install):
    assert install("", there=True) == []


def test_the_first_cell_says_what_is_missing(install, monkeypatch):
    with pytest.raises(ValueError, match="REPOSITORY"):
        install("")
    monkeypatch.setattr(np, "__version__", "1.0")
    with pytest.raises(RuntimeError, match="Restart session"):
        install("https://example.org/dd2d-jax")

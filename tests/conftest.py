"""Fixtures that several test files share."""

import os
import tempfile
from importlib.metadata import version
from pathlib import Path

# Several devices on one machine, for the tests of data parallelism; read when jax starts.
# The others make compiling cheap: most programs of the tests are small and run once or twice.
_flags = (
    "--xla_force_host_platform_device_count=4"
    " --xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"
)
# A flag that XLA does not know ends the process; later versions do not know this one.
if version("jaxlib").startswith("0.10."):
    _flags += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _flags)
# Two workers on two cores: threads of their own would only wait for each other.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# Workers and programs that tests start share what was compiled, for as long as the tests run.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="dd2d-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # see util.cache.quiet_compiler

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from paths import ROOT  # noqa: E402

import diffraction as dx  # noqa: E402


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with data for measuring and testing; it is not part of the project."""
    path = Path(os.environ.get("DD2D_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no data at {path}; set DD2D_SHARED_DATA to the folder that holds them")
    return path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A browser; tests that ask for it skip where there is none."""
    import browser

    one = browser.Browser(tmp_path_factory.mktemp("browser"))
    yield one
    one.close()


@pytest.fixture
def x64():
    """Run the test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def layer():
    """Makes a crystal without any symmetry: oblique, several elements, a few angstrom thick."""

    def make(seed: int = 0, atoms: int = 5, thickness: float = 4.0) -> dx.Crystal:
        rng = np.random.default_rng(seed)
        lattice = np.array([[3.1, 0.4], [-0.9, 4.2]]) + rng.normal(0, 0.1, (2, 2))
        positions = np.append(rng.random((atoms, 2)) @ lattice, np.zeros((atoms, 1)), 1)
        positions[:, 2] = thickness * rng.random(atoms)
        numbers = rng.choice([1, 6, 8, 14, 16, 26, 42, 53, 74], atoms)
        return dx.Crystal(jnp.asarray(lattice), jnp.asarray(positions), jnp.asarray(numbers))

    return make


@pytest.fixture
def command_line(capsys):
    """Runs a command line of `dd2d`; status, stdout, stderr."""
    from dd2d_jax.commands import main as cli

    def run(line: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = cli.main(line.split())
        except SystemExit as leave:
            status = leave.code
        return status, *capsys.readouterr()

    return run

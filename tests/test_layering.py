"""Imports run one way: diffraction <- dd2d_jax <- train; configs stand apart."""

import ast
import graphlib
import importlib
import importlib.util
import os
import subprocess
import sys
import tokenize

import pytest
from paths import ROOT

import dd2d_jax
import diffraction

_spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "rooms.py")
rooms = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(rooms)

PACKAGES = ("diffraction", "dd2d_jax", "train", "configs")
OURS = {*PACKAGES, "benchmarks", "tests"}
# What was found shows itself: `found.table()`. Reports are loaded when they are asked for, since
# matplotlib and the pages take a while to start.
LOOKS_UP = {
    ("dd2d_jax.matching.found", "dd2d_jax.reports"),
    ("dd2d_jax.matching.found", "dd2d_jax.app"),
    ("dd2d_jax.matching.found", "dd2d_jax.matching.next_tilt"),
}


def modules(package: str):
    return sorted((ROOT / package).rglob("*.py"))


def imports(path, type_checking: bool = True) -> set[tuple[str, str]]:
    """(top-level package, name of the enclosing function or "") of every import in a file."""
    found = set()

    def visit(node, function):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            if not type_checking:
                return
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.Import):
            found.update((alias.name.split(".")[0], function) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it leads"
            found.add((node.module.split(".")[0], function))
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(path.read_text()), "")
    return found


def module_edges() -> dict[str, set[str]]:
    """What each module of the program imports of it, but for what may look up."""
    return {
        name: {x for x in found if not any(name == a and x.startswith(b) for a, b in LOOKS_UP)}
        for name, found in rooms.module_imports().items()
    }


def names(path) -> set[str]:
    """What a file says in code: names, not comments or text."""
    with tokenize.open(path) as file:
        return {t.string for t in tokenize.generate_tokens(file.readline) if t.type == 1}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_has_modules(package):
    assert (ROOT / package / "__init__.py") in modules(package)
    assert len(modules(package)) > 1


def test_diffraction_is_a_leaf():
    allowed = {"jax", "numpy", "diffraction", *sys.stdlib_module_names}
    for path in modules("diffraction"):
        for name, function in imports(path, type_checking=False):
            late = {"ase": "to_ase", "pymatgen": "to_pymatgen"}
            if path.name == "crystal.py" and function == late.get(name):
                continue
            assert name in allowed, f"{path} imports {name}"


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("diffraction", {"diffraction"}),
        ("dd2d_jax", {"diffraction", "dd2d_jax"}),
        ("train", {"diffraction", "dd2d_jax", "train"}),
        ("configs", {"configs"}),
    ],
)
def test_imports_run_one_way(package, allowed):
    for path in modules(package):
        ours = {name for name, _ in imports(path)} & OURS
        assert ours <= allowed, f"{path} imports {ours - allowed}"


def test_every_module_of_dd2d_jax_is_in_a_room():
    for path in modules("dd2d_jax"):
        first = path.relative_to(ROOT / "dd2d_jax").parts[0]
        assert first == "__init__.py" or first.removesuffix(".py") in rooms.ROOMS, path


def test_each_room_imports_only_from_those_before_it():
    for module, found in module_edges().items():
        for other in found:
            if module.startswith("dd2d_jax.") and other.startswith("dd2d_jax."):
                places = [rooms.ROOMS.index(rooms.room(x)) for x in (other, module)]
                assert places[0] <= places[1], f"{module} imports {other}"


def test_no_modules_import_each_other_in_a_circle():
    try:
        list(graphlib.TopologicalSorter(module_edges()).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_the_picture_of_the_rooms_has_all_of_them(tmp_path):
    rooms.draw(tmp_path / "rooms.svg")
    there = {rooms.room(name) for name in rooms.modules()} - {"dd2d_jax", "configs"}
    assert there <= set(rooms.WHAT)
    assert (tmp_path / "rooms.svg").stat().st_size > 10_000


def test_configs_import_only_ml_collections_and_each_other():
    for path in modules("configs"):
        assert {name for name, _ in imports(path)} <= {"ml_collections", "configs"}


def test_only_the_step_says_pmap():
    said = {
        path.relative_to(ROOT).as_posix()
        for package in (*PACKAGES, "benchmarks")
        for path in modules(package)
        if {"pmap", "jax_utils"} & names(path)
    }
    assert said == {"train/step.py"}


def test_only_checkpoint_imports_orbax():
    where = {
        path.relative_to(ROOT).as_posix()
        for package in (*PACKAGES, "benchmarks")
        for path in modules(package)
        if "orbax" in {name for name, _ in imports(path)}
    }
    assert where == {"dd2d_jax/networks/checkpoint.py"}


def test_configs_do_not_rely_on_their_module_name():
    # config_flags loads a config file under another name.
    for path in modules("configs"):
        assert "__name__" not in names(path)


def test_diffraction_exports_what_the_design_names():
    wanted = {
        "Crystal", "Pattern", "Electrons", "Xrays", "stack", "simulate", "structure_factor",
    }  # fmt: skip
    assert wanted <= set(diffraction.__all__)


def test_dd2d_jax_exports_what_the_design_names():
    assert {"load", "Library", "retrieve", "read_pattern"} <= set(dd2d_jax.__all__)
    assert callable(dd2d_jax.Library.build) and callable(dd2d_jax.Library.load)


@pytest.mark.parametrize("package", [diffraction, dd2d_jax])
def test_every_public_name_is_there_and_documented(package):
    assert sorted(package.__all__) == list(package.__all__)
    for name in package.__all__:
        value = getattr(package, name)
        assert value.__doc__, name
        # Defined once, in a module of the package.
        home = importlib.import_module(value.__module__)
        assert home.__name__.startswith(f"{package.__name__}.")
        assert getattr(home, name) is value


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        dd2d_jax.nonsense  # noqa: B018


def test_importing_dd2d_jax_does_not_wait_for_jax():
    # `dd2d --help` answers at once.
    code = "import sys, dd2d_jax; print(sorted({'jax', 'ase', 'orbax', 'flax'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"

"""Molecular dynamics: the right temperature, resumed to the last bit, blow-ups named."""

import dataclasses
import itertools
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase
import numpy as np
import pytest
from ase import units
from ase.build import fcc111, mx2
from ase.calculators.calculator import Calculator, all_changes
from ase.db import connect
from paths import ROOT
from springs import Springs

from dd2d_jax.data import usable
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.evaluation import snapshots as dynamics
from dd2d_jax.evaluation.snapshots import Settings, make, read_snapshots
from dd2d_jax.util.errors import StructureError

SHORT = Settings("emt", time=0.03)


def slab(bottom: str, middle: str, top: str) -> ase.Atoms:
    atoms = fcc111(bottom, (1, 1, 3), vacuum=8)
    atoms.symbols[:] = [bottom, middle, top]
    return atoms


SLABS = [("Cu", "Cu", "Cu"), ("Ag", "Au", "Ag"), ("Pt", "Ni", "Pd"), ("Au", "Au", "Cu")]


@pytest.fixture(scope="module")
def slabs() -> CrystalSet:
    """Layers of three atoms that EMT knows."""
    return usable.from_atoms((slab(*s), {"uid": "-".join(s)}) for s in SLABS)


def rows(path: Path) -> list[tuple]:
    """Everything in a database but when it was written."""
    return [
        (
            row.key_value_pairs,
            row.calculator,
            row.positions.tobytes(),
            row.momenta.tobytes(),
            row.cell.tobytes(),
            row.numbers.tobytes(),
        )
        for row in connect(path).select()
    ]


def test_positions_and_velocities_are_those_of_the_temperature():
    """On springs all is known: m <v^2> = k <u^2> = 3 kT (1 - 1/N), N equal atoms."""
    kelvin, constant, count = 400.0, 5.0, 12000
    atoms = slab("Cu", "Cu", "Cu")
    atoms.calc = Springs(constant)
    start = atoms.positions.copy()
    steps = dynamics.langevin(atoms, kelvin, np.random.default_rng(0))
    square, kinetic = 0.0, 0.0
    for step in itertools.islice(steps, count):
        square += ((atoms.positions - start) ** 2).sum() / 3 / count
        kinetic += step / count
    wanted = 3 * units.kB * kelvin / constant * (1 - 1 / 3)
    # About 120 independent samples of six numbers.
    assert square == pytest.approx(wanted, rel=0.15)
    assert kinetic == pytest.approx(kelvin, rel=0.1)
    np.testing.assert_allclose((atoms.positions - start).mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(atoms.get_momenta().sum(0), 0, atol=1e-9)


def test_the_temperature_asked_for_is_reached(slabs, tmp_path):
    made = make(slabs, tmp_path / "s.db", Settings("emt", time=0.5))
    assert made["crystals"] == made["snapshots"] == 4 and made["skipped"] == {}
    assert made["kinetic_temperature"] == pytest.approx(300, rel=0.25)


def test_atoms_move_more_when_hotter(slabs, tmp_path):
    cold, hot = (
        make(slabs.take([0]), tmp_path / f"{t}.db", Settings("emt", t, 0.05, snapshots=8))
        for t in (50.0, 450.0)
    )
    # Harmonic: three times as far.
    assert 2 < hot["displacement"] / cold["displacement"] < 4.5


def test_crystals_with_mixed_sites_are_skipped_and_told(slabs, tmp_path):
    shares = np.ones(slabs.numbers.shape, np.float32)
    shares[1, 0] = 0.5
    mixed = dataclasses.replace(slabs, occupancy=shares)
    made = make(mixed.take([0, 1]), tmp_path / "s.db", Settings("emt", time=0.01))
    assert made["crystals"] == 1
    assert made["skipped"] == {
        "partial occupancy": {"Ag-Au-Ag": "atoms on mixed sites cannot move"}
    }


def test_rows_say_what_made_them(slabs, tmp_path):
    path = tmp_path / "s.db"
    make(slabs.take([1]), path, Settings("emt", 250, 0.01, snapshots=2, seed=7))
    first, second = connect(path).select()
    assert first.uid != second.uid
    for number, row in enumerate((first, second), 1):
        assert row.parent == "Ag-Au-Ag" and row.calculator == "emt"
        assert (row.temperature, row.seed) == (250, 7)
        assert row.time == pytest.approx(0.01 * number)
        moved = row.positions - slabs.atoms(1).positions
        assert row.displacement == pytest.approx(np.sqrt((moved**2).sum(1).mean()))
        assert 0 < row.displacement < 0.5
        np.testing.assert_array_equal(row.cell, slabs.atoms(1).cell)
        np.testing.assert_array_equal(row.pbc, [True, True, False])
    assert np.abs(first.positions - second.positions).max() > 0.01


def test_seeds_and_crystals_have_their_own_random_numbers(slabs, tmp_path):
    one = slabs.take([0])
    alike = dataclasses.replace(one, uid=np.array(["another"]))
    sets = {"a": (one, 0), "again": (one, 0), "seed": (one, 1), "uid": (alike, 0)}
    found = {}
    for name, (crystals, seed) in sets.items():
        make(crystals, tmp_path / f"{name}.db", dataclasses.replace(SHORT, seed=seed))
        found[name] = connect(tmp_path / f"{name}.db").get(1).positions
    np.testing.assert_array_equal(found["a"], found["again"])
    for other in ("seed", "uid"):
        assert np.abs(found[other] - found["a"]).max() > 0.01


def test_resumed_equals_uninterrupted(slabs, tmp_path):
    settings = dataclasses.replace(SHORT, snapshots=2)
    whole = make(slabs, tmp_path / "whole.db", settings)
    make(slabs.take([0, 1]), tmp_path / "parts.db", settings)
    parts = make(slabs, tmp_path / "parts.db", settings)
    assert parts == {**whole, "before": 2}
    assert len(rows(tmp_path / "whole.db")) == 8
    assert rows(tmp_path / "parts.db") == rows(tmp_path / "whole.db")
    # Nothing is left to do: nothing is done.
    assert make(slabs, tmp_path / "parts.db", settings) == {**whole, "before": 4}
    assert rows(tmp_path / "parts.db") == rows(tmp_path / "whole.db")


KILLED = """
import sys
from ase.build import fcc111, mx2
from dd2d_jax.data import usable
from dd2d_jax.evaluation import snapshots as dynamics

def slab(*symbols):
    atoms = fcc111(symbols[0], (1, 1, 3), vacuum=8)
    atoms.symbols[:] = symbols
    return atoms

crystals = usable.from_atoms((slab(*s.split("-")), {"uid": s}) for s in sys.argv[2:])
dynamics.make(crystals, sys.argv[1], dynamics.Settings("emt", time=0.3, snapshots=2))
"""


def test_a_killed_run_leaves_a_database_that_is_gone_on_with(slabs, tmp_path):
    settings, path = Settings("emt", time=0.3, snapshots=2), tmp_path / "s.db"
    run = subprocess.Popen([sys.executable, "-c", KILLED, str(path), *slabs.uid], cwd=ROOT)
    limit = time.monotonic() + 60
    while not path.exists() and run.poll() is None and time.monotonic() < limit:
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    run.wait()
    left = rows(path)
    assert 2 <= len(left) < 8 and len(left) % 2 == 0
    assert len(read_snapshots(path, slabs)) == len(left)
    make(slabs, path, settings)
    make(slabs, tmp_path / "whole.db", settings)
    assert rows(path) == rows(tmp_path / "whole.db")


def test_a_database_of_other_settings_is_left_alone(slabs, tmp_path):
    path = tmp_path / "s.db"
    make(slabs.take([0]), path, SHORT)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="s.db: made with temperature 300.0, not 400"):
        make(slabs, path, dataclasses.replace(SHORT, temperature=400))
    assert path.read_bytes() == before
    other = tmp_path / "other.db"
    slabs.write_db(other)
    (tmp_path / "text.db").write_text("hello, this is no database at all\n" * 9)
    for name in ("other.db", "text.db"):
        with pytest.raises(ValueError, match=f"{name}: not a database of dd2d snapshots"):
            make(slabs, tmp_path / name, SHORT)
        with pytest.raises(ValueError, match=f"{name}: not a database of dd2d snapshots"):
            read_snapshots(tmp_path / name, slabs)


class Wild(Springs):
    """Unfit for silver, and pushes atoms out of layers with nickel."""

    def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if "Ag" in atoms.symbols:
            raise NotImplementedError("no silver")
        if "Ni" in atoms.symbols:
            self.results["forces"][0, 2] = 500.0


def test_crystals_that_blow_up_are_left_out_and_named(slabs, tmp_path, monkeypatch):
    monkeypatch.setattr(dynamics, "calculator", lambda _: Wild(5.0))
    made = make(slabs, tmp_path / "s.db", SHORT)
    assert made["crystals"] == made["snapshots"] == 2
    kept = [row.parent for row in connect(tmp_path / "s.db").select()]
    assert kept == ["Cu-Cu-Cu", "Au-Au-Cu"]
    assert {reason: list(named) for reason, named in made["skipped"].items()} == {
        "calculator failed": ["Ag-Au-Ag"],
        "blown up": ["Pt-Ni-Pd"],
    }
    assert "NotImplementedError: no silver" in made["skipped"]["calculator failed"]["Ag-Au-Ag"]
    assert "moved by more than 2 A" in made["skipped"]["blown up"]["Pt-Ni-Pd"]
    with pytest.raises(ValueError, match="no snapshot of any crystal .1 blown up., the first: Pt"):
        make(slabs.take([2]), tmp_path / "none.db", SHORT)
    assert [path.name for path in tmp_path.iterdir()] == ["s.db"]


class Kicks(Calculator):
    """Random forces, which heat."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        seed = np.frombuffer(atoms.positions.tobytes(), np.uint32)
        forces = 10 * np.random.default_rng(seed).standard_normal(atoms.positions.shape)
        self.results = {"energy": 0.0, "forces": forces}


@pytest.mark.parametrize(
    ("potential", "says"),
    [(Springs(np.nan), "the forces are not finite"), (Kicks(), "K instead of 300 K")],
)
def test_forces_and_temperatures_out_of_bounds_are_blow_ups(potential, says):
    atoms = slab("Cu", "Cu", "Cu")
    atoms.calc = potential
    with pytest.raises(StructureError, match=says) as error:
        dynamics.trajectory(atoms, Settings("emt", time=0.05), "x")
    assert error.value.reason == "blown up"


def test_a_snapshot_that_is_no_crystal_any_more_is_left_out():
    """Springs pull two atoms onto each other, not far from where they were."""
    atoms = slab("Cu", "Cu", "Cu")
    atoms.calc = Springs(5.0)
    between = atoms.positions[1] - atoms.positions[0]
    atoms.calc.start = atoms.positions + np.outer([0.35, -0.35, 0], between)
    with pytest.raises(StructureError) as error:
        dynamics.trajectory(atoms, Settings("emt", time=0.5), "x")
    assert error.value.reason == "atoms too close"


def test_any_calculator_can_be_named(slabs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own_potential.py").write_text(
        "from ase.calculators.emt import EMT\ncalls = []\nnumber = 3\n\n\n"
        "def make():\n    calls.append(1)\n    return EMT()\n\n\n"
        "def nothing():\n    return None\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    one = slabs.take([2])
    make(one, "own.db", dataclasses.replace(SHORT, calculator="own_potential:make"))
    make(one, "emt.db", SHORT)
    assert sys.modules["own_potential"].calls == [1]
    own, emt = connect("own.db").get(1), connect("emt.db").get(1)
    np.testing.assert_array_equal(own.positions, emt.positions)
    assert (own.calculator, emt.calculator) == ("own_potential:make", "emt")
    for name, says in {
        "amber": "'amber' is unknown; choose emt, chgnet, sevennet or module:function",
        "gone:make": "No module named 'gone'",
        "own_potential:gone": "no attribute 'gone'",
        "own_potential:number": "not callable",
        "own_potential:nothing": "returns NoneType, not a calculator",
    }.items():
        with pytest.raises(ValueError, match=says):
            dynamics.calculator(name)


@pytest.mark.parametrize(("name", "package"), [("chgnet", "chgnet"), ("sevennet", "sevenn")])
def test_a_missing_package_is_named_with_the_line_that_installs_it(name, package, monkeypatch):
    for module in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"'{name}' cannot .*pip install 'dd2d-jax\[{name}\]'"):
        dynamics.calculator(name)


@pytest.mark.parametrize("name", ["chgnet", "sevennet"])
def test_packaged_potentials_hold_a_sheet_together(name, tmp_path):
    """With the weights of the installed package."""
    pytest.importorskip({"chgnet": "chgnet", "sevennet": "sevenn"}[name])
    crystals = usable.from_atoms([(mx2("MoS2", a=3.18, thickness=3.13, vacuum=8), {})])
    made = make(crystals, tmp_path / "s.db", Settings(name, time=0.02))
    assert 0.01 < made["displacement"] < 0.3


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"temperature": 0.0}, "temperature must be a positive number, got 0.0"),
        ({"time": float("nan")}, "time must be a positive number, got nan"),
        ({"snapshots": 0}, "snapshots must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        Settings("emt", **wrong)


def test_snapshots_are_read_in_their_parents_setting(slabs, tmp_path):
    path = tmp_path / "s.db"
    make(slabs.take([3, 1, 0]), path, dataclasses.replace(SHORT, snapshots=2))
    parents = slabs.take([1, 2, 3])
    found = read_snapshots(path, parents)
    assert found.uid.tolist() == ["Au-Au-Cu"] * 2 + ["Ag-Au-Ag"] * 2
    assert found.report == {
        **dataclasses.asdict(SHORT), "snapshots": 2, "crystals": 2, "without": ["Pt-Ni-Pd"]
    }  # fmt: skip
    for i, parent in enumerate((2, 2, 0, 0)):
        np.testing.assert_allclose(found.lattice[i], parents.lattice[parent], atol=1e-6)
        assert found.numbers[i].tolist() == parents.numbers[parent].tolist()
        moved = found.positions[i] - parents.positions[parent]
        moved -= moved.mean(0)
        assert 0.01 < np.abs(moved).max() < 0.5
    with pytest.raises(ValueError, match="no snapshot of any of the 1 crystals"):
        read_snapshots(path, slabs.take([2]))
    stretched = dataclasses.replace(slabs, lattice=slabs.lattice * 1.01)
    with pytest.raises(ValueError, match="Au-Au-Cu@300K#1 does not have the cell of Au-Au-Cu"):
        read_snapshots(path, stretched)
    with pytest.raises(FileNotFoundError, match="gone.db: no such file; make it with dd2d snap"):
        read_snapshots(tmp_path / "gone.db", slabs)

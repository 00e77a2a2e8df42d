"""Molecular dynamics of crystals, and its snapshots as queries: the level "thermal".

Each crystal moves in its own primitive cell, which stays as it is, in the canonical setting of
`structures.layer`. So a snapshot has its parent's lattice, rods and setting, as in the DD2D paper;
only motions that repeat with that cell take part, and a cell of one atom does not move at all.
Lengths in angstrom, times in ps, temperatures in K.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase import units

from dd2d_jax.crystals.canonical import SYMPREC
from dd2d_jax.crystals.structures import layer
from dd2d_jax.data import database
from dd2d_jax.data.crystal_set import CrystalSet, database_key
from dd2d_jax.util.errors import StructureError
from dd2d_jax.util.files import new_file
from dd2d_jax.util.progress import progress

CALCULATORS = ("emt", "chgnet", "sevennet")
FRICTION = 0.02 / units.fs  # forgets a velocity within 50 fs
FAR = 2.0  # angstrom: an atom this far from its place has left it
HOT = 3.0  # times the temperature asked for; small cells fluctuate by half of it


@dataclasses.dataclass(frozen=True)
class Settings:
    """What makes a crystal's snapshots; it is kept in the database.

    Attributes:
        calculator: "emt", "chgnet", "sevennet", or "module:function" (see `calculator`).
        temperature: K.
        time: ps before the first snapshot and between any two.
        snapshots: of each crystal.
        seed: with a crystal's uid it fixes that crystal's random numbers.
    """

    calculator: str
    temperature: float = 300.0
    time: float = 1.0
    snapshots: int = 1
    seed: int = 0

    def __post_init__(self):
        for name in ("temperature", "time"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        if self.snapshots < 1:
            raise ValueError(f"snapshots must be at least 1, got {self.snapshots}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


def calculator(name: str) -> Any:
    """An ASE calculator.

    Args:
        name: "emt" (ASE's, for Al, Cu, Ag, Au, Ni, Pd, Pt, H, C, N, O), "chgnet" or "sevennet"
            (potentials for all elements; the weights come with the packages), or
            "module:function": what that function returns, called without arguments; modules in
            the working directory are found, too.

    Raises:
        ValueError: an unknown name, a package that is not installed, or a function that is not
            there or returns no calculator.
    """
    if name == "emt":
        from ase.calculators.emt import EMT

        return EMT()
    if name == "chgnet":
        return _packaged(name, "chgnet.model.dynamics", "CHGNetCalculator")
    if name == "sevennet":
        return _packaged(name, "sevenn.calculator", "SevenNetCalculator")
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise ValueError(
            f"calculator {name!r} is unknown; choose {', '.join(CALCULATORS)} or module:function"
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"calculator {name!r}: {error}") from error
    if not hasattr(found, "get_forces"):
        raise ValueError(
            f"calculator {name!r}: the function returns {type(found).__name__}, not a calculator"
        )
    return found


def _packaged(name: str, module: str, kind: str) -> Any:
    try:
        return getattr(importlib.import_module(module), kind)()
    except ImportError as error:
        raise ValueError(
            f"calculator {name!r} cannot be imported ({error}): pip install 'dd2d-jax[{name}]'"
        ) from error


def langevin(atoms: ase.Atoms, temperature: float, rng: np.random.Generator) -> Iterator[float]:
    """Moves `atoms` (with a calculator) step by step; yields each step's kinetic temperature, K.

    Langevin dynamics in a fixed cell by the BAOAB splitting (Leimkuhler and Matthews, Appl. Math.
    Res. Express 2013, 34), the centre of mass at rest, with 3 N - 3 degrees of freedom. A step is
    1 fs, with hydrogen 0.5 fs. ASE's own holds the centre of mass in a way that gives small cells
    the wrong temperature.

    Raises:
        StructureError: "blown up": forces that are not finite, or an atom more than FAR from
            where it began.
    """
    masses = atoms.get_masses()[:, None]
    step = timestep(atoms) * units.fs
    keep = math.exp(-FRICTION * step)
    start = atoms.positions.copy()

    def at_rest(velocities: np.ndarray) -> np.ndarray:
        return velocities - (masses * velocities).sum(0) / masses.sum()

    def thermal() -> np.ndarray:
        noise = rng.standard_normal(atoms.positions.shape)
        return at_rest(noise * np.sqrt(units.kB * temperature / masses))

    def acceleration() -> np.ndarray:
        # Before the forces: with atoms astray some calculators run out of memory.
        moved = np.linalg.norm(atoms.positions - start, axis=1)
        if moved.max() > FAR:
            who = atoms.symbols[int(moved.argmax())]
            raise StructureError("blown up", f"an atom of {who} moved by more than {FAR:g} A")
        forces = atoms.get_forces()
        if not np.isfinite(forces).all():
            raise StructureError("blown up", "the forces are not finite")
        return at_rest(forces / masses)

    velocities, pull = thermal(), acceleration()
    while True:
        velocities = velocities + step / 2 * pull
        atoms.positions += step / 2 * velocities
        velocities = keep * velocities + math.sqrt(1 - keep**2) * thermal()
        atoms.positions += step / 2 * velocities
        pull = acceleration()
        velocities = velocities + step / 2 * pull
        atoms.set_momenta(masses * velocities)
        freedom = max(3 * len(atoms) - 3, 1)
        yield float((masses * velocities**2).sum() / (freedom * units.kB))


def timestep(atoms: ase.Atoms) -> float:
    """fs: hydrogen's vibrations are twice as fast as all others."""
    return 0.5 if 1 in atoms.numbers else 1.0


def trajectory(atoms: ase.Atoms, settings: Settings, uid: str) -> tuple[list[ase.Atoms], float]:
    """Snapshots of one crystal (`atoms`, with a calculator, moves), and the kinetic temperature.

    The temperature is the mean over the second half of the run, K. The atoms are not wrapped into
    the cell.

    Raises:
        StructureError: "blown up" (see `langevin`; or more than HOT times too hot), "calculator
            failed", or a snapshot that is no 2D crystal any more (see `structures.layer`).
    """
    digest = hashlib.sha256(uid.encode()).digest()
    rng = np.random.default_rng([settings.seed, int.from_bytes(digest[:16])])
    each = max(round(1000 * settings.time / timestep(atoms)), 1)
    steps = langevin(atoms, settings.temperature, rng)
    found, kinetic = [], []
    try:
        for _ in range(settings.snapshots):
            kinetic += [next(steps) for _ in range(each)]
            found.append(atoms.copy())
    except StructureError:
        raise
    except Exception as error:  # calculators raise anything, for an unknown element to start with
        raise StructureError("calculator failed", f"{type(error).__name__}: {error}") from error
    mean = float(np.mean(kinetic[len(kinetic) // 2 :]))
    if not mean <= HOT * settings.temperature:
        raise StructureError("blown up", f"{mean:.0f} K instead of {settings.temperature:g} K")
    for snapshot in found:
        layer(snapshot)
    return found, mean


def make(crystals: CrystalSet, path: str | Path, settings: Settings) -> dict[str, Any]:
    """Molecular dynamics of every crystal, into an ASE database (SQLite).

    A database that is there already and was made with the same settings is gone on with: crystals
    that have their snapshots are left alone. A crystal's snapshots are written at once, so that a
    run may be ended at any moment; the result is the same as without.

    Each row has the keys `uid`, `parent` (uid of its crystal), `temperature` (K), `time` (ps since
    the start), `seed`, `kinetic_temperature` (K, the mean of the run's second half) and
    `displacement` (rms over the atoms, from the crystal's own positions, angstrom); ASE's own
    `calculator` says which, and velocities are kept as momenta.

    Returns:
        {"crystals": how many have snapshots, "before": of them, in the database already,
        "snapshots": rows of these crystals, "kinetic_temperature": their mean, K, "displacement":
        rms over the rows, angstrom, "skipped": {reason: {uid: message}}}.

    Raises:
        ValueError: a database made otherwise, an unknown calculator, a uid that an ASE database
            cannot keep, or no crystal with snapshots.
    """
    path = Path(path)
    names = {str(uid): database_key(str(uid)) for uid in crystals.uid}
    if not names:
        raise ValueError("there are no crystals")
    done = _done(path, settings) if path.exists() else set()
    before = len(done & names.keys())
    calc = calculator(settings.calculator)
    skipped: dict[str, dict[str, str]] = {}
    mixed = crystals.mixed
    todo = [i for i, uid in enumerate(crystals.uid) if str(uid) not in done]
    for i in progress(todo, len(todo), "molecular dynamics", "min"):
        uid = str(crystals.uid[i])
        atoms = crystals.atoms(i)
        start = atoms.positions.copy()
        if hasattr(calc, "reset"):
            calc.reset()  # nothing of the crystal before: its neighbour list changes last digits
        atoms.calc = calc
        try:
            if mixed[i]:
                raise StructureError("partial occupancy", "atoms on mixed sites cannot move")
            found, kinetic = trajectory(atoms, settings, uid)
        except StructureError as error:
            skipped.setdefault(error.reason, {})[uid] = str(error)
            continue
        rows = []
        for number, snapshot in enumerate(found, 1):
            moved = snapshot.positions - start
            keys = {
                "uid": f"{uid}@{settings.temperature:g}K#{number}",
                "parent": names[uid],
                "temperature": settings.temperature,
                "time": number * settings.time,
                "seed": settings.seed,
                "kinetic_temperature": kinetic,
                "displacement": float(np.sqrt((moved**2).sum(1).mean())),
            }
            rows.append((snapshot, keys))
        _append(path, settings, rows)
    if sum(map(len, skipped.values())) == len(crystals):
        reasons = ", ".join(f"{len(named)} {reason}" for reason, named in skipped.items())
        uid, message = next(item for named in skipped.values() for item in named.items())
        raise ValueError(f"no snapshot of any crystal ({reasons}), the first: {uid}: {message}")
    return {**_summary(path, set(names)), "before": before, "skipped": skipped}


def read_snapshots(path: str | Path, parents: CrystalSet) -> CrystalSet:
    """The snapshots of some crystals, in the canonical settings of these.

    Args:
        path: from `make`.
        parents: the crystals; other crystals' snapshots are left out.

    Returns:
        The snapshots, each under its crystal's uid and in its lattice. The report has the
        `Settings`, "crystals": how many of `parents` have snapshots, and "without": the uids of
        those that have none.

    Raises:
        ValueError: no database of `make`, a snapshot in another cell than its crystal's, or none
            at all.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; make it with dd2d snapshots")
    settings = _settings(path)
    where = {str(uid): i for i, uid in enumerate(parents.uid)}
    of: list[int] = []
    lattice, positions, numbers = [], [], []
    for atoms, keys in _snapshots(path):
        i = where.get(str(keys["parent"]))
        if i is None:
            continue
        real = parents.numbers[i][parents.numbers[i] > 0]
        cell = atoms.cell.array[:2]
        same = sorted(atoms.numbers) == sorted(real) and not np.abs(cell[:, 2]).max() > SYMPREC
        if not same or np.abs(cell[:, :2] - parents.lattice[i]).max() > SYMPREC:
            raise ValueError(
                f"{path}: {keys.get('uid')} does not have the cell of {keys['parent']}; "
                "make snapshots of exactly these crystals with dd2d snapshots"
            )
        room = parents.numbers.shape[1] - len(real)
        of.append(i)
        lattice.append(cell[:, :2])
        positions.append(np.pad(atoms.positions, [(0, room), (0, 0)]))
        numbers.append(np.pad(atoms.numbers, (0, room)))
    if not of:
        raise ValueError(f"{path}: there is no snapshot of any of the {len(parents)} crystals")
    have = set(of)
    report = {
        **dataclasses.asdict(settings),
        "crystals": len(have),
        "without": [str(uid) for i, uid in enumerate(parents.uid) if i not in have],
    }
    return dataclasses.replace(
        parents.take(of),
        lattice=np.array(lattice, np.float32),
        positions=np.array(positions, np.float32),
        numbers=np.array(numbers, np.int32),
        report=report,
    )


def _settings(path: Path) -> Settings:
    """With what settings a database was made."""
    try:
        return Settings(**database.metadata(path)["dynamics"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a database of dd2d snapshots; choose another") from error


def _done(path: Path, settings: Settings) -> set[str]:
    """Crystals that have their snapshots in a database of the same settings."""
    there = dataclasses.asdict(_settings(path))
    for name, value in dataclasses.asdict(settings).items():
        if there[name] != value:
            raise ValueError(
                f"{path}: made with {name} {there[name]}, not {value}; choose another name"
            )
    return {str(keys["parent"]) for _, keys in _snapshots(path)}


def _snapshots(path: Path) -> Iterator[tuple[ase.Atoms, dict[str, Any]]]:
    """Atoms and keys of every row."""
    for row in database.rows(path):
        if isinstance(row.atoms, StructureError) or "parent" not in row.keys:
            raise ValueError(f"{path}: row {row.id} is not a snapshot; make it with dd2d snapshots")
        yield row.atoms, row.keys


def _append(path: Path, settings: Settings, rows: list[tuple[ase.Atoms, dict]]) -> None:
    """One crystal's rows in one transaction; a new database is moved into place with them."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.db import connect

    new = not path.exists()
    with new_file(path) if new else contextlib.nullcontext(path) as file:
        written = connect(file, type="db", use_lock_file=False)
        if new:
            written.metadata = {"dynamics": dataclasses.asdict(settings)}
        with written:
            for atoms, keys in rows:
                atoms.calc = SinglePointCalculator(atoms)
                atoms.calc.name = settings.calculator  # ASE keeps no such key of ours
                written.write(atoms, **keys)


def _summary(path: Path, uids: set[str]) -> dict[str, Any]:
    rows = [keys for _, keys in _snapshots(path) if str(keys["parent"]) in uids]
    return {
        "crystals": len({str(keys["parent"]) for keys in rows}),
        "snapshots": len(rows),
        "kinetic_temperature": float(np.mean([keys["kinetic_temperature"] for keys in rows])),
        "displacement": float(np.sqrt(np.mean([keys["displacement"] ** 2 for keys in rows]))),
    }

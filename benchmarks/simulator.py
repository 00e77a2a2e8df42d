"""Compare the simulator with other programs: patterns a second, and how well they agree.

    python benchmarks/simulator.py [--crystals 1000] [--data ../shared/data/c2db.db] [--json OUT]
                                   [--only NAME ...] [--rebuild]

All simulate the same crystals, drawn from C2DB: 80 kV electrons, rods to q = 1.25 1/A, no thermal
motion, the beam along the layer's normal. The others get them in vacuum cells, c being the
thickness + 15 A. Each runs in an environment of its own, made when it is first needed (see
`peers/environments.py`); one that cannot be made is reported and left out. `--only` (with no name:
none) chooses among them.

Agreement is R1 = sum |A - s A'| / sum A over the rods that both programs have, A = sqrt(I) ours and
A' theirs, s fitted for each crystal. `F(hk0)` compares the same quantity, the structure factor
at qz = 0; `rods` compares their pattern with ours, whose rods are cut by the Ewald sphere.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase.db import connect
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import diffraction as dx  # noqa: E402
from benchmarks.peers.environments import PEERS, Peer, environment, run  # noqa: E402
from dd2d_jax.networks.checkpoint import write_json  # noqa: E402

ENERGY, Q_MAX = 80.0, 1.25
BEAM = dx.Electrons(ENERGY)
VACUUM, OTHER_VACUA, IN_VACUA = 15.0, (10.0, 25.0), 20
REPEATS = 5
STRAIN = 1e-3
"""Crystals are strained by about this much before each timing: none is seen twice."""

console = Console(width=None if sys.stdout.isatty() else 140)


def ours(crystals: dx.Crystal) -> None:
    """All patterns of a batch of crystals of any sizes, one chunk after the other."""
    for _ in dx.simulate_library(crystals, BEAM, Q_MAX):
        pass


# Crystals


def shuffled(path: Path) -> list[dx.Crystal]:
    """All crystals of the database in random order."""
    if not path.is_file():
        raise SystemExit(f"no database at {path}; --data FILE takes an ASE database of layers")
    rows = list(connect(path).select(include_data=False))
    crystals: list[dx.Crystal] = []
    order = np.random.default_rng(0).permutation(len(rows))
    for index in track(order, "reading", console=console, transient=True):
        try:
            crystals.append(dx.Crystal.from_ase(rows[index].toatoms()))
        except ValueError:  # a chain, or a bulk crystal
            continue
    return crystals


def in_cell(crystal: dx.Crystal, vacuum: float) -> Any:
    """The `ase.Atoms` in a vacuum cell, periodic in all directions, as the others need it."""
    atoms = crystal.to_ase(vacuum)
    atoms.pbc = True
    return atoms


def strained(crystals: dx.Crystal, seed: int) -> dx.Crystal:
    """The same crystals, each strained a little in its own way."""
    rng = np.random.default_rng(seed)
    strain = np.eye(3) + STRAIN * rng.standard_normal((len(crystals), 3, 3))
    strain[:, :2, 2] = strain[:, 2, :2] = 0
    lattice = np.asarray(crystals.lattice) @ strain[:, :2, :2]
    positions = np.asarray(crystals.positions) @ strain
    return dataclasses.replace(
        crystals,
        lattice=jnp.asarray(lattice, jnp.float32),
        positions=jnp.asarray(positions, jnp.float32),
    )


# Time


def seconds(function: Callable[[], Any]) -> float:
    """Of one call, its results waited for."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def repeat(function: Callable[[dx.Crystal], Any], crystals: dx.Crystal) -> tuple[float, list]:
    """Seconds of the first call, which compiles, and of further ones; new crystals each time."""
    batches = jax.block_until_ready([strained(crystals, seed) for seed in range(REPEATS + 1)])
    first, *others = [seconds(functools.partial(function, batch)) for batch in batches]
    return first, others


def time_ours(crystals: list[dx.Crystal], database: list[dx.Crystal]) -> dict[str, Any]:
    """Our patterns, and our set-up: a batch from arrays or from `ase.Atoms`."""

    def arrays(some: list[dx.Crystal]) -> Callable[[], dx.Crystal]:
        raw = [jax.tree.map(np.asarray, crystal) for crystal in some]
        return lambda: dx.stack(raw)

    atoms = [in_cell(crystal, VACUUM) for crystal in crystals]
    first, others = repeat(ours, dx.stack(crystals))
    ways = [
        ("from arrays", arrays(crystals), len(crystals), others),
        (
            "from ase.Atoms",
            lambda: dx.stack([dx.Crystal.from_ase(x) for x in atoms]),
            len(crystals),
            others,
        ),
        (
            "the whole database",
            arrays(database),
            len(database),
            repeat(ours, dx.stack(database))[1],
        ),
    ]
    patterns = dx.simulate_library(dx.stack(crystals), BEAM, Q_MAX)
    rods = sum(int(pattern.mask.sum()) for _, pattern in patterns)
    return {
        "pattern_s": float(np.median(others)),
        "first_pass_s": first,
        "ways": [
            {
                "way": f"simulate_library, {way}",
                "patterns": count,
                # The second call: the first finds things to import and compile, as the others' do.
                "setup_s": [seconds(make) for _ in range(2)][-1],
                "pattern_s": float(np.median(repeats)),
                "repeats_s": repeats,
                "factors": rods / len(crystals),
            }
            for way, make, count, repeats in ways
        ],
    }


# Agreement. Spots are rows (crystal, h, k, intensity).


_structure_factor = jax.jit(dx.structure_factor)


def our_zone(crystals: dx.Crystal, beam: dx.Electrons, part: int = 64) -> np.ndarray:
    """|F|^2 at (h, k) and qz = 0, from `structure_factor`."""
    hk = dx.reflections(np.asarray(crystals.lattice), Q_MAX)
    q = np.asarray(jnp.einsum("bki,bij->bkj", hk.astype(np.float32), crystals.reciprocal))
    q = np.concatenate([q, np.zeros_like(q[..., :1])], -1)
    spots = []
    for start in range(0, len(crystals), part):
        # The last part is filled up, so that all have one shape.
        rows = np.arange(start, start + part) % len(crystals)
        factors = np.asarray(_structure_factor(crystals[rows], q[rows], beam))
        rows = np.arange(start, min(start + part, len(crystals)))
        spots.append(_rows(rows, hk[rows], np.abs(factors[: len(rows)]) ** 2))
    return np.concatenate(spots)


def our_pattern(crystals: dx.Crystal, beam: dx.Electrons) -> np.ndarray:
    """Intensities where the Ewald sphere cuts the rods, from `simulate_library`."""
    chunks = dx.simulate_library(crystals, beam, Q_MAX)
    return np.concatenate(
        [_rows(rows, np.asarray(x.hk), np.asarray(x.intensity)) for rows, x in chunks]
    )


def _rows(crystals: np.ndarray, hk: np.ndarray, intensity: np.ndarray) -> np.ndarray:
    member, rod = np.nonzero((hk != 0).any(-1))
    columns = crystals[member], *hk[member, rod].T, intensity[member, rod]
    return np.stack(columns, -1).astype(float)


def compare(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """R1 of each crystal (median and 95th percentile), and what the second does not have.

    `missing_percent` counts rods stronger than 1e-6 of the strongest: extinct ones are noise.
    """
    crystals = np.unique(second[:, 0])
    first = first[np.isin(first[:, 0], crystals)]
    keys = [x[:, :3].astype(np.int64) @ [10**8, 10**4, 1] for x in (first, second)]
    _, i, j = np.intersect1d(*keys, return_indices=True)
    index = first[i, 0].astype(int)
    a, b = np.sqrt(first[i, 3]), np.sqrt(second[j, 3])
    scale = _sum(index, a * b) / np.maximum(_sum(index, b * b), 1e-30)
    r1 = _sum(index, np.abs(a - scale[index] * b)) / np.maximum(_sum(index, a), 1e-30)
    r1 = r1[np.unique(index)]
    strongest = np.zeros(int(first[:, 0].max()) + 1)
    np.maximum.at(strongest, first[:, 0].astype(int), first[:, 3])
    seen = first[:, 3] > 1e-6 * strongest[first[:, 0].astype(int)]
    return {
        "crystals": len(r1),
        "median": float(np.median(r1)),
        "p95": float(np.percentile(r1, 95)),
        "worst": float(r1.max()),
        "missing_percent": float(100 * (1 - np.isin(keys[0], keys[1])[seen].mean())),
    }


def _sum(index: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.bincount(index, values)


def in_vacua(spots: np.ndarray, start: int) -> dict[str, dict[str, float]]:
    """How much the first patterns change in other vacua, which follow from row `start` on."""
    out = {}
    for number, vacuum in enumerate(OTHER_VACUA):
        begin = start + number * IN_VACUA
        other = spots[(spots[:, 0] >= begin) & (spots[:, 0] < begin + IN_VACUA)].copy()
        other[:, 0] -= begin
        out[f"{vacuum:.0f}"] = compare(spots[spots[:, 0] < IN_VACUA], other)
    return out


def measure(peer: Peer, crystals: list[dx.Crystal], spots: dict, rebuild: bool) -> dict[str, Any]:
    """Speed, agreement and dependence on the vacuum of one peer."""
    python = environment(peer, rebuild, lambda text: console.print(text, style="dim"))
    count = min(peer.most, len(crystals))
    layers = [in_cell(crystal, VACUUM) for crystal in crystals[:count]]
    layers += [
        in_cell(crystal, vacuum) for vacuum in OTHER_VACUA for crystal in crystals[:IN_VACUA]
    ]
    with console.status(f"{peer.name}: {count} crystals"):
        found = run(peer, python, layers, timed=count, energy=ENERGY, q_max=Q_MAX)
    zone, pattern = (x[x[:, 0] < count] for x in (found["zone"], found["pattern"]))
    return {
        "name": peer.name,
        "version": found["version"],
        "computes": peer.computes,
        "ways": found["ways"],
        "failed": found["failed"],
        "table": {"ours": peer.table, "same": peer.same_table},
        "zone": compare(spots[peer.table]["zone"], zone),
        "rods": compare(spots[peer.table]["pattern"], pattern),
        "vacuum": in_vacua(found["pattern"], count),
    }


# Cost, and the machine's ceiling


def made_up(count: int, atoms: int, area: float = 30.0) -> dx.Crystal:
    """Oblique crystals of one size: 4 elements, cells of `area` A^2."""
    rng = np.random.default_rng(1)
    lattice = np.array([[1.0, 0.1], [-0.2, 1.0]]) * np.sqrt(area / 1.02)
    lattice = np.broadcast_to(lattice, (count, 2, 2))
    plane = rng.random((count, atoms, 2)) @ lattice
    positions = np.concatenate([plane, 4 * rng.random((count, atoms, 1))], -1)
    return dx.Crystal(
        jnp.asarray(lattice, jnp.float32),
        jnp.asarray(positions, jnp.float32),
        jnp.asarray(rng.choice([6, 16, 42, 74], (count, atoms))),
    )


def cost(count: int, atoms: int, q_max: float) -> dict[str, float]:
    """Patterns a second of `dx.simulate_library` on crystals of one size."""
    crystals = made_up(count, atoms)
    _, others = repeat(lambda x: list(dx.simulate_library(x, BEAM, q_max)), crystals)
    speed = count / float(np.median(others))
    rods = int((dx.reflections(np.asarray(crystals.lattice[0]), q_max) != 0).any(-1).sum())
    each = operations(rods, atoms, 4)
    return {
        "batch": count,
        "atoms": atoms,
        "rods": rods,
        "q_max": q_max,
        "patterns_per_s": speed,
    } | {name: number * speed for name, number in each.items()}


def operations(rods: float, atoms: float, species: float) -> dict[str, float]:
    """What the direct sum of one pattern cannot do without.

    One sine and cosine for each rod and atom; a form factor (5 terms of 8) and a Debye-Waller
    exponential for each pair of rods (q and -q) and element; 12 for each rod and atom: the
    phase, and the sum; 21 bytes written for each rod: q, intensity, indices, mask.
    """
    return {
        "sincos": rods * atoms,
        "exp": rods / 2 * species,
        "flop": rods / 2 * species * 40 + rods * atoms * 12,
        "bytes": rods * 21,
    }


def share(rate: dict[str, float], ceiling: dict[str, float]) -> float:
    """Percent of a second that what was done in it would take at the machine's ceiling."""
    busy = (
        rate["sincos"] / ceiling["sincos_gop"]
        + rate["exp"] / ceiling["exp_gop"]
        + rate["flop"] / ceiling["matmul_gflop"]
    )
    return 100 * max(busy, rate["bytes"] / ceiling["memory_gbyte"]) / 1e9


def curves() -> dict[str, list[dict[str, float]]]:
    """Cost against atoms, rods (by q_max) and the size of a batch."""
    cases = {
        "atoms": [(256, n, Q_MAX) for n in (2, 4, 8, 16, 32, 64)],
        "rods": [(256, 8, q) for q in (0.5, 1.0, 2.0, 4.0)],
        "batch": [(n, 8, Q_MAX) for n in (1, 8, 64, 512, 4096)],
    }
    every = [(name, case) for name, some in cases.items() for case in some]
    out: dict[str, list] = {name: [] for name in cases}
    for name, case in every:
        out[name].append(cost(*case))
    return out


def ceiling() -> dict[str, float]:
    """What JAX reaches here in float32: matmul, exp, sin and cos, memory; in 10^9 a second.

    Sine and cosine of whole and part turns are measured as `jnp` gives them and as polynomials:
    the faster of the two is the ceiling.
    """
    large = jax.default_backend() != "cpu"
    side, length, chain = (8192, 2**26, 16) if large else (2048, 2**22, 16)
    square = jax.random.normal(jax.random.key(0), (side, side))
    line = jax.random.uniform(jax.random.key(1), (length,))
    stream = jnp.ones(2**28)

    def chained(step: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
        # One pass over memory, so that arithmetic alone is timed.
        return jax.jit(lambda x: functools.reduce(lambda y, _: step(y), range(chain), x))

    def library(turns: jax.Array) -> jax.Array:
        return 0.3 * (jnp.sin(2 * jnp.pi * turns) + jnp.cos(2 * jnp.pi * turns))

    product = jax.jit(lambda a: jnp.dot(a, a, precision="highest"))
    cases = {
        "matmul_gflop": (product, square, 2 * side**3),
        "exp_gop": (chained(lambda x: jnp.exp(-x)), line, length * chain),
        "jnp_sincos_gop": (chained(library), line, length * chain),
        "polynomial_sincos_gop": (chained(lambda x: 0.3 * sum(_waves(x))), line, length * chain),
        "memory_gbyte": (jax.jit(lambda x: x + 1), stream, 2 * stream.nbytes),
    }
    out = {}
    for name, (function, argument, work) in cases.items():
        call = functools.partial(function, argument)
        seconds(call)
        out[name] = work / min(seconds(call) for _ in range(3)) / 1e9
    return out | {"sincos_gop": max(out["jnp_sincos_gop"], out["polynomial_sincos_gop"])}


def _waves(turns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sine and cosine of 2 pi turns, to 1e-6: Taylor polynomials within an eighth of a turn."""
    quarter = jnp.round(4 * turns)
    x = 2 * jnp.pi * (turns - quarter / 4)
    y = x * x
    sine = x * (1 - y / 6 * (1 - y / 20 * (1 - y / 42)))
    cosine = 1 - y / 2 * (1 - y / 12 * (1 - y / 30 * (1 - y / 56)))
    number = quarter.astype(jnp.int32) & 3
    swapped = number % 2 == 1
    sine, cosine = jnp.where(swapped, cosine, sine), jnp.where(swapped, sine, cosine)
    lower, left = number >= 2, (number == 1) | (number == 2)
    return jnp.where(lower, -sine, sine), jnp.where(left, -cosine, cosine)


def totals(crystals: list[dx.Crystal], spots: np.ndarray) -> dict[str, float]:
    """Operations of all crystals together."""
    rods = np.bincount(spots[:, 0].astype(int), minlength=len(crystals))
    each = [
        operations(n, crystal.numbers.size, len(np.unique(crystal.numbers)))
        for n, crystal in zip(rods, crystals, strict=True)
    ]
    return {name: float(sum(x[name] for x in each)) for name in each[0]}


# Report


def machine() -> dict[str, Any]:
    """Processor, cores, load, and what JAX runs on."""
    model = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(": ")[1] for x in lines if x.startswith("model name")), model)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "jax_device": jax.devices()[0].device_kind,
        "jax_backend": jax.default_backend(),
    }


def commit() -> str:
    """Of this repository; + where files differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")


def print_speed(report: dict[str, Any]) -> None:
    columns = "program", "way", "timed", "F a pattern", "set-up ms", "pattern ms", "patterns/s"
    table = Table(*columns, title="Speed")
    programs = [("ours", report["ours"])]
    programs += [(f"{x['name']} {x['version']}", x) for x in report["peers"]]
    rows = [(name, way) for name, program in programs for way in program["ways"]]
    for name, way in rows:
        setup, pattern = (1e3 * way[key] / way["patterns"] for key in ("setup_s", "pattern_s"))
        cells = f"{setup:.3f}", f"{pattern:.3f}", f"{1e3 / (setup + pattern):,.0f}"
        table.add_row(name, way["way"], str(way["patterns"]), f"{way['factors']:.0f}", *cells)
    console.print(table)
    console.print(
        "F a pattern: structure factors computed. Set-up: from arrays to what the program takes; "
        "patterns/s counts it.",
        style="dim",
    )
    rates = {
        x["name"]: max(way["patterns"] / (way["setup_s"] + way["pattern_s"]) for way in x["ways"])
        for x in report["peers"]
    }
    if rates:
        fastest = max(rates, key=rates.get)
        times = ", ".join(
            f"{way['way'].split(', ')[1]} {way['patterns'] / way['pattern_s'] / rates[fastest]:.0f}"
            for way in (report["ours"]["ways"][0], report["ours"]["ways"][-1])
        )
        console.print(
            f"Times the patterns/s of the fastest, {fastest}, by patterns alone of batches: {times}"
        )


def print_agreement(report: dict[str, Any]) -> None:
    columns = ["program", "our table", "F(hk0) R1", "rods R1", "lacks rods"]
    columns += [f"vacuum {v:.0f} A" for v in OTHER_VACUA]
    table = Table(*columns, title="Agreement with ours: median (95th percentile) of R1, percent")
    for peer in report["peers"]:
        table.add_row(
            peer["name"],
            peer["table"]["ours"] + ("" if peer["table"]["same"] else " (not the same)"),
            *(_percent(peer[kind]) for kind in ("zone", "rods")),
            f"{peer['rods']['missing_percent']:.1f}",
            *(_percent(x) for x in peer["vacuum"].values()),
        )
    own = report["own"]
    changes = [_percent(x) for x in own["vacuum"].values()]
    table.add_row("ours", "lobato", "", _percent(own["cut"]), "0.0", *changes)
    for name, value in own["tables"].items():
        table.add_row(f"ours, {name}", "lobato", _percent(value), *[""] * (2 + len(OTHER_VACUA)))
    console.print(table)
    console.print(
        "Vacuum: change from c = thickness + 15 A to this much; without an Ewald sphere there is "
        "none, nor any height. Rods of ours: F(hk0) against the cut by the sphere.",
        style="dim",
    )


def _percent(value: dict[str, float]) -> str:
    return f"{100 * value['median']:.2g} ({100 * value['p95']:.2g})"


def print_cost(report: dict[str, Any]) -> None:
    table = Table("against", "batch", "atoms", "rods", "patterns/s", "% of ceiling", title="Cost")
    for name, rows in report["curves"].items():
        for row in rows:
            numbers = f"{row['batch']}", f"{row['atoms']}", f"{row['rods']}"
            speed = f"{row['patterns_per_s']:,.0f}"
            table.add_row(name, *numbers, speed, f"{share(row, report['ceiling']):.0f}")
        table.add_section()
    console.print(table)
    limits = report["ceiling"]
    console.print(
        f"Ceiling: matmul {limits['matmul_gflop']:.0f} GFLOP/s, exp {limits['exp_gop']:.2f} Gop/s, "
        f"sin with cos {limits['sincos_gop']:.2f} Gop/s (jnp: {limits['jnp_sincos_gop']:.2f}), "
        f"memory {limits['memory_gbyte']:.0f} GB/s, all float32. The drawn crystals reach "
        f"{report['ours']['ceiling_percent']:.1f} % of it; their first pass, which compiles, takes "
        f"{report['ours']['first_pass_s']:.1f} s."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [peer.name for peer in PEERS]
    parser.add_argument("--crystals", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/c2db.db")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--only", nargs="*", choices=names, default=names, metavar="NAME")
    parser.add_argument("--rebuild", action="store_true", help="make the environments anew")
    args = parser.parse_args()
    if args.crystals < IN_VACUA:
        parser.error(f"--crystals must be at least {IN_VACUA}, got {args.crystals}")

    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("jax", "jaxlib", "numpy")},
        "settings": {"crystals": args.crystals, "energy_kev": ENERGY, "q_max": Q_MAX},
        "peers": [],
        "missing": {},
    }
    console.print(report["machine"], report["versions"], f"commit {report['commit']}")
    database = shuffled(args.data)
    crystals = database[: args.crystals]
    # No spinner here: it takes its share of what is measured.
    report["ours"] = time_ours(crystals, database)
    batch = dx.stack(crystals)
    beams = {name: dx.Electrons(ENERGY, name) for name in ("lobato", "kirkland", "peng")}
    spots = {
        name: {"zone": our_zone(batch, beam), "pattern": our_pattern(batch, beam)}
        for name, beam in beams.items()
    }
    report["ceiling"] = ceiling()
    report["curves"] = curves()
    own = spots["lobato"]
    done = totals(crystals, own["zone"])
    per_second = {name: number / report["ours"]["pattern_s"] for name, number in done.items()}
    report["ours"]["ceiling_percent"] = share(per_second, report["ceiling"])
    again = [
        dx.Crystal.from_ase(in_cell(crystal, vacuum))
        for vacuum in (VACUUM, *OTHER_VACUA)
        for crystal in crystals[:IN_VACUA]
    ]
    report["own"] = {
        "cut": compare(own["zone"], own["pattern"]),
        "tables": {
            name: compare(own["zone"], spots[name]["zone"]) for name in ("kirkland", "peng")
        },
        "vacuum": in_vacua(our_pattern(dx.stack(again), BEAM), IN_VACUA),
    }
    for peer in PEERS:
        if peer.name not in args.only:
            continue
        try:
            report["peers"].append(measure(peer, crystals, spots, args.rebuild))
        except RuntimeError as error:
            report["missing"][peer.name] = str(error)
    print_speed(report)
    for peer in report["peers"]:
        failed = "".join(f"; {count} failed: {why}" for why, count in peer["failed"].items())
        console.print(f"{peer['name']}: {peer['computes']}{failed}", style="dim")
    print_agreement(report)
    print_cost(report)
    for name, why in report["missing"].items():
        console.print(f"{name} is left out: {why}", style="yellow")
    if args.json:
        write_json(args.json, report)


if __name__ == "__main__":
    main()

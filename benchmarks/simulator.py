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
import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase.db import connect
from rich.progress import track

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import diffraction as dx  # noqa: E402
from benchmarks.peers.environments import PEERS, Peer, environment, run  # noqa: E402
from benchmarks.simulator_cost import ceiling, curves, share, totals  # noqa: E402
from benchmarks.simulator_report import (  # noqa: E402
    OTHER_VACUA,
    console,
    print_agreement,
    print_cost,
    print_speed,
)
from benchmarks.simulator_timing import BEAM, ENERGY, Q_MAX, repeat, seconds  # noqa: E402
from dd2d_jax.networks.checkpoint import write_json  # noqa: E402

VACUUM, IN_VACUA = 15.0, 20


def ours(crystals: dx.Crystal) -> None:
    """All patterns of a batch of crystals of any sizes, one chunk after the other."""
    for _ in dx.simulate_library(crystals, BEAM, Q_MAX):
        pass


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

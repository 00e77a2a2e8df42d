"""Run the benchmarks and write one table of their figures, with machine, versions and commit.

    python benchmarks/run.py --out docs/speed.md [--only NAME ...] [--data c2db.db] [--library DIR]

simulator (needs --data: C2DB as an ASE database), training, step, retrieval, startup, and library
(needs --library: a folder from `dd2d index`, copied until it holds about a million crystals).
Each is a program of its own in this folder and has its own options; what could not be run stands in
the table with the reason. Nothing else should run on the machine meanwhile: the load stands beside
each. An --out that is there is replaced.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.simulator import commit, machine  # noqa: E402
from dd2d_jax.libraries.library import read_manifest  # noqa: E402
from dd2d_jax.util.files import new_file  # noqa: E402

Rows = list[tuple[str, str]]
MILLION = 1_000_000
PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def simulator(report: dict[str, Any]) -> Rows:
    ways = [("dd2d-jax", way) for way in report["ours"]["ways"]]
    ways += [(peer["name"], way) for peer in report["peers"] for way in peer["ways"]]
    rows = []
    for name, way in ways:
        rate = way["patterns"] / (way["setup_s"] + way["pattern_s"])
        rows.append((f"{name}, {way['way']}", f"{rate:,.0f} patterns/s with set-up"))
    return rows + [(name, f"left out: {why}") for name, why in report["missing"].items()]


def training(report: dict[str, Any]) -> Rows:
    return [
        (
            f"published network, {row['program']}, {row['what']}, batch {report['batch']}",
            f"{row['samples_per_s']:.1f} samples/s, {row['utilisation']:.0%} of the peak",
        )
        for row in report["rows"]
    ]


def step(report: dict[str, Any]) -> Rows:
    found = report["milliseconds"]
    return [
        (f"{report['config']}.py, batch {report['batch']}, {name}", f"{value:,.1f} ms")
        for name, value in found.items()
    ]


def retrieval(reports: list[dict[str, Any]]) -> Rows:
    rows = []
    for report in reports:
        for name, method in report["methods"].items():
            tops = "/".join(f"{method[f'top{k}']:.1f}" for k in (1, 3, 5, 10))
            what = f"{report['level']}, {name}, {report['queries']} of {report['library']:,}"
            rows.append((what, f"{tops} %, {method['ms_per_query']:.1f} ms per query"))
    return rows


def startup(report: dict[str, Any]) -> Rows:
    return [
        (name, f"{row['wall_s']:.2f} s ({row['cpu_s']:.2f} s CPU)") for name, row in report.items()
    ]


def library(report: dict[str, Any]) -> Rows:
    rows = [("crystals", f"{report['crystals']:,}"), ("on disk", f"{report['gigabytes']} GB")]
    for name, value in report.items():
        if isinstance(value, dict):
            rows.append((name, f"{value['wall_ms']} ms ({value['cpu_ms']} ms CPU)"))
    return [*rows, ("recall of 100", f"{report['recall of 100']:.2%}")]


TABLES: dict[str, Callable[[Any], Rows]] = {
    "simulator": simulator,
    "training": training,
    "step": step,
    "retrieval": retrieval,
    "startup": startup,
    "library": library,
}


def words(name: str, args: argparse.Namespace) -> list[str]:
    """The command line of a benchmark, without --json.

    Raises:
        ValueError: it needs what was not given.
    """
    if name == "simulator":
        if args.data is None:
            raise ValueError("needs --data c2db.db")
        return ["--data", str(args.data)]
    if name == "library":
        if args.library is None:
            raise ValueError("needs --library, a folder from dd2d index enumerate:50000")
        count = read_manifest(args.library)["crystals"]
        return [str(args.library), "--copies", str(max(1, round(MILLION / count)))]
    return []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a Markdown file")
    parser.add_argument("--only", nargs="+", choices=tuple(TABLES), default=tuple(TABLES))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--library", type=Path)
    args = parser.parse_args()
    console = Console(stderr=True)
    lines = head()
    for name in args.only:
        load = os.getloadavg()[0]
        try:
            command = [name + ".py", *words(name, args)]
            with console.status(" ".join(command)):
                rows = TABLES[name](run(command))
        except (ValueError, RuntimeError) as error:
            rows = [(name, f"not run: {error}")]
            command = [name + ".py"]
        console.print(f"{name}: {len(rows)} rows")
        lines += ["", f"## {name}", "", f"`python benchmarks/{' '.join(command)}`"]
        lines += [f"(load before: {load:.1f})", "", "| what | figure |", "| --- | --- |"]
        lines += [f"| {what} | {figure} |" for what, figure in rows]
        # Kept after each: a benchmark may take half an hour.
        with new_file(args.out) as part:
            part.write_text("\n".join(lines) + "\n", "utf-8")


def head() -> list[str]:
    """What was measured, when and on what."""
    on, today = machine(), datetime.datetime.now(datetime.UTC).date().isoformat()
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return [
        "# Speed",
        "",
        f"Measured by `python benchmarks/run.py` on {today}, commit {commit()}: {on['processor']}, "
        f"{on['cores']} cores; JAX on {on['jax_device']}; {platform.system()}, Python "
        f"{platform.python_version()}, {versions}.",
    ]


def run(command: list[str]) -> Any:
    """What a benchmark writes as JSON.

    Raises:
        RuntimeError: it failed; the message is its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        line = [sys.executable, str(ROOT / "benchmarks" / command[0]), *command[1:]]
        done = subprocess.run([*line, "--json", str(out)], capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
            raise RuntimeError(last)
        return json.loads(out.read_text())


if __name__ == "__main__":
    main()

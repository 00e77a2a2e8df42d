"""The tables of simulator.py."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.simulator_cost import share

OTHER_VACUA = 10.0, 25.0

console = Console(width=None if sys.stdout.isatty() else 140)


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

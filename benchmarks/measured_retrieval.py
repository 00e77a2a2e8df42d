"""Retrieval of patterns that other programs and microscopes made, crystal present and absent.

    python benchmarks/measured_retrieval.py --data DIR --c2db LIBRARY [--limit N] [--json OUT]

DIR holds `abtem/` (images by abTEM and truth.csv), `experiment/` (measured images) and `c2db.db`,
as $DD2D_SHARED_DATA does; LIBRARY is made from c2db.db by `dd2d index`. Kinds:

- image: abTEM's images, the scale as it was told to the program; library of C2DB
- kinematic, multislice: the same crystals' exact spot lists by this program, with the atoms' own B,
  energy and true scale; library of C2DB
- experiment: measured images, library of the package
- flake: flakes of bulk crystals by `abtem_flakes.py`, images in `flakes/`, library of the package

Each is asked for without elements, with them (`elements`), and with the crystal and its structural
twins left out of the library (`absent`). What is stated should hold where one crystal in ten is
absent: the last row of a group counts patterns without elements and absent ones so.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dd2d_jax  # noqa: E402
import diffraction as dx  # noqa: E402
from dd2d_jax.data.datasets import read_source  # noqa: E402
from dd2d_jax.data.duplicates import twins  # noqa: E402
from dd2d_jax.evaluation.reliability import as_expected, reliability  # noqa: E402
from dd2d_jax.images.measurement import measure  # noqa: E402
from dd2d_jax.images.patterns import read_mask, read_pattern, write_pattern  # noqa: E402
from dd2d_jax.libraries.library import Library  # noqa: E402
from dd2d_jax.matching.absent import NONE  # noqa: E402
from dd2d_jax.networks.checkpoint import write_json  # noqa: E402
from dd2d_jax.util import cache  # noqa: E402
from dd2d_jax.util.errors import PatternError  # noqa: E402
from dd2d_jax.util.progress import progress  # noqa: E402

USUAL = ("image", "kinematic", "multislice", "experiment")
KINDS = (*USUAL, "flake")
# With the library of the package.
OWN = ("experiment", "flake")
MODES = ("all", "elements", "absent")
# Image: scale in 1/angstrom per pixel, energy in keV where it is known, and which crystals of the
# package's library are a right answer; a second lattice's where there is one.
EXPERIMENT = {
    "moo3_20cm.tif": (0.01003, None, ("MoO3",)),
    "graphene_18.tif": (0.00204, None, ("graphene",)),
    "graphene_1359.tif": (0.0035, None, ("graphene",)),
    "graphene_18_photometry.csv": (None, None, ("graphene",)),
    "graphite_ued.tif": (0.008645, 90.0, ("graphene",)),
    "snse_ued.tif": (0.00503, 90.0, ("SnSe",)),
    "mose2_flat.tif": (0.012689, None, ("1H-MoSe2",)),
    "mose2_tilt_left.tif": (0.012689, None, ("1H-MoSe2",)),
    "ws2_hanlab.tif": (0.012065, None, ("1H-WS2",)),
    "tblg_hbn_0806.tif": (0.00511, None, ("graphene", "h-BN")),
}
Q_MAX = 1.25


class Case(NamedTuple):
    """One pattern to retrieve: its file or spots, energy in keV, and the right uids."""

    kind: str
    name: str
    group: str
    pattern: Any
    scale: float | None
    energy: float | None
    uids: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("DD2D_SHARED_DATA"))
    parser.add_argument("--c2db", type=Path, help="library of c2db.db, from dd2d index")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=USUAL)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--limit", type=int, help="patterns of each kind, spread over all")
    parser.add_argument(
        "--spots", type=Path, help="folder that keeps the images' spots from run to run"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.data is None:
        parser.error("say with --data where the measured patterns are")
    if args.c2db is None and set(args.kinds) - set(OWN):
        parser.error(f"all kinds but {' and '.join(OWN)} need --c2db")
    cache.keep_compilations()
    model = dd2d_jax.load()
    libraries = {False: Library.load(args.c2db) if args.c2db else None, True: Library.load()}
    rows = []
    for kind in args.kinds:
        cases = _cases(kind, args.data)
        if args.limit and args.limit < len(cases):
            places = np.linspace(0, len(cases) - 1, args.limit).astype(int)
            cases = [cases[i] for i in places]
        library = libraries[kind in OWN]
        for case in progress(cases, len(cases), kind):
            rows += _asked(case, library, model, args.modes, args.spots)
    summary = _summary(rows)
    Console(width=150).print(_table(summary))
    if args.json:
        write_json(args.json, {"summary": summary, "patterns": rows})


def _cases(kind: str, data: Path) -> list[Case]:
    if kind == "experiment":
        folder = data / "experiment"
        return [
            Case(kind, name, kind, folder / name, scale, energy, uids)
            for name, (scale, energy, uids) in EXPERIMENT.items()
            if (folder / name).exists()
        ]
    folder = data / ("flakes" if kind == "flake" else "abtem")
    with (folder / "truth.csv").open(newline="") as file:
        truth = list(csv.DictReader(file))
    if kind in ("image", "flake"):
        return [
            Case(
                kind, row["image"],
                f"{row.get('kind', kind)} {row['detector']} {float(row['dose']):.0e}",
                folder / row["image"], float(row["told"]), float(row["energy"]), (row["uid"],),
            )
            for row in truth
        ]  # fmt: skip
    once = list({row["uid"]: row for row in truth}.values())
    crystals = read_source(data / "c2db.db")
    place = {uid: i for i, uid in enumerate(crystals.uid)}
    cases = []
    for row in once:
        energy = float(row["energy"])
        rms = dict(pair.split(":") for pair in row["rms"].split())
        b = {element: 8 * math.pi**2 * float(u) ** 2 for element, u in rms.items()}
        crystal = crystals.take([place[row["uid"]]]).crystal[0]
        pattern = dx.simulate(crystal, dx.Electrons(energy), Q_MAX, b, method=kind)
        cases.append(Case(kind, row["uid"], kind, pattern, None, energy, (row["uid"],)))
    return cases


def _pattern(case: Case, spots: Path | None) -> dx.Pattern:
    if not isinstance(case.pattern, Path):
        return case.pattern
    if case.scale is None:
        return read_pattern(case.pattern)
    kept = None if spots is None else spots / f"{case.pattern.stem}.json"
    if kept is not None and kept.exists():
        return read_pattern(kept)
    mask = case.pattern.with_name(f"{case.pattern.stem}_mask.png")
    options = {"mask": read_mask(mask)} if mask.exists() else {}
    pattern = measure(case.pattern, case.scale, **options).pattern
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_pattern(pattern, kept)
    return pattern


def _asked(
    case: Case, library: Library, model: Any, modes: list[str], spots: Path | None
) -> list[dict[str, Any]]:
    """One row for each mode."""
    about = {"kind": case.kind, "group": case.group, "name": case.name, "truth": list(case.uids)}
    try:
        pattern = _pattern(case, spots)
    except PatternError as error:
        return [{**about, "mode": mode, "error": str(error)} for mode in modes]
    uid = library.crystals.uid
    true = [int(np.flatnonzero(uid == name)[0]) for name in case.uids]
    crystals = getattr(library.crystals, "whole", library.crystals)
    numbers = sorted({int(z) for row in true for z in crystals.numbers[row] if z})
    own = sorted({int(row) for t in true for row in twins(crystals, t, crystals)} | set(true))
    out = []
    for mode in modes:
        options: dict[str, Any] = {"k": 10, "energy": case.energy}
        if mode == "elements":
            options["elements"] = [chemical_symbols[z] for z in numbers]
        searched = library.without(own) if mode == "absent" else library
        begin = time.perf_counter()
        try:
            found = dd2d_jax.retrieve(pattern, searched, model, **options)
        except PatternError as error:
            out.append({**about, "mode": mode, "error": str(error)})
            continue
        seconds = time.perf_counter() - begin
        for i, one in enumerate((found, *found.others)):
            if i and len(case.uids) == 1:
                break
            right = {str(uid[row]) for row in own}
            row = {**about, "mode": mode, "lattice": i + 1, "seconds": seconds}
            out.append({**row, **_about(one, right if mode != "absent" else set())})
    return out


def _about(found: dd2d_jax.Found, right: set[str]) -> dict[str, Any]:
    """What was found for one lattice; `right` holds the uids of the true structure."""
    rank = next((i for i, c in enumerate(found, 1) if c.uid in right), None)
    first = found[0]
    a, b = (float(np.linalg.norm(v)) for v in found.indexed.lattice)
    return {
        "first": first.uid,
        "formula": first.formula,
        "probability": first.probability,
        "score": first.score,
        "r1": first.r_factor,
        "none": found.none,
        "rank": rank,
        "weighed": not right.isdisjoint(found.weighed),
        "of_true": sum(c.probability for c in found if c.uid in right),
        "score_of_true": None if rank is None else found[rank - 1].score,
        "r1_of_true": None if rank is None else found[rank - 1].r_factor,
        "spots": len(found.indexed.q),
        "a": a,
        "b": b,
    }


def _summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each group and mode, and one for what the probabilities expect: both mixed."""
    out = []
    for group in dict.fromkeys(row["group"] for row in rows):
        some = [row for row in rows if row["group"] == group]
        for mode in dict.fromkeys(row["mode"] for row in some):
            every = [row for row in some if row["mode"] == mode]
            out.append({"group": group, "mode": mode, **_counted(every, np.ones(len(every)))})
        every = [row for row in some if row["mode"] in ("all", "absent")]
        gone = np.array([row["mode"] == "absent" for row in every])
        if gone.any() and not gone.all():
            mixed = _counted(every, as_expected(gone))
            out.append({"group": group, "mode": f"{NONE:.0%} absent", **mixed})
    return out


def _counted(every: list[dict[str, Any]], weight: np.ndarray) -> dict[str, Any]:
    """Shares in percent of the patterns, each of which counts for `weight`; numbers count alike."""
    some = np.array(["error" not in row for row in every])
    there, weighs = [row for row in every if "error" not in row], weight[some]
    here: dict[str, Any] = {"patterns": len(every), "refused": len(every) - len(there)}
    ranks = np.array([row["rank"] or math.inf for row in there])
    stated = np.array([row["probability"] for row in there])
    for n in (1, 3, 10):
        here[f"top{n}"] = 100 * float(weighs[ranks <= n].sum() / weight.sum())
    weighed = np.array([row["weighed"] for row in there], bool)
    here["weighed"] = 100 * float(weighs[weighed].sum() / weight.sum())
    right = ranks == 1
    here["wrong_above_80"] = int(((stated > 0.8) & ~right).sum())
    here["wrong_above_90"] = int(((stated > 0.9) & ~right).sum())
    here["right_above_90"] = int(((stated > 0.9) & right).sum())
    none = np.array([row["none"] for row in there])
    absent = np.array([row["mode"] == "absent" for row in there], bool)
    here["first"] = reliability(stated, right, weighs)
    here["none"] = reliability(none, absent, weighs)
    here["stated"], here["true"] = (
        100 * float(np.average(x, weights=weighs)) if there else math.nan for x in (stated, right)
    )
    here["seconds"] = float(np.median([row["seconds"] for row in there])) if there else None
    return here


def _table(summary: list[dict[str, Any]]) -> Table:
    table = Table("patterns", "mode", title="Patterns that others made", title_justify="left")
    for name in (
        "count", "refused", "top-1", "top-3", "top-10", "weighed", "wrong > 80 %", "> 90 %",
        "right > 90 %", "stated", "true", "log-loss none", "s",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for row in summary:
        loss = row["none"]["log_loss"]
        table.add_row(
            row["group"], row["mode"], str(row["patterns"]), str(row["refused"]),
            *(f"{row[name]:.0f}" for name in ("top1", "top3", "top10", "weighed")),
            *(str(row[x]) for x in ("wrong_above_80", "wrong_above_90", "right_above_90")),
            f"{row['stated']:.0f}", f"{row['true']:.0f}", "-" if loss is None else f"{loss:.2f}",
            "-" if row["seconds"] is None else f"{row['seconds']:.1f}",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    main()

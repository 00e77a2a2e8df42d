"""Fit how probable it is that a pattern's crystal is not in the library, see matching/absent.py.

    python benchmarks/fit_absent.py --source c2db.db --library c2db_library --json fit.json --write

Patterns are made of crystals of the training part (random split, seed 0) of the source, as a
microscope gives them (levels measured and microscope), nearly perfect ones, and such of multiple
scattering. Each is weighed once; left out, its crystal and that crystal's twins are taken from the
list of what was weighed. `--write` stores weights and limits in dd2d_jax/matching/absent.json.
Half of the queries are fitted and the other half checked, then all of them are fitted.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy.optimize import minimize

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import dd2d_jax  # noqa: E402
import diffraction as dx  # noqa: E402
from dd2d_jax.data.crystal_set import CrystalSet  # noqa: E402
from dd2d_jax.data.datasets import read_source  # noqa: E402
from dd2d_jax.data.duplicates import twins  # noqa: E402
from dd2d_jax.data.splits import split  # noqa: E402
from dd2d_jax.evaluation.evaluate import make_patterns  # noqa: E402
from dd2d_jax.evaluation.reliability import reliability  # noqa: E402
from dd2d_jax.lattices import lattice as lattices  # noqa: E402
from dd2d_jax.libraries.library import Library  # noqa: E402
from dd2d_jax.matching import absent  # noqa: E402
from dd2d_jax.matching.hypotheses import measured  # noqa: E402
from dd2d_jax.matching.rerank import Query, Weighing, weigh  # noqa: E402
from dd2d_jax.matching.shortlist import shortlist  # noqa: E402
from dd2d_jax.networks.checkpoint import write_json  # noqa: E402
from dd2d_jax.networks.disturbances import LEVELS, Disturbance  # noqa: E402
from dd2d_jax.spots import sized  # noqa: E402
from dd2d_jax.util import cache  # noqa: E402
from dd2d_jax.util.errors import PatternError  # noqa: E402

KINDS = ("measured", "microscope", "perfect", "multislice")
PERFECT = Disturbance(noise=0.01, scale=0.003, tilt=0.1, floor=1e-3)
# Weights are drawn to 0 by so much a row.
_SHRINK = 1e-2
# Limits are not tighter than this: the measured flake of MoO3 has an R1 of 0.45.
LIMITS = {"r1": 0.5, "stretch": 0.04, "shear": 0.012}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, help="ASE database of crystals with uid")
    parser.add_argument("--library", required=True, help="folder of dd2d index of all of them")
    parser.add_argument("--queries", type=int, default=100, help="of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--weighed", type=int, default=100, help="crystals weighed for each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path, help="rows of an earlier run, JSON, are fitted, too")
    parser.add_argument("--json", type=Path, help="rows and results")
    parser.add_argument("--write", action="store_true", help="store what was fitted")
    args = parser.parse_args()
    cache.keep_compilations()
    rows = _read(args.rows)
    for kind in args.kinds if args.queries else ():
        rows += _collect(kind, args)
        if args.json:
            write_json(args.json, {"rows": rows})
    told = fit(rows)
    half = fit([row for row in rows if row["number"] % 2 == 0])
    checked = check([row for row in rows if row["number"] % 2], half["weights"])
    print_checked(checked)
    if args.json:
        write_json(args.json, {"rows": rows, "fit": told, "checked": checked})
    if args.write:
        write_json(ROOT / "dd2d_jax/matching/absent.json", told)


def _read(path: Path | None) -> list[dict[str, Any]]:
    import json

    return [] if path is None else json.loads(path.read_text())["rows"]


def patterns(kind: str, crystals: CrystalSet, seed: int) -> Iterator[dx.Pattern]:
    """A pattern of each crystal."""
    conditions = dd2d_jax.load().conditions
    if kind != "multislice":
        amount = LEVELS.get(kind, PERFECT)
        yield from make_patterns(crystals, conditions, amount, seed)
        return
    random = np.random.default_rng(seed)
    for i in range(len(crystals)):
        b, energy = random.uniform(0.2, 2.0), random.choice([60.0, 80.0, 200.0, 300.0])
        beam = dx.Electrons(float(energy))
        yield dx.simulate(crystals.crystal[i], beam, conditions.q_max, b, method=kind)


def _collect(kind: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    model, library = dd2d_jax.load(), Library.load(args.library)
    source = read_source(args.source)
    part = split(source, "random")["train"]
    part = part[np.isin(source.uid[part], library.crystals.uid)]
    random = np.random.default_rng(args.seed + KINDS.index(kind))
    chosen = source.take(random.permutation(part)[: args.queries])
    rows = []
    for i, pattern in enumerate(patterns(kind, chosen, args.seed)):
        try:
            indexed = lattices.find_all(jax.tree.map(np.asarray, pattern))[0]
            query = Query.indexed(indexed, model.conditions.q_max)
        except PatternError:
            continue
        row = int(np.flatnonzero(library.crystals.uid == chosen.uid[i])[0])
        made = about(query, library, model, row, args.weighed)
        rows += [{"kind": kind, "number": i, "uid": str(chosen.uid[i]), **one} for one in made]
    return rows


def about(
    query: Query, library: Library, model: Any, truth: int, count: int
) -> list[dict[str, Any]]:
    """A query's features with the crystal in row `truth` in the library, and left out."""
    conditions, every = model.conditions, np.ones(len(library), bool)
    embedded = model.embed_patterns(sized(query.settings, conditions.tokens))
    short = shortlist(library, query, embedded, every, conditions, count, 0.02)
    weighing = weigh(short.crystals, short.scores, query, conditions, measured())
    crystals = getattr(library.crystals, "whole", library.crystals)
    own = np.append(twins(crystals, truth, crystals), truth)
    near = library.cells.near(np.asarray(query.settings.lattice)[query.found], *absent.NEAR)
    return told_of(weighing, short.rows, short.crystals, query, len(near), own, len(library))


def told_of(
    weighing: Weighing,
    rows: np.ndarray,
    crystals: CrystalSet,
    query: Query,
    near: int,
    own: np.ndarray,
    size: int,
) -> list[dict[str, Any]]:
    """Present and absent, among all crystals and among those of the true one's elements."""
    true = np.isin(rows, own)
    if not true.any():
        return []
    mine = set(crystals.numbers[np.flatnonzero(true)[0]].tolist()) | {0}
    alike = np.array([set(one.tolist()) <= mine for one in crystals.numbers])
    out = []
    for mode, some in (("all", np.ones(len(rows), bool)), ("elements", alike)):
        for left_out in (False, True):
            keep = some & ~true if left_out else some
            if not keep.any():
                continue
            few = Weighing(*(x[keep] for x in weighing))
            prior = np.full(keep.sum(), -math.log(size))
            share = near if mode == "all" else max(round(near * alike.mean()), 1)
            values = absent.features(few, prior, crystals.formula[keep], query, share)
            first = few.value.argmax()
            share = float(np.exp(few.value[first] - np.logaddexp.reduce(few.value)))
            out.append(
                {
                    "mode": mode, "absent": left_out, "features": values.tolist(),
                    "right": bool(true[keep][first]), "share": share, "r1": float(few.r1[first]),
                    "stretch": float(abs(few.stretch[first])), "shear": float(few.shear[first]),
                }
            )  # fmt: skip
    return out


def fit(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Weights of a logistic of "the first is wrong because the right one is absent", and limits."""
    x = np.array([row["features"] for row in rows])
    absent_ = np.array([row["absent"] for row in rows])
    # As many of each kind, a share of `NONE` of them absent.
    groups = [(row["kind"], row["absent"]) for row in rows]
    count = {group: groups.count(group) for group in set(groups)}
    weight = np.array([1 / count[group] for group in groups])
    weight *= np.where(absent_, absent.NONE, 1 - absent.NONE)
    weight *= len(rows) / weight.sum()
    sign = np.where(absent_, 1.0, -1.0)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        odds = sign * (x @ w)
        slope = -sign * weight / (1 + np.exp(np.clip(odds, -500, 500)))
        shrunk = _SHRINK * len(rows) * np.append(0, w[1:])
        value = (weight * np.logaddexp(0, -odds)).sum() + 0.5 * (shrunk * w).sum()
        return float(value), slope @ x + shrunk

    found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B")
    true = [row for row in rows if row["right"]]
    return {
        "weights": dict(zip(absent.NAMES, map(float, found.x), strict=True)),
        "limits": {n: max(1.1 * max(row[n] for row in true), x) for n, x in LIMITS.items()},
        "command": "python benchmarks/fit_absent.py " + " ".join(sys.argv[1:]),
        "rows": {"/".join(map(str, group)): n for group, n in sorted(count.items())},
    }


def check(rows: list[dict[str, Any]], weights: dict[str, float]) -> list[dict[str, Any]]:
    """What weights that were fitted to other queries say of these."""
    w = np.array([weights[name] for name in absent.NAMES])
    out = []
    for kind, mode in sorted({(row["kind"], row["mode"]) for row in rows}):
        every = [row for row in rows if (row["kind"], row["mode"]) == (kind, mode)]
        here, gone = ([r for r in every if r["absent"] is x] for x in (False, True))
        none = {
            x: 1 / (1 + np.exp(-np.array([r["features"] for r in some]).reshape(-1, len(w)) @ w))
            for x, some in ((False, here), (True, gone))
        }
        stated = {x: np.array([r["share"] for r in some]) * (1 - none[x])
                  for x, some in ((False, here), (True, gone))}  # fmt: skip
        right = np.array([r["right"] for r in here])
        before = np.array([r["share"] for r in here])
        loss = -(1 - absent.NONE) * np.log(1 - none[False]).mean()
        loss -= absent.NONE * np.log(none[True]).mean()
        out.append(
            {
                "kind": kind, "mode": mode, "queries": len(here),
                "absent_wrong_above_90": float((stated[True] > 0.9).mean()),
                "sure_and_right": int(((stated[False] > 0.9) & right).sum()),
                "sure_and_right_without_none": int(((before > 0.9) & right).sum()),
                "log_loss_none": float(loss),
                "first": reliability(stated[False], right),
            }
        )  # fmt: skip
    return out


def print_checked(checked: list[dict[str, Any]]) -> None:
    """One line for each kind and mode."""
    for row in checked:
        print(
            f"{row['kind']:>11} {row['mode']:>9} {row['queries']:4d} queries: absent, a wrong one"
            f" above 90 %: {100 * row['absent_wrong_above_90']:.0f} %; sure and right"
            f" {row['sure_and_right']} of {row['sure_and_right_without_none']}; log-loss of none"
            f" {row['log_loss_none']:.2f}"
        )


if __name__ == "__main__":
    main()

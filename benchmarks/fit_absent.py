"""Fit how probable it is that a pattern's crystal is not in the library, see matching/absent.py.

    python benchmarks/fit_absent.py --source c2db.db --library c2db_library --json fit.json --write

Patterns are made of crystals of the training part (random split, seed 0) of the source, as a
microscope gives them (levels measured and microscope), nearly perfect ones, such of multiple
scattering, of few spots and of thick flakes; every second of them, but for the nearly perfect ones,
is elliptic, and every second has a gradient across it. Each is weighed once; left out, its crystal
and that crystal's twins are taken from the list of what was weighed. `--write` stores weights and
limits in dd2d_jax/matching/absent.json.
Each eighth of the queries is checked with weights fitted to the others, then all are fitted;
with `--stored` all are checked with the weights that are stored, and nothing is fitted.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ase.data import chemical_symbols
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
from dd2d_jax.evaluation.reliability import as_expected, reliability  # noqa: E402
from dd2d_jax.lattices import lattice as lattices  # noqa: E402
from dd2d_jax.libraries.library import Library  # noqa: E402
from dd2d_jax.matching import absent  # noqa: E402
from dd2d_jax.matching.dynamical import weigh_again  # noqa: E402
from dd2d_jax.matching.hypotheses import measured  # noqa: E402
from dd2d_jax.matching.isotypes import log_isotypes  # noqa: E402
from dd2d_jax.matching.rerank import Query, Weighing, log_none, weigh  # noqa: E402
from dd2d_jax.matching.shortlist import shortlist  # noqa: E402
from dd2d_jax.matching.weighing import conditions_at  # noqa: E402
from dd2d_jax.networks.checkpoint import write_json  # noqa: E402
from dd2d_jax.networks.disturbances import LEVELS, Disturbance  # noqa: E402
from dd2d_jax.networks.microscope import GAP, STACKINGS  # noqa: E402
from dd2d_jax.spots import Conditions, sized  # noqa: E402
from dd2d_jax.util import cache  # noqa: E402
from dd2d_jax.util.errors import PatternError  # noqa: E402

KINDS = ("measured", "microscope", "perfect", "multislice", "few", "flakes")
# Crystals that may be returned: any, or those of the true one's elements.
MODES = ("all", "elements")
PERFECT = Disturbance(noise=0.01, scale=0.003, tilt=0.1, floor=1e-3)
# Weights are drawn to 0 by so much a row: those of the numbers themselves, and of their products,
# which go astray sooner on patterns unlike those that were learnt from.
_SHRINK, _SHRINK_PRODUCTS = 1e-3, 5e-2
# Limits are not tighter than this. Measured flakes of MoO3 and of h-BN (twice) have an R1 of 0.45,
# 0.59 and 0.65, that between mates subtracted in quadrature 0.41, 0.43 and 0.56; and cameras are
# elliptic, one of them by 8 %. The stretch is in standard deviations of `hypotheses.measured`.
LIMITS = {"r1": 0.57, "stretch": 5.0, "shear": 0.05}
_FOLDS = 8
# Layers of the thickest flake, atoms of the largest, and tilts that make up a bent one.
LAYERS, LARGEST, BENDS = 20, 160, 4
# Of the logarithm of intensities, from the centre to the farthest spot along either axis.
GRADIENT = 0.4
# That patterns are weighed with.
SCALE_ERROR = 0.02


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
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="store what was fitted")
    what.add_argument("--stored", action="store_true", help="check the weights that are stored")
    args = parser.parse_args()
    cache.keep_compilations()
    rows = _read(args.rows)
    for kind in args.kinds if args.queries else ():
        rows += _collect(kind, args)
        if args.json:
            write_json(args.json, {"rows": rows})
    if args.stored:
        print_checked(said_of(rows, [absent.log_odds(r["features"], _known(r)) for r in rows]))
        return
    told = fit(rows)
    checked = said_of(rows, odds_of_folds(rows))
    print_checked(checked)
    if args.json:
        write_json(args.json, {"rows": rows, "fit": told, "checked": checked})
    if args.write:
        write_json(ROOT / "dd2d_jax/matching/absent.json", told)


def _read(path: Path | None) -> list[dict[str, Any]]:
    import json

    return [] if path is None else json.loads(path.read_text())["rows"]


def patterns(
    kind: str, crystals: CrystalSet, seed: int
) -> Iterator[tuple[dx.Pattern, float | None]]:
    """A pattern of each crystal, and the energy in keV that is told with it."""
    conditions = dd2d_jax.load().conditions
    random = np.random.default_rng(seed)
    by_multislice = {"multislice": _multislice, "flakes": _flake}.get(kind)
    if by_multislice:
        for i in range(len(crystals)):
            yield by_multislice(crystals.crystal[i], conditions.q_max, random)
        return
    amount = {"perfect": PERFECT, "few": LEVELS["measured"]}.get(kind) or LEVELS[kind]
    for pattern in make_patterns(crystals, conditions, amount, seed):
        if kind == "few":
            pattern = _strongest(pattern, int(np.exp(random.uniform(*np.log([6, 25])))))
        yield pattern if kind == "perfect" else _by_camera(pattern, random), None


def _strongest(pattern: dx.Pattern, count: int) -> dx.Pattern:
    seen = np.where(np.asarray(pattern.mask), np.asarray(pattern.intensity), 0.0)
    mask = (seen > 0) & (seen >= np.sort(seen)[-min(count, len(seen))])
    return dataclasses.replace(pattern, mask=mask)


def _by_camera(pattern: dx.Pattern, random: np.random.Generator) -> dx.Pattern:
    """The pattern of a camera that every second time is elliptic, by 0.5 to 6 %, and every second
    time has a gradient across it.
    """
    angle = random.uniform(0, np.pi)
    axis = np.array([np.cos(angle), np.sin(angle)])
    ratio = np.exp(random.uniform(*np.log([0.005, 0.06]))) * random.integers(2)
    stretch = np.eye(2) + ratio * (np.outer(axis, axis) - np.eye(2) / 2)
    q = np.asarray(pattern.q, float)
    farthest = np.linalg.norm(q[np.asarray(pattern.mask)], axis=-1).max(initial=1e-6)
    gradient = random.normal(0.0, GRADIENT, 2) * random.integers(2)
    intensity = np.asarray(pattern.intensity) * np.exp(np.clip(q @ gradient / farthest, -3, 3))
    return dataclasses.replace(pattern, q=q @ stretch, intensity=intensity)


def _multislice(
    crystal: dx.Crystal, q_max: float, random: np.random.Generator
) -> tuple[dx.Pattern, float]:
    """Electrons that scatter more than once, each element's own B, a little tilt, and noise."""
    energy, b = _beam(crystal, random)
    tilt = tuple(random.normal(0.0, 0.6, 2))
    exact = dx.simulate(crystal, dx.Electrons(energy), q_max, b, tilt, method="multislice")
    noise = np.exp(random.uniform(*np.log([0.02, 0.3])))
    return _seen(exact, np.asarray(exact.intensity, float), noise, random), energy


def _flake(
    crystal: dx.Crystal, q_max: float, random: np.random.Generator
) -> tuple[dx.Pattern, float]:
    """Two to many layers upon each other, bent, of which every second time few spots are seen."""
    energy, b = _beam(crystal, random)
    there = np.asarray(crystal.numbers) > 0
    most = min(LAYERS, LARGEST // int(there.sum()))
    count = int(np.exp(random.uniform(np.log(2), np.log(max(most, 2) + 0.999))))
    positions = np.asarray(crystal.positions, float)[there]
    height = np.ptp(positions[:, 2]) + GAP
    shift = STACKINGS[random.integers(len(STACKINGS))] @ np.asarray(crystal.lattice, float)
    # Each other layer is shifted, and half of the time turned by 180 degrees.
    turned = np.array([[1, 1, 1], random.choice([[1, 1, 1], [-1, -1, 1]])])
    layers = [
        positions * turned[n % 2] + np.append(n % 2 * shift, n * height) for n in range(count)
    ]
    numbers = np.tile(np.asarray(crystal.numbers)[there], count)
    stack = dx.Crystal(np.asarray(crystal.lattice), np.concatenate(layers), numbers)
    bend = np.exp(random.uniform(*np.log([0.1, 1.5])))
    tilts = random.normal(0.0, 0.5, 2) + random.normal(0.0, bend, (BENDS, 2))
    every = [
        dx.simulate(stack, dx.Electrons(energy), q_max, b, tuple(tilt), method="multislice")
        for tilt in tilts
    ]
    intensity = np.mean([one.intensity for one in every], axis=0)
    made = _seen(every[0], intensity, np.exp(random.uniform(*np.log([0.02, 0.2]))), random)
    if random.integers(2):
        made = _strongest(made, int(np.exp(random.uniform(*np.log([12, 60])))))
    return made, energy


def _beam(crystal: dx.Crystal, random: np.random.Generator) -> tuple[float, dict[str, float]]:
    """An energy in keV, and B of each element, angstrom^2."""
    energy = float(random.choice([60.0, 80.0, 120.0, 200.0, 300.0]))
    symbols = {chemical_symbols[z] for z in np.asarray(crystal.numbers) if z}
    common = random.uniform(0.2, 2.0)
    return energy, {symbol: common * random.lognormal(0.0, 0.3) for symbol in sorted(symbols)}


def _seen(
    exact: dx.Pattern, intensity: np.ndarray, noise: float, random: np.random.Generator
) -> dx.Pattern:
    """What a camera makes of intensities: noise, a floor, lost spots, a scale, ellipticity."""
    strain = random.normal(0.0, 0.006) + random.uniform(-0.02, 0.02)
    intensity = intensity * random.lognormal(0.0, noise, len(intensity))
    floor = 10 ** random.uniform(-4.0, -2.5) * intensity.max()
    seen = np.asarray(exact.mask) & (intensity > floor) & (random.random(len(intensity)) > 0.05)
    q = np.asarray(exact.q, float) * (1 + strain)
    return _by_camera(dx.Pattern(q, intensity, np.asarray(exact.hk), seen), random)


def _collect(kind: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    model, library = dd2d_jax.load(), Library.load(args.library)
    source = read_source(args.source)
    part = split(source, "random")["train"]
    part = part[np.isin(source.uid[part], library.crystals.uid)]
    random = np.random.default_rng(args.seed + KINDS.index(kind))
    chosen = source.take(random.permutation(part)[: args.queries])
    rows = []
    for i, (pattern, energy) in enumerate(patterns(kind, chosen, args.seed)):
        conditions = conditions_at(model, energy)
        try:
            indexed = lattices.find_all(jax.tree.map(np.asarray, pattern))[0]
            query = Query.indexed(indexed, conditions.q_max)
        except PatternError:
            continue
        row = int(np.flatnonzero(library.crystals.uid == chosen.uid[i])[0])
        made = about(query, library, model, conditions, row, args.weighed)
        rows += [{"kind": kind, "number": i, "uid": str(chosen.uid[i]), **one} for one in made]
    return rows


def about(
    query: Query,
    library: Library,
    model: Any,
    conditions: Conditions,
    truth: int,
    count: int,
) -> list[dict[str, Any]]:
    """A query's features with the crystal in row `truth` in the library, and left out."""
    every = np.ones(len(library), bool)
    embedded = model.embed_patterns(sized(query.settings, conditions.tokens))
    short = shortlist(library, query, embedded, every, conditions, count, SCALE_ERROR)
    kinds, even = measured(SCALE_ERROR), np.zeros(len(short.rows))
    weighing = weigh(short.crystals, short.scores, query, conditions, kinds)
    weighing = weigh_again(weighing, even, short.crystals, query, conditions, kinds)
    crystals = getattr(library.crystals, "whole", library.crystals)
    own = np.append(twins(crystals, truth, crystals), truth)
    near = library.cells.near(np.asarray(query.settings.lattice)[query.found], *absent.NEAR)

    def isotypes(first: int, gone: bool) -> float:
        known = set(library.crystals.formula[near[~np.isin(near, own)] if gone else near])
        crystal, setting = short.crystals.take([first]), int(weighing.setting[first])
        way = weighing.way_of(first)
        return log_isotypes(crystal, setting, query, conditions, kinds, known, way=way)

    return told_of(weighing, short.rows, short.crystals, query, near, own, len(library), isotypes)


def told_of(
    weighing: Weighing,
    rows: np.ndarray,
    crystals: CrystalSet,
    query: Query,
    near: np.ndarray,
    own: np.ndarray,
    size: int,
    isotypes: Callable[[int, bool], float],
) -> list[dict[str, Any]]:
    """Present and absent, among all crystals and among those of the true one's elements."""
    true = np.isin(rows, own)
    if not true.any():
        return []
    mine = set(crystals.numbers[np.flatnonzero(true)[0]].tolist()) | {0}
    alike = np.array([set(one.tolist()) <= mine for one in crystals.numbers])
    strain = measured(SCALE_ERROR)[0].stretch
    out = []
    for mode, some in zip(MODES, (np.ones(len(rows), bool), alike), strict=True):
        for left_out in (False, True):
            keep = some & ~true if left_out else some
            if not keep.any():
                continue
            few = jax.tree.map(lambda x, keep=keep: x[keep], weighing)
            # Of the crystals of these elements as many as of those weighed.
            share = 1.0 if mode == "all" else float(alike.mean())
            there = float((~np.isin(near, own) if left_out else near >= 0).sum())
            close, every = share * there, max(share * size, float(keep.sum()))
            prior = np.full(keep.sum(), -math.log(every))
            any_kind = absent.log_odds_of_any(few, prior, log_none(query), close, every)
            formula = crystals.formula[keep]
            first = int(few.value.argmax())
            # Where the elements are known, hardly any isotype is possible.
            rivals = -math.inf
            if mode == "all":
                rivals = isotypes(int(np.flatnonzero(keep)[first]), left_out)
            values = absent.features(few, prior, formula, query, close, any_kind, rivals, strain)
            stated = float(np.exp(few.value[first] - np.logaddexp.reduce(few.value)))
            out.append(
                {
                    "mode": mode, "absent": left_out, "features": values.tolist(),
                    "right": bool(true[keep][first]), "share": stated, "r1": float(few.r1[first]),
                    "stretch": float(abs(few.stretch[first])) / strain,
                    "shear": float(few.shear[first]),
                }
            )  # fmt: skip
    return out


def fit(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Weights for all crystals and for those of known elements, and limits."""
    true = [row for row in rows if row["right"] and row["mode"] == "all"]
    most = {name: 1.1 * float(np.quantile([row[name] for row in true], 0.99)) for name in LIMITS}
    groups = [f"{row['kind']}/{row['mode']}/{row['absent']}" for row in rows]
    return {
        "weights": {mode: _weights([r for r in rows if r["mode"] == mode]) for mode in MODES},
        "limits": {name: max(most[name], least) for name, least in LIMITS.items()},
        "command": "python benchmarks/fit_absent.py " + " ".join(sys.argv[1:]),
        "rows": {group: groups.count(group) for group in sorted(set(groups))},
    }


def _weights(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Of a logistic of "the first is wrong because the right one is absent"."""
    values = np.array([row["features"] for row in rows])
    centre, spread = values.mean(0), values.std(0)
    # The first is 1; others are the same everywhere where the elements are known.
    centre[0], spread = 0.0, np.where(spread > 1e-6, spread, 1.0)
    x = absent.terms(values, centre, spread)
    absent_ = np.array([row["absent"] for row in rows])
    # As many of each kind, a share of `NONE` of them absent.
    groups = [(row["kind"], row["absent"]) for row in rows]
    count = {group: groups.count(group) for group in set(groups)}
    weight = np.array([1 / count[group] for group in groups])
    weight *= np.where(absent_, absent.NONE, 1 - absent.NONE)
    weight *= len(rows) / weight.sum()
    sign = np.where(absent_, 1.0, -1.0)
    shrink = np.full(x.shape[1], _SHRINK_PRODUCTS * len(rows))
    shrink[: len(absent.NAMES)] = _SHRINK * len(rows)
    shrink[0] = 0.0

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        odds = sign * (x @ w)
        slope = -sign * weight / (1 + np.exp(np.clip(odds, -500, 500)))
        value = (weight * np.logaddexp(0, -odds)).sum() + 0.5 * (shrink * w**2).sum()
        return float(value), slope @ x + shrink * w

    found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B")
    told = {"centre": centre, "spread": spread, "terms": found.x}
    return {name: [float(f"{v:.5g}") for v in values] for name, values in told.items()}


def _known(row: dict[str, Any]) -> bool:
    return row["mode"] == "elements"


def odds_of_folds(rows: list[dict[str, Any]]) -> np.ndarray:
    """Log-odds (n,) of each query by weights that were fitted to seven eighths without it."""
    odds = np.zeros(len(rows))
    fold = np.array([row["number"] % _FOLDS for row in rows])
    for k in range(_FOLDS):
        weights = fit([row for row, its in zip(rows, fold, strict=True) if its != k])["weights"]
        for i in np.flatnonzero(fold == k):
            odds[i] = absent.log_odds(rows[i]["features"], _known(rows[i]), weights)
    return odds


def said_of(rows: list[dict[str, Any]], odds: Sequence[float]) -> list[dict[str, Any]]:
    """What log-odds (n,) of none say of queries, for each kind and mode."""
    rows = [{**row, "odds": float(x)} for row, x in zip(rows, odds, strict=True)]
    out = []
    for kind, mode in sorted({(row["kind"], row["mode"]) for row in rows}):
        every = [row for row in rows if (row["kind"], row["mode"]) == (kind, mode)]
        here, gone = ([r for r in every if r["absent"] is x] for x in (False, True))
        none = {
            x: 1 / (1 + np.exp(-np.array([r["odds"] for r in some])))
            for x, some in ((False, here), (True, gone))
        }
        stated = {x: np.array([r["share"] for r in some]) * (1 - none[x])
                  for x, some in ((False, here), (True, gone))}  # fmt: skip
        right = np.array([r["right"] for r in here])
        before = np.array([r["share"] for r in here])
        gone_all = np.arange(len(here) + len(gone)) >= len(here)
        both = np.concatenate([none[False], none[True]])
        loss = reliability(both, gone_all, as_expected(gone_all))["log_loss"]
        out.append(
            {
                "kind": kind, "mode": mode, "queries": len(here), "left_out": len(gone),
                "absent_wrong_above_90": int((stated[True] > 0.9).sum()),
                "without_none": int((np.array([r["share"] for r in gone]) > 0.9).sum()),
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
            f"{row['kind']:>11} {row['mode']:>9} {row['queries']:4d} queries; of {row['left_out']} "
            f"left out a wrong one above 90 %: {row['absent_wrong_above_90']} (without none "
            f"{row['without_none']}); sure and right {row['sure_and_right']} of "
            f"{row['sure_and_right_without_none']}; log-loss of none {row['log_loss_none']:.2f}"
        )


if __name__ == "__main__":
    main()

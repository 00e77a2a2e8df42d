"""How often a crystal that the library does not hold is proposed: leave one out, again and again.

    python benchmarks/propose.py results.jsonl --cases 500 [--level perturbed] [--without formula]

The library is the database without the case's crystal ("uid") or without all crystals of its
formula ("formula"). The query is the crystal's pattern at a level of `dd2d evaluate`; its lattice
is found from the spots. A structure matches where pymatgen's StructureMatcher with default
tolerances says so, both in cells of the same height; `strict` also asks for atoms within 0.3 A
(root mean square), since a high cell makes the default tolerant. `proposed`: the first ten of the
library's candidates and the proposals together; `library`: the first ten of the library's alone;
`built`: any of the proposals that were built, strictly. The library's candidates are the best by
`score` of all its crystals, ordered by `log_evidence`.

Each case is a line of the file. Started again, it goes on where it was ended.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

from dd2d_jax.util import errors

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import diffraction as dx  # noqa: E402
from configs import base  # noqa: E402
from dd2d_jax.crystals.structures import to_atoms  # noqa: E402
from dd2d_jax.data.crystal_set import CrystalSet  # noqa: E402
from dd2d_jax.data.datasets import load  # noqa: E402
from dd2d_jax.data.duplicates import SAME, distinct  # noqa: E402
from dd2d_jax.evaluation.evaluate import make_queries  # noqa: E402
from dd2d_jax.lattices import lattice  # noqa: E402
from dd2d_jax.matching import propose  # noqa: E402
from dd2d_jax.matching.hypotheses import TEMPERATURE, measured  # noqa: E402
from dd2d_jax.matching.rerank import Query, compare, log_none, weigh  # noqa: E402
from dd2d_jax.matching.score import Table, simulate_table  # noqa: E402
from dd2d_jax.networks.disturbances import LEVELS  # noqa: E402
from dd2d_jax.spots import Conditions, Spots  # noqa: E402
from dd2d_jax.util.progress import progress  # noqa: E402

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "c2db.db"
FIRST = 10
RERANK = 100
HEIGHT = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT.jsonl")
    parser.add_argument("--db", type=Path, default=DATA)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--level", choices=tuple(LEVELS), default="perturbed")
    parser.add_argument("--without", choices=("uid", "formula"), default="uid")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    crystals = load("ase_db", args.db)
    conditions = Conditions.from_config(base.get_config().diffraction)
    cases = np.random.default_rng(args.seed).permutation(len(crystals))[: args.cases]
    about = {"level": args.level, "without": args.without, "seed": args.seed}
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = [json.loads(line) for line in lines]
    done = [d for d in done if {k: d[k] for k in about} == about]
    met = {d["uid"] for d in done}
    queries = make_queries(crystals.take(cases), conditions, LEVELS[args.level], args.seed)
    table = simulate_table(crystals.crystal, conditions)
    places = [i for i, row in enumerate(cases) if str(crystals.uid[row]) not in met]
    for i in progress(places, len(places), "cases", per="min"):
        query = jax.tree.map(lambda x, i=i: x[i], queries)
        begin = time.perf_counter()
        result = case(crystals, table, int(cases[i]), query, conditions, args.without)
        result = {**about, **result, "seconds": round(time.perf_counter() - begin, 2)}
        done.append(result)
        with args.out.open("a") as file:
            file.write(json.dumps(result) + "\n")
    wanted = {str(crystals.uid[row]) for row in cases}
    summary([d for d in done if d["uid"] in wanted])


def case(
    crystals: CrystalSet, table: Table, row: int, query: Spots, conditions: Conditions, without: str
) -> dict:
    """Ranks (1 is first, None beyond the tenth) at which a structure matches the true one."""
    uid, formula = str(crystals.uid[row]), str(crystals.formula[row])
    out = {"uid": uid, "formula": formula, "atoms": int((crystals.numbers[row] > 0).sum())}
    left_out = crystals.formula == formula if without == "formula" else crystals.uid == uid
    try:
        asked = Query.indexed(lattice.find(pattern_of(query)), conditions.q_max)
    except errors.PatternError as error:
        return {**out, "error": str(error)}
    every = compare(table, asked.settings)
    first = np.argsort(np.where(left_out, np.inf, -every.max(0)), kind="stable")[:RERANK]
    value = weigh(crystals.take(first), every[:, first], asked, conditions, measured()).value
    evidence = value - log_none(asked) / TEMPERATURE
    kept = np.flatnonzero(~left_out)
    library = crystals.take(kept)
    begin = time.perf_counter()
    parents = np.searchsorted(kept, first[: propose.PARENTS])
    made = propose.rank(library, parents, asked, conditions)
    chosen = distinct(made.crystals, library, FIRST)
    seconds = time.perf_counter() - begin
    known = [(e, crystals, int(r)) for e, r in zip(evidence, first, strict=True)]
    known = sorted(known, key=lambda entry: -entry[0])
    both = known + [(made.log_evidence[i], made.crystals, i) for i in chosen]
    both = sorted(both, key=lambda entry: -entry[0])
    alone = [match(crystals, row, *entry[1:]) for entry in known[:FIRST]]
    merged = [match(crystals, row, *entry[1:]) for entry in both[:FIRST]]
    return {
        **out,
        "library": place(alone, 1),
        "proposed": place(merged, 1),
        "library_strict": place(alone, 2),
        "proposed_strict": place(merged, 2),
        "built": place([match(crystals, row, made.crystals, i) for i in range(len(made))], 2),
        "simulated": made.simulated,
        "propose_seconds": round(seconds, 2),
    }


def pattern_of(query: Spots) -> dx.Pattern:
    """The spots of one query as they would be measured."""
    q, intensity, seen = (np.asarray(x) for x in (query.q, query.intensity, query.measured))
    q = np.concatenate([q[seen[:, 0]], -q[seen[:, 1]]])
    intensity = np.concatenate([intensity[seen[:, 0], 0], intensity[seen[:, 1], 1]])
    return dx.Pattern(q, intensity, np.zeros((len(q), 2), int), np.ones(len(q), bool))


def match(crystals: CrystalSet, row: int, others: CrystalSet, other: int) -> int:
    """0: another structure, 1: the same by default tolerances, 2: and within SAME."""
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.io.ase import AseAtomsAdaptor

    if crystals.formula[row] != others.formula[other]:
        return 0
    pair = []
    for one, i in ((crystals, row), (others, other)):
        atoms = to_atoms(one.lattice[i].astype(float), one.positions[i], one.numbers[i])
        atoms.cell[2, 2] = HEIGHT
        pair.append(AseAtomsAdaptor.get_structure(atoms))
    # The cells are primitive and reduced.
    matcher = StructureMatcher()
    if len(pair[0]) != len(pair[1]) or not matcher.fit(*pair, skip_structure_reduction=True):
        return 0
    unit = (pair[0].volume / len(pair[0])) ** (1 / 3)
    close = StructureMatcher(stol=SAME / unit)
    return 1 + bool(close.fit(*pair, skip_structure_reduction=True))


def place(matches: list[int], least: int) -> int | None:
    """Rank of the first match."""
    return next((i for i, m in enumerate(matches, 1) if m >= least), None)


def summary(done: list[dict]) -> None:
    """Shares of the cases in which one of the first ten matches, in percent."""
    print(f"{len(done)} cases, {sum('error' in d for d in done)} without a lattice")
    for name in ("library", "library_strict", "proposed", "proposed_strict", "built"):
        ranks = [d.get(name) for d in done]
        shares = {k: 100 * np.mean([r is not None and r <= k for r in ranks]) for k in (1, 10)}
        of_built = 100 * np.mean([r is not None for r in ranks])
        print(f"{name}: top-1 {shares[1]:.1f}, top-10 {shares[10]:.1f}, any {of_built:.1f}")
    print(f"median seconds a case: {np.median([d['seconds'] for d in done]):.1f}, of them propose")
    print(f"  {np.median([d.get('propose_seconds', 0) for d in done]):.1f}")


if __name__ == "__main__":
    main()

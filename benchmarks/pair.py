"""Whether two networks rank better together than either, and better where spots are not kinematic.

    python benchmarks/pair.py --checkpoint runs/twin [--library L.db] [--queries 300] [--json OUT]

The package's network reads a crystal by its simulated spots, the checkpoint's may read it by its
atoms. Queries are test crystals of the checkpoint, each in its own setting: spots as simulated,
disturbed as in `evaluate`, or of multiple scattering (80 keV, B = 0.5 angstrom^2). The pair adds
the two networks' logits.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dd2d_jax  # noqa: E402
import diffraction as dx  # noqa: E402
from dd2d_jax.data.crystal_set import CrystalSet  # noqa: E402
from dd2d_jax.data.datasets import read_source  # noqa: E402
from dd2d_jax.evaluation.evaluate import QUERY_PAIRS, make_queries, places  # noqa: E402
from dd2d_jax.evaluation.ranks import accuracy, row_ranks  # noqa: E402
from dd2d_jax.networks.checkpoint import write_json  # noqa: E402
from dd2d_jax.networks.disturbances import LEVELS  # noqa: E402
from dd2d_jax.spots import Conditions, Spots, half_plane, select, strongest  # noqa: E402
from dd2d_jax.util import cache  # noqa: E402

KINDS = ("clean", "perturbed", "measured", "multislice")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--library", help="crystals to search (default: the test crystals)")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cache.keep_compilations()
    models = {"package": dd2d_jax.load(), "checkpoint": dd2d_jax.load(options.checkpoint)}
    queries = read_source(options.checkpoint / "test.db")
    library = queries if options.library is None else read_source(options.library)
    drawn = np.random.default_rng(options.seed).permutation(len(queries))[: options.queries]
    queries = queries.take(np.sort(drawn))
    truth = places(queries, library)
    galleries = {n: m.embed_crystals(library.crystal) for n, m in models.items()}
    print(f"{len(queries)} queries, {len(library):,} crystals; top-1/3/5/10 (%)")
    results = {}
    for kind in KINDS:
        logits = {}
        for name, model in models.items():
            spots = asked(queries, model.conditions, kind, options.seed)
            seen = model.embed_patterns(strongest(spots, model.conditions.tokens))
            scale = float(np.exp(model.params["log_scale"]))
            logits[name] = scale * seen @ galleries[name].T
        logits["pair"] = logits["package"] + logits["checkpoint"]
        for name, values in logits.items():
            found = accuracy(row_ranks(values, truth))
            results[f"{kind}, {name}"] = found
            row = "/".join(f"{found[f'top{k}']:.1f}" for k in (1, 3, 5, 10))
            print(f"{kind:12s}{name:12s}{row}", flush=True)
    if options.json:
        write_json(options.json, results)


def asked(crystals: CrystalSet, conditions: Conditions, kind: str, seed: int) -> Spots:
    """Patterns (n, QUERY_PAIRS) of a kind, each in its crystal's own setting."""
    if kind != "multislice":
        return make_queries(crystals, conditions, LEVELS[kind], seed)
    made = [
        scattered(crystals.crystal[i], dataclasses.replace(conditions, tokens=QUERY_PAIRS))
        for i in range(len(crystals))
    ]
    return Spots(*(np.stack([getattr(s, f.name) for s in made])
                   for f in dataclasses.fields(Spots) if f.name != "sigma"))  # fmt: skip


def scattered(crystal: dx.Crystal, conditions: Conditions) -> Spots:
    """The spots of electrons that scatter more than once."""
    hk = half_plane(np.asarray(crystal.lattice, float), conditions.q_max)
    hk = hk[(hk != 0).any(-1)]
    both = np.concatenate([hk, -hk])
    exact = dx.simulate(
        crystal, conditions.radiation, conditions.q_max, conditions.b_iso, hk=both,
        method="multislice",
    )  # fmt: skip
    intensity = np.stack(np.split(np.asarray(exact.intensity), 2), -1)
    q = np.asarray(exact.q)[: len(hk)]
    return select(q, jnp.asarray(hk), intensity, np.ones(intensity.shape, bool), conditions.tokens)


if __name__ == "__main__":
    main()

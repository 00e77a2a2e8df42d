"""Training speed of the published network: ours and one of the same size in torch.nn, in one run.

    python benchmarks/training.py [--crystals FILE] [--batch 32] [--threads 2] [--json OUT]

Both train with `configs/paper.py` (another type: --dtype) on the same batches: crystals of this
project, or of an ASE database. Ours is the training program's own step, the simulation of the
patterns included, and, forward, `Model.embed_crystals` and `embed_patterns`; torch gets its inputs
ready made, padded to 180 and 172 tokens as published and, in another row, cut to the longest of the
batch. Both begin with the same weights, and their embeddings are compared first. Programs take
turns; each figure is the median over the turns.

FLOPs are those of the matrix products on tokens that are no padding, three times the forward ones
for a step. Of the last block only what the embeddings need is counted, so that a program that
computes more gets nothing for it. Utilisation is their rate relative to --peak: by default that of
a known GPU, else the largest rate of a matrix product in the same run. torch runs on the CPU alone;
where it is not installed, or on a GPU, ours is measured by itself.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Of the published network: places in a sequence and in a cloud of points.
SEQUENCE, CLOUD = 180, 172
CRYSTALS, BATCHES = 2048, 4
# Dense matrix products in bfloat16, FLOP/s, from the makers' data sheets.
PEAKS = {
    "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "B200": 2250e12,
}  # fmt: skip
SAME = 2e-5

console = Console(width=None if sys.stdout.isatty() else 120)


def main() -> None:
    args = arguments()
    if hasattr(os, "sched_setaffinity"):  # XLA takes as many threads as it may use cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    import jax

    from dd2d_jax.networks.checkpoint import write_json
    from dd2d_jax.util import cache

    cache.keep_compilations()
    on_cpu = jax.default_backend() == "cpu"
    config = configuration(args, "float32" if on_cpu else "bfloat16")
    with console.status("reading crystals"):
        source = load(config)
    programs, work = ours(config, source)
    peak = args.peak * 1e12 if args.peak else known_peak(jax.devices()[0].device_kind)
    if on_cpu and find_spec("torch"):
        programs |= torchs(config, source, args.threads)
    elif on_cpu:
        console.print("torch is not installed: ours alone")
    if not peak:
        programs["matrix product", "forward"] = product(config.model.dtype)
    rates = {name: statistics.median(r) for name, r in turns(programs, args).items()}
    if not peak:
        peak = rates.pop(("matrix product", "forward"))
    result = {
        "machine": platform.processor() or platform.machine(),
        "device": f"{jax.local_device_count()} x {jax.devices()[0].device_kind}",
        "threads": args.threads,
        "load": os.getloadavg()[0],
        "versions": {n: version(n) for n in ("jax", "flax", "torch") if find_spec(n)},
        "crystals": config.data.path or config.data.source,
        "batch": args.batch,
        "dtype": config.model.dtype,
        "peak_flops": peak,
        "flops_per_sample": work,
        "rows": [
            {
                "program": name,
                "what": what,
                "samples_per_s": rate,
                "utilisation": rate * work[what] / peak / jax.local_device_count(),
            }
            for (name, what), rate in rates.items()
        ],
    }
    report(result)
    if args.json:
        write_json(args.json, result)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--crystals", type=Path, help="an ASE database; default: prototypes")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2, help="of either program")
    parser.add_argument("--dtype", help="to compute in; default float32, on a GPU bfloat16")
    parser.add_argument("--peak", type=float, help="TFLOP/s of one device")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one turn, at least")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def configuration(args: argparse.Namespace, dtype: str) -> Any:
    """`configs/paper.py` with the crystals, batch and type of the command line."""
    from configs import paper

    config = paper.get_config()
    config.train.batch = args.batch
    config.model.dtype = args.dtype or dtype
    if args.crystals:
        config.data.source, config.data.path = "ase_db", str(args.crystals)
    return config


def load(config: Any) -> Any:
    """A `train.inputs.Source` of crystals drawn at random that the published network can read."""
    from dd2d_jax.spots import Conditions
    from train import inputs

    crystals, splits = inputs.load_crystals(config)
    atoms = (np.asarray(crystals.crystal.numbers) > 0).sum(1)
    rows = splits["train"]
    rows = rows[4 * atoms[rows] + 8 <= SEQUENCE][:CRYSTALS]
    if len(rows) < config.train.batch:
        raise SystemExit(f"{len(rows)} crystals to train on, fewer than a batch")
    return inputs.load_source(crystals.take(rows), Conditions.from_config(config.diffraction))


def batches(config: Any, source: Any) -> list[np.ndarray]:
    """The rows of each batch, the same for every program."""
    from train import inputs

    rows = np.arange(len(source.crystal))
    return [inputs.batch_indices(0, i, rows, config.train.batch) for i in range(BATCHES)]


def ours(config: Any, source: Any) -> tuple[dict, dict[str, float]]:
    """{("dd2d-jax", what): a function of a number, of one batch} and the FLOPs of a sample."""
    import jax

    from dd2d_jax.networks.paper_network import PaperTower
    from dd2d_jax.networks.trained import Model
    from train import inputs, state, step

    every = batches(config, source)
    room = inputs.rooms(config, source, np.arange(len(source.crystal)))
    simulate, train = step.make_functions(config)
    current = state.create(config)
    model = Model(config, jax.tree.map(np.asarray, current.params))
    current, resident = step.replicate((current, source))
    key = jax.random.key(1)

    def training(number: int) -> None:
        nonlocal current
        rows = step.shard(every[number % BATCHES])
        batch = simulate(resident, rows, jax.random.fold_in(key, number))
        current, _ = train(current, batch, room(rows))
        jax.block_until_ready(current)

    crystals, spots = zip(*(ready(config, source, rows) for rows in every), strict=True)

    def forward(number: int) -> None:
        embeddings(model, crystals[number % BATCHES], spots[number % BATCHES])

    atoms = (np.concatenate([c.numbers for c in crystals]) > 0).sum(1)
    pairs = np.concatenate([s.mask for s in spots]).sum(1)
    lengths = PaperTower.tokens(atoms, pairs)
    once = forward_flops(lengths, config.model.width, config.model.layers)
    programs = {("dd2d-jax", "training"): training, ("dd2d-jax", "forward"): forward}
    return programs, {"training": 3 * once, "forward": once}


def ready(config: Any, source: Any, rows: np.ndarray) -> tuple[Any, Any]:
    """Crystals and clean spots of a batch, on the host."""
    import jax

    from dd2d_jax.networks.disturbances import clean_spots
    from dd2d_jax.spots import Conditions

    part = source.take(rows)
    spots = clean_spots(part.crystal, part.hk, Conditions.from_config(config.diffraction))
    return jax.tree.map(np.asarray, (part.crystal, spots))


def embeddings(model: Any, crystals: Any, spots: Any) -> tuple[np.ndarray, np.ndarray]:
    """As retrieval and evaluation get them; the rods are known to the training loop."""
    return (
        model.embed_crystals(crystals, spots.hk),
        model.embed_patterns(spots),
    )


def torchs(config: Any, source: Any, threads: int) -> dict:
    """As `ours`, of torch: padded as published, and cut to each batch."""
    import torch

    from benchmarks.peers import torch_network
    from dd2d_jax.networks.trained import Model, initial_params

    params = initial_params(config)
    sizes = {k: config.model[k] for k in ("width", "layers", "heads", "dropout")}
    forward, step = torch_network.make_functions(
        theirs(params), sizes, config.train.to_dict(), threads
    )
    made = [ready(config, source, rows) for rows in batches(config, source)]
    padded = [torch_inputs(*one) for one in made]
    cut = [tuple(shortened(x) for x in one) for one in padded]
    expected = embeddings(Model(config, params), *made[0])
    for inputs in (padded[0], cut[0]):
        for found, wanted in zip(forward(*map(torch.tensor, inputs)), expected, strict=True):
            if not np.abs(found - wanted).max() < SAME:
                raise SystemExit(f"torch's embeddings differ by {np.abs(found - wanted).max():.1e}")
    programs = {}
    for name, arrays in (("torch, as published", padded), ("torch, cut to the batch", cut)):
        tensors = [tuple(map(torch.tensor, one)) for one in arrays]
        for what, function in (("training", step), ("forward", forward)):
            programs[name, what] = lambda i, f=function, t=tensors: f(*t[i % BATCHES])
    return programs


def theirs(params: dict) -> dict[str, np.ndarray]:
    """Our parameters under the authors' names, as torch has them."""
    import flax.traverse_util

    from dd2d_jax.networks.paper_weights import their_name

    flat = flax.traverse_util.flatten_dict(params)
    return {
        their_name(path): np.asarray(x).T if path[-1] == "kernel" else np.asarray(x)
        for path, x in flat.items()
    }


def torch_inputs(crystals: Any, spots: Any) -> tuple[np.ndarray, np.ndarray]:
    """Sequences (B, 180) and clouds (B, 172, 3), their points before their padding."""
    from dd2d_jax.networks.paper_inputs import point_cloud, sequences

    sequence, cloud = np.asarray(sequences(crystals, SEQUENCE)), np.asarray(point_cloud(spots))
    order = np.argsort(~(cloud != 0).any(-1), axis=1, kind="stable")
    cloud = np.take_along_axis(cloud, order[..., None], 1)
    return sequence, np.pad(cloud, [(0, 0), (0, CLOUD - cloud.shape[1]), (0, 0)])


def shortened(x: np.ndarray) -> np.ndarray:
    """Sequences (B, T) or clouds (B, K, 3) up to the last token of the longest."""
    from dd2d_jax.networks.paper_inputs import PADDING

    real = (x != PADDING) if x.ndim == 2 else (x != 0).any(-1)
    return x[:, : real.sum(1).max()]


def forward_flops(lengths: tuple[np.ndarray, np.ndarray], width: int, layers: int) -> float:
    """FLOPs that the embeddings of a crystal and a pattern need, mean of tokens `lengths` (n,)."""
    total = 0.0
    for length, classes in zip(lengths, (2, 1), strict=True):
        tokens, mean_square = float(np.mean(length)), float(np.mean(length.astype(float) ** 2))
        # Query, key, value, out (4) and the MLP (8), then logits and sums of values.
        total += (layers - 1) * (12 * 2 * width**2 * tokens + 4 * width * mean_square)
        # The last block: keys and values of all, the rest of the class tokens.
        total += 2 * 2 * width**2 * tokens + classes * (10 * 2 * width**2 + 4 * width * tokens)
        total += 4 * 2 * width**2  # projection
    return total


def product(dtype: str) -> Callable[[int], float]:
    """A matrix product; its rate in FLOP/s instead of samples."""
    import jax
    import jax.numpy as jnp

    size = 3072
    x = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda x: x @ x)

    def run(_: int) -> float:
        jax.block_until_ready(multiply(x))
        return 2.0 * size**3

    return run


def known_peak(device: str) -> float:
    """Of a device by its name, FLOP/s; 0 where it is not known."""
    return next((peak for name, peak in PEAKS.items() if name in device.upper()), 0.0)


def turns(programs: dict, args: argparse.Namespace) -> dict:
    """{program: rates in samples a second, of each turn}."""
    for name, program in programs.items():
        with console.status(f"compiling {', '.join(name)}"):
            # Ours has a program for each of two shapes.
            for number in range(BATCHES if name[0] == "dd2d-jax" else 1):
                program(number)
    rates: dict = {name: [] for name in programs}
    for turn in range(args.turns):
        for name, program in programs.items():
            with console.status(f"turn {turn + 1} of {args.turns}: {', '.join(name)}"):
                start, done, work = time.perf_counter(), 0, 0.0
                while time.perf_counter() - start < args.seconds or done < 2:
                    found = program(done)
                    work += found if name[0] == "matrix product" else args.batch
                    done += 1
                rates[name].append(work / (time.perf_counter() - start))
    return rates


def report(result: dict[str, Any]) -> None:
    """The table."""
    found = {(r["program"], r["what"]): r for r in result["rows"]}
    table = Table(
        "program", *(f"{x}, samples/s" for x in ("training", "forward")), "utilisation", "speed-up"
    )
    base = "torch, as published"
    for name in dict.fromkeys(r["program"] for r in result["rows"]):
        rows = [found[name, what] for what in ("training", "forward")]
        against = [
            f"{r['samples_per_s'] / found[base, r['what']]['samples_per_s']:.2f}"
            for r in rows
            if (base, r["what"]) in found
        ]
        table.add_row(
            name,
            *(f"{r['samples_per_s']:.1f}" for r in rows),
            ", ".join(f"{r['utilisation']:.0%}" for r in rows),
            ", ".join(against),
        )
    console.print(table)
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    work = result["flops_per_sample"]
    console.print(
        f"{result['device']} ({result['machine']}), {result['threads']} threads, load "
        f"{result['load']:.1f}; {versions}; {result['dtype']}, batch {result['batch']}, "
        f"{result['crystals']}\n{work['training'] / 1e9:.1f} GFLOP a sample in training, "
        f"{work['forward'] / 1e9:.1f} forward; peak {result['peak_flops'] / 1e12:.3g} TFLOP/s"
    )


if __name__ == "__main__":
    main()

"""Where the time of a training step goes, and how near it is to the network's alone.

    python benchmarks/step.py [--config base] [--turns 5] [--steps 3] [--trace DIR] [--json OUT]

Crystals of this project, on all devices that JAX finds. *Input* is what the host does for a step;
simulation, forward, backward and collective (the sum of gradients and the gathering of embeddings)
are each run by themselves, on what one device has of a batch; *step* is the training loop's
own order, in which the next batch is simulated behind the step, and *network alone* the same steps
on one batch. Programs take turns and each figure is the least over the turns. --trace writes a
profile of a turn of steps for TensorBoard or Perfetto.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

console = Console(width=None if sys.stdout.isatty() else 120)


def main() -> None:
    args = arguments()
    import jax

    from dd2d_jax.networks.checkpoint import write_json
    from dd2d_jax.spots import Conditions
    from dd2d_jax.util import cache
    from train import inputs

    cache.keep_compilations()
    config = importlib.import_module(f"configs.{args.config}").get_config()
    config.data.limit = args.crystals
    config.train.batch = args.batch or config.train.batch
    crystals, splits = inputs.load_crystals(config)
    source = inputs.load_source(crystals, Conditions.from_config(config.diffraction))
    programs = make(config, source, splits["train"], args.steps)
    seconds = least(programs, args.turns)
    if args.trace:
        with jax.profiler.trace(str(args.trace)):
            programs["step"]()
    result = {
        "config": args.config,
        "batch": config.train.batch,
        "devices": jax.device_count(),
        "device": jax.devices()[0].device_kind,
        "load": os.getloadavg()[0],
        "jax": jax.__version__,
        "milliseconds": shares(seconds),
    }
    report(result)
    if args.json:
        write_json(args.json, result)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="base", help="a module of configs/")
    parser.add_argument("--crystals", type=int, default=2000)
    parser.add_argument("--batch", type=int, help="default: the config's")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="of one turn")
    parser.add_argument("--trace", type=Path, help="a folder for a profile")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def make(config: Any, source: Any, rows: np.ndarray, steps: int) -> dict[str, Callable[[], int]]:
    """{name: a function that runs some steps and returns how many}."""
    import jax

    from dd2d_jax.networks.loss import contrastive_loss
    from dd2d_jax.networks.trained import tower_of
    from train import inputs, state, step

    simulate, train = step.make_functions(config)
    rooms = inputs.rooms(config, source, rows)
    start = state.create(config)
    current, resident = step.replicate((start, source))
    key, number = jax.random.key(1), 0

    def host() -> tuple[np.ndarray, inputs.Room]:
        nonlocal number
        number += 1
        drawn = inputs.batch_indices(0, number, rows, config.train.batch)
        return step.shard(drawn), rooms(drawn.reshape(inputs.count_parts(config), -1))

    mine, room = host()
    batch = simulate(resident, mine, key)
    share = jax.tree.map(lambda x: np.asarray(x[0]), batch)
    tower = tower_of(config.model)
    shape = {"room": room.tokens} if room != inputs.Room() else {}

    def loss(params: Any, share: Any) -> jax.Array:
        rngs = {"dropout": key}
        return contrastive_loss(*tower.apply({"params": params}, *share, rngs=rngs, **shape))

    forward, gradient = jax.jit(loss), jax.jit(jax.value_and_grad(loss))
    embedding = jax.eval_shape(lambda: tower.apply({"params": start.params}, *share, **shape)[0])
    exchange = collective(start.params, embedding.shape)

    def whole() -> int:
        nonlocal current
        ahead = simulate(resident, mine, key), room
        for _ in range(steps):
            current, _ = train(current, *ahead)
            indices, space = host()
            ahead = simulate(resident, indices, jax.random.fold_in(key, number)), space
        jax.block_until_ready((current, ahead[0]))
        return steps

    def alone() -> int:
        nonlocal current
        for _ in range(steps):
            current, _ = train(current, batch, room)
        jax.block_until_ready(current)
        return steps

    def timed(function: Callable[[], Any]) -> Callable[[], int]:
        def run() -> int:
            for _ in range(steps):
                jax.block_until_ready(function())
            return steps

        return run

    return {
        "input": timed(lambda: jax.device_put(host()[0])),
        "simulation": timed(lambda: simulate(resident, mine, key)),
        "forward": timed(lambda: forward(start.params, share)),
        "gradient": timed(lambda: gradient(start.params, share)),
        "collective": timed(exchange),
        "network alone": alone,
        "step": whole,
    }


def collective(params: Any, shape: tuple[int, int]) -> Callable[[], Any]:
    """The mean of gradients like `params`, and both embeddings of `shape` from all devices."""
    import jax
    from jax.sharding import PartitionSpec

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(),
        check_vma=False,
    )  # fmt: skip
    def exchange(tree: Any) -> Any:
        gradients, embeddings = tree
        gathered = [jax.lax.all_gather(x, "batch", tiled=True) for x in embeddings]
        return jax.lax.pmean(gradients, "batch"), [x.sum() for x in gathered]

    tree = jax.device_put(
        (params, [np.ones(shape, np.float32)] * 2),
        jax.sharding.NamedSharding(mesh, PartitionSpec()),
    )
    return lambda: exchange(tree)


def least(programs: dict[str, Callable[[], int]], turns: int) -> dict[str, float]:
    """Seconds of one step of each program, the least over the turns."""
    for name, program in programs.items():
        with console.status(f"compiling {name}"):
            program()
    found: dict[str, float] = {}
    for _ in range(turns):
        for name, program in programs.items():
            start = time.perf_counter()
            count = program()
            seconds = (time.perf_counter() - start) / count
            found[name] = min(seconds, found.get(name, seconds))
    return found


def shares(seconds: dict[str, float]) -> dict[str, float]:
    """Milliseconds of the parts of a step; what is left of the network is the optimiser."""
    out = {name: 1000 * value for name, value in seconds.items() if name != "gradient"}
    out["backward"] = 1000 * (seconds["gradient"] - seconds["forward"])
    rest = seconds["network alone"] - seconds["gradient"] - seconds["collective"]
    out["optimiser and rest"] = 1000 * rest
    return out


def report(result: dict[str, Any]) -> None:
    """The table."""
    found = result["milliseconds"]
    table = Table("part", "ms", "share of a step")
    for name in (
        "input", "simulation", "forward", "backward", "collective", "optimiser and rest",
        "network alone", "step",
    ):  # fmt: skip
        table.add_row(name, f"{found[name]:.1f}", f"{found[name] / found['step']:.1%}")
    console.print(table)
    over = found["step"] / found["network alone"] - 1
    console.print(
        f"a step takes {over:+.1%} of the network alone; {result['devices']} x {result['device']}, "
        f"load {result['load']:.1f}, jax {result['jax']}, configs/{result['config']}.py, batch "
        f"{result['batch']}"
    )


if __name__ == "__main__":
    main()

"""The training loop: batches, checkpoints, evaluation, early stopping."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from dd2d_jax.networks import checkpoint
from dd2d_jax.networks.trained import Model, load
from dd2d_jax.spots import Conditions
from dd2d_jax.util import cache, errors
from dd2d_jax.util.files import new_file
from train import hosts, inputs, state, step, workdirs
from train.accuracy import deciding, print_table, split_accuracy, test_table


class Stopped(Exception):
    """A signal came and the state is saved; the message is one line, `status` the exit status."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


@dataclasses.dataclass
class Best:
    """The best validation accuracy so far and how long ago it was."""

    top1: float = -1.0
    step: int = 0
    waited: int = 0


def run(config: ConfigDict, workdir: Path) -> dict:
    """Everything that `python -m train.main` does.

    Raises:
        ValueError: the workdir belongs to a run with another config, or the config makes no sense.
        OSError: the workdir cannot be written, or another run is at work there.
        Stopped: SIGTERM or Ctrl-C came; the same call goes on.
        FloatingPointError: the loss or the gradient is no number.
    """
    with contextlib.ExitStack() as held:
        hosts.on_first(lambda: workdirs.open_workdir(workdir, config, held))
        cache.keep_compilations()
        return train_and_evaluate(config, workdir, Console(quiet=not hosts.is_first()))


def train_and_evaluate(config: ConfigDict, workdir: Path, console: Console) -> dict:
    """Train to the end, or on from where an earlier run stopped; returns the test table.

    Args:
        config: as in configs/base.py.
        workdir: where everything is written.
        console: for progress.

    Returns:
        {level: {"split": {"top1": ...}, "full": {...}}} in percent.

    Raises:
        Stopped: SIGTERM or Ctrl-C came; the same call goes on.
        FloatingPointError: the loss or the gradient is no number.
    """
    _check_config(config)
    crystals, splits = hosts.together(lambda: inputs.load_crystals(config))
    hosts.check_same("crystals", crystals.uid, crystals.crystal.positions, *splits.values())
    _check_sizes(config, splits)
    source = inputs.load_source(crystals, Conditions.from_config(config.diffraction))
    # Only now: a config that could not be used does not keep the workdir from the next.
    hosts.on_first(lambda: workdirs.describe(config, workdir, crystals, splits))
    where = f" on {jax.process_count()} hosts" if jax.process_count() > 1 else ""
    console.print(
        f"{len(crystals)} crystals; train {len(splits['train'])}, validation "
        f"{len(splits['validation'])}, test {len(splits['test'])}; {jax.device_count()} x "
        f"{jax.devices()[0].device_kind}{where}"
    )
    _fit(config, workdir, source, splits, console)
    table = test_table(Model(config, _best_params(config, workdir)), source, splits)
    table = hosts.on_first(lambda: _write_table(workdir, table))
    print_table(table, len(splits["test"]), len(crystals), console)
    return table


def _best_params(config: ConfigDict, workdir: Path) -> dict:
    params = jax.eval_shape(lambda: state.create(config)).params
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params)

    def read() -> None:
        nonlocal params
        best = checkpoint.restore(workdir, "best", {"params": params})
        if best is None:
            raise errors.CheckpointError(
                f"{workdir}: the run is finished, but best/ is missing"
            )
        params = best.state["params"]

    hosts.on_first(read)
    return hosts.share(params)


def _write_table(workdir: Path, table: dict) -> dict:
    checkpoint.write_json(workdir / "test.json", table)
    return table


def _fit(
    config: ConfigDict,
    workdir: Path,
    source: inputs.Source,
    splits: dict[str, np.ndarray],
    console: Console,
) -> None:
    current, best = _resume(config, workdir, console)
    begin = int(current.step)
    records = workdir / "metrics.jsonl"
    hosts.on_first(lambda: _forget_after(begin, records))
    if begin >= config.train.steps or _stopped(config, best):
        return
    simulate, train = step.make_functions(config)
    batch = inputs.batches(config, source, splits["train"])
    room = inputs.rooms(config, source, splits["train"])
    current, resident = step.replicate((current, source))
    key = jax.random.key(config.seed + 1)
    progress = Progress(
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
        console=console,
    )

    def batch_of(number: int) -> tuple[step.Batch, inputs.Room]:
        rows = batch(number)
        made = simulate(resident, step.shard(rows), jax.random.fold_in(key, number))
        return made, room(rows.reshape(inputs.count_parts(config), -1))

    log_to = records if hosts.is_first() else os.devnull
    with progress, open(log_to, "a") as log, hosts.asked_to_stop() as stop:
        task = progress.add_task("", total=config.train.steps, completed=begin, status="compiling")
        tick, ticked = time.perf_counter(), begin
        ahead = batch_of(begin)
        for number in range(begin, config.train.steps):
            current, metrics = train(current, *ahead)
            # The device goes on with this while the host waits for the step's metrics.
            ahead = batch_of(number + 1)
            done = number + 1
            _check_finite(config, workdir, done, metrics)
            if done % 10 == 0 or done == config.train.steps:
                metrics = {k: float(v) for k, v in metrics.items()}
                rate = (done - ticked) * config.train.batch / (time.perf_counter() - tick)
                tick, ticked = time.perf_counter(), done
                _log(log, step=done, samples_per_s=rate, **metrics)
                status = f"loss {metrics['loss']:.3f}  {rate:.0f} samples/s"
                progress.update(task, completed=done, status=status)
            if done % config.train.evaluate_every == 0 or done == config.train.steps:
                model = Model(config, jax.tree.map(np.asarray, current.params))
                found = split_accuracy(model, source, splits["validation"])
                # Hosts may round differently: the first's word counts, for early stopping too.
                found = hosts.on_first(lambda found=found: found)
                _log(log, step=done, validation=found)
                _report(console, done, found)
                best = _save(config, workdir, done, current, found, best)
                tick, ticked = time.perf_counter(), done
                if _stopped(config, best):
                    console.print(f"no better validation since step {best.step}: stopping")
                    return
            if stop(done) and done < config.train.steps:
                hosts.on_first(functools.partial(_save_latest, workdir, done, current, best))
                raise Stopped(
                    f"{stop.name}: stopped after step {done} of {config.train.steps} and saved in "
                    f"{workdir}; the same command resumes from there",
                    stop.status,
                )


def _check_finite(config: ConfigDict, workdir: Path, done: int, metrics: dict) -> None:
    """Raise FloatingPointError where a step's loss or gradient is no number: nothing later is."""
    bad = [f"{k} is {float(metrics[k])}" for k in metrics if not np.isfinite(float(metrics[k]))]
    if bad:
        saved = checkpoint.last_step(workdir, "latest")
        kept = f"the state of step {saved} is kept in {workdir}" if saved else "nothing was saved"
        raise FloatingPointError(
            f"step {done}: {' and '.join(bad)}, so training ends here; {kept}. In another "
            f"--workdir, lower config.train.learning_rate (now {config.train.learning_rate:g}) or "
            f"config.train.clip (now {config.train.clip:g}), or raise config.train.warmup (now "
            f"{config.train.warmup})"
        )


def _resume(
    config: ConfigDict, workdir: Path, console: Console
) -> tuple[state.State, Best]:
    current = state.create(config)
    structure = jax.tree.structure(current)

    def read() -> dict | None:
        nonlocal current
        found = checkpoint.restore(workdir, "latest", current)
        if found is None:
            if config.train.get("start"):
                current = current.replace(params=_started(config, current.params))
                console.print(f"starting from the weights in {config.train.start}")
            return None
        for damaged, problem in found.damaged.items():
            checkpoint.forget(workdir, "latest", damaged)
            console.print(f"{workdir}/latest/{damaged} is damaged and skipped ({problem})")
        console.print(f"going on from step {found.step} in {workdir}")
        current = jax.tree.unflatten(structure, jax.tree.leaves(found.state))
        return found.metrics["best"]

    best = hosts.on_first(read)
    return hosts.share(current), Best(**best or {})


def _started(config: ConfigDict, params: dict) -> dict:
    """The parameters that `config.train.start` names; `params` are of the form that is needed."""
    model = load(config.train.start)
    mine, theirs = (jax.tree.map(np.shape, tree) for tree in (params, model.params))
    if mine != theirs:
        raise ValueError(
            f"config.train.start: the network in {config.train.start} is not that of this config; "
            f"its config.model is {model.config.model.to_dict()}, here {config.model.to_dict()}"
        )
    return model.params


def _forget_after(step: int, path: Path) -> None:
    """Drop what was logged after the restored step: those steps are taken again."""
    if not path.exists():
        return
    kept = [one for one in checkpoint.read_records(path.parent) if one["step"] <= step]
    with new_file(path) as part:
        part.write_text("".join(json.dumps(one) + "\n" for one in kept))


def _save(
    config: ConfigDict, workdir: Path, done: int, current: state.State, found: dict, best: Best
) -> Best:
    top1 = float(np.mean([found[level]["top1"] for level in deciding(config)]))
    if top1 > best.top1:
        best = Best(top1, done, 0)
    else:
        best = Best(best.top1, best.step, best.waited + 1)

    def write() -> None:
        if best.step == done:
            params = {"params": current.params}
            checkpoint.save(workdir, "best", done, params, {"validation": found})
        _save_latest(workdir, done, current, best)

    hosts.on_first(write)
    return best


def _save_latest(workdir: Path, done: int, current: state.State, best: Best) -> None:
    # Two of them: should the newer be damaged, the older is there.
    metrics = {"best": dataclasses.asdict(best)}
    checkpoint.save(workdir, "latest", done, current, metrics, keep=2)


def _stopped(config: ConfigDict, best: Best) -> bool:
    return bool(config.train.patience) and best.waited >= config.train.patience


def _check_config(config: ConfigDict) -> None:
    train = config.train
    least = {"batch": 1, "steps": 0, "evaluate_every": 1, "patience": 0, "alike": 0}
    for name, number in least.items():
        if train.get(name, 0) < number:
            raise ValueError(f"config.train.{name} = {train.get(name)} must be at least {number}")


def _check_sizes(config: ConfigDict, splits: dict[str, np.ndarray]) -> None:
    for name, rows in splits.items():
        if len(rows) == 0:
            raise ValueError(
                f"the {name} split is empty: the data set is too small, at least 10 crystals "
                "are needed"
            )
    train = config.train
    if train.batch > len(splits["train"]):
        raise ValueError(
            f"config.train.batch = {train.batch} is more than the {len(splits['train'])} crystals "
            "to train on; give a smaller one"
        )
    step.shard(np.zeros(train.batch))
    parts = inputs.count_parts(config)
    if parts < 1 or config.train.batch % parts:
        raise ValueError(
            f"config.train.batch = {config.train.batch} does not divide into {parts} parts "
            f"({jax.device_count()} devices x config.train.accumulate)"
        )


def _report(console: Console, done: int, found: dict) -> None:
    parts = [
        f"{level} {v['top1']:.1f}/{v['top3']:.1f}/{v['top5']:.1f}/{v['top10']:.1f}"
        for level, v in found.items()
    ]
    console.print(f"step {done}: validation top-1/3/5/10  {'  '.join(parts)}")


def _log(file, **record) -> None:
    file.write(json.dumps(record) + "\n")
    file.flush()

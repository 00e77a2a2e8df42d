"""What a process of tests/train/test_hosts.py does: `python two_hosts.py NUMBER PORT FOLDER`."""

import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import tiny
from ml_collections import ConfigDict
from rich.console import Console

from dd2d_jax.networks.disturbances import LEVELS
from train import hosts, loop, step

TABLE = {"clean": {"split": {}, "full": {}}}


def config() -> ConfigDict:
    """Three steps, an evaluation after each."""
    made = tiny.config()
    made.train.steps = 3
    made.train.evaluate_every = 1
    return made


def train(folder: Path, settings: ConfigDict, validation, put=setattr) -> None:
    """The real loop on the sheets; `validation` stands in for the evaluation, which takes long."""
    rows = np.random.default_rng(0).permutation(32)
    splits = {"train": rows[:24], "validation": rows[24:28], "test": rows[28:]}
    put(loop.inputs, "load_crystals", lambda _: (tiny.crystals(), splits))
    put(loop, "split_accuracy", validation)
    put(loop, "test_table", lambda *_: TABLE)
    put(loop, "print_table", lambda *_: None)
    folder.mkdir(exist_ok=True)
    loop.train_and_evaluate(settings, folder, Console(quiet=True))


def found(top1: float) -> dict:
    """What an evaluation finds."""
    return {level: {f"top{k}": top1 for k in (1, 3, 5, 10)} for level in LEVELS}


def refused(action) -> str:
    """The error that `action` raises."""
    try:
        action()
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def fail(number: int, error: Exception) -> None:
    """Raise on one process."""
    if jax.process_index() == number:
        raise error


def main(number: int, port: int, folder: Path) -> None:
    """Everything, and what came of it as JSON."""
    hosts.connect(f"127.0.0.1:{port}", 2, number)
    out = {
        "devices": [jax.local_device_count(), jax.device_count()],
        "shard": step.shard(np.arange(8)).tolist(),
        "said": hosts.on_first(lambda: {"process": jax.process_index(), "text": "a" * number}),
        "one fails": refused(lambda: hosts.together(lambda: fail(1, OSError("no such disk")))),
        "first fails": refused(lambda: hosts.on_first(lambda: fail(0, ValueError("no such key")))),
        "differ": refused(lambda: hosts.check_same("numbers", np.arange(3) + number)),
        "same": refused(lambda: hosts.check_same("numbers", np.arange(3), "text")),
    }
    mine = {"a": np.float32([-0.0, np.nan, 1.1]) * (1 + number), "b": np.int32(number)}
    shared = hosts.share(mine)
    out["bits"] = [shared["a"].tobytes().hex(), int(shared["b"]), str(shared["a"].dtype)]

    settings = config()
    functions = step.make_functions(settings)
    step.make_functions = lambda _: functions  # compiled once for both runs
    # Each finds another accuracy: by its own, process 1 would stop after the second evaluation.
    settings.train.patience = 1
    seen = []
    train(
        folder / "run",
        settings,
        lambda *_: found(10.0 * len(seen) if not seen.append(1) and number == 0 else 5.0),
    )
    out["evaluations"] = len(seen)

    def signalled(*_):
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return found(1.0)

    settings.train.patience = 0
    settings.train.steps = 1000
    try:
        train(folder / "stopped", settings, signalled)
    except loop.Stopped as stopped:
        out["stopped"] = str(stopped)
    (folder / f"{number}.json").write_text(json.dumps(out))


def alone(folder: Path, put) -> None:
    """The run by one process; `put` sets attributes as `setattr` does."""
    seen = []
    train(folder / "alone", config(), lambda *_: seen.append(1) or found(10.0 * len(seen)), put)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

"""The loop: what is stopped goes on as if it had not been, and nothing is lost in silence."""

import errno
import io
import json
import os
import shutil
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny
from ase.db import connect
from rich.console import Console
from runs import no_training, one_line

from dd2d_jax.data import datasets, splits
from dd2d_jax.evaluation.ranks import TOP
from dd2d_jax.networks import checkpoint, trained
from dd2d_jax.networks.disturbances import LEVELS
from dd2d_jax.util import errors
from train import accuracy, loop, state, step


def records(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def latest(config, folder):
    return checkpoint.restore(folder, "latest", state.create(config))


def scripted(monkeypatch, perturbed, clean=None) -> list:
    """Let validation find what a test wants and steps do next to nothing; returns the calls."""
    calls = []

    def train(current, *_):
        grown = jax.tree.map(lambda x: x + 1, current.params)
        return current.replace(step=current.step + 1, params=grown), {"loss": 0.0}

    def split_accuracy(model, source, rows):
        calls.append(len(calls))
        value = perturbed[len(calls) - 1]
        if isinstance(value, BaseException):
            raise value
        other = value if clean is None else clean[len(calls) - 1]
        return {
            level: {f"top{k}": float(x) for k in TOP}
            for level, x in {**dict.fromkeys(LEVELS, value), "clean": other}.items()
        }

    monkeypatch.setattr(loop, "split_accuracy", split_accuracy)
    monkeypatch.setattr(step, "make_functions", lambda _: (lambda *_: None, train))
    return calls


def test_a_run_leaves_what_the_design_names(whole, config):
    names = {path.name for path in whole.iterdir()}
    assert names == {
        "config.json", "data.json", "metrics.jsonl", "test.json", "validation.db", "test.db",
        "latest", "best",
    }  # fmt: skip
    assert checkpoint.read_config(whole).to_dict() == config.to_dict()
    assert latest(config, whole).step == 6
    assert trained.load(whole).config.to_dict() == config.to_dict()


def test_the_splits_are_written_with_their_uids(whole, config):
    crystals = datasets.load("ase_db", config.data.path, config.data.data_dir)
    parts = splits.split(crystals, "random", 0)
    for name in ("validation", "test"):
        with connect(whole / f"{name}.db") as database:
            found = [row.uid for row in database.select()]
        assert found == crystals.uid[parts[name]].tolist() and found


def test_the_test_table_is_in_percent_for_each_level_and_gallery(whole):
    table = json.loads((whole / "test.json").read_text())
    assert set(table) == set(LEVELS)
    for galleries in table.values():
        assert set(galleries) == {"split", "full"}
        for found in galleries.values():
            values = [found[f"top{k}"] for k in TOP]
            assert values == sorted(values) and 0 <= values[0] and values[-1] <= 100
        # More candidates make it no easier.
        assert galleries["full"]["top1"] <= galleries["split"]["top1"]
    assert table["clean"]["split"]["top1"] == 100  # untrained it is exact already


def test_metrics_are_json_lines_in_order(whole):
    found = records(whole)
    steps = [record["step"] for record in found]
    assert steps == sorted(steps)
    assert [r["step"] for r in found if "validation" in r] == [3, 6]
    assert all(np.isfinite(r["loss"]) for r in found if "loss" in r)


def at_call(number: int, function, action):
    """`function`, but at its call of that number `action` comes first."""
    calls = []

    def wrapped(*arguments, **options):
        calls.append(1)
        if len(calls) == number:
            action()
        return function(*arguments, **options)

    return wrapped


def killed() -> None:
    raise KeyboardInterrupt  # nothing that the loop or Orbax would tidy up after


@pytest.mark.parametrize("where", ["evaluating", "saving", "SIGTERM", "SIGINT"])
def test_a_stopped_run_goes_on_bit_for_bit(whole, config, tmp_path, monkeypatch, where):
    folder = tmp_path / "run"
    number = getattr(signal, where, None)
    handler = number and signal.getsignal(number)
    with monkeypatch.context() as patch:
        if where == "evaluating":  # after steps 4 to 6, before they are saved
            patch.setattr(loop, "split_accuracy", at_call(2, accuracy.split_accuracy, killed))
        elif where == "saving":  # a part of the latest of step 6 is written
            finalize = ocp.CompositeCheckpointHandler.finalize

            def kill_at_six(self, directory):
                return killed() if "latest/6" in str(directory) else finalize(self, directory)

            patch.setattr(ocp.CompositeCheckpointHandler, "finalize", kill_at_six)
        else:  # during step 4, at which nothing is due
            drawn = at_call(5, loop.inputs.batch_indices, lambda: os.kill(os.getpid(), number))
            patch.setattr(loop.inputs, "batch_indices", drawn)
        with pytest.raises(loop.Stopped if number else KeyboardInterrupt) as stopped:
            loop.run(config, folder)
    if number:
        assert f"{where}: stopped after step 4 of 6 and saved" in one_line(stopped)
        assert stopped.value.status == 128 + number
        assert signal.getsignal(number) == handler
    assert latest(config, folder).step == (4 if number else 3)
    if where == "saving":
        assert len(list((folder / "latest").iterdir())) == 2  # one is a part
    elif where == "evaluating":
        assert records(folder)[-1]["step"] == 6
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    table = loop.run(config, folder)
    for name in ("latest", "best"):
        like = state.create(config)
        like = like if name == "latest" else {"params": like.params}
        one, other = (checkpoint.restore(f, name, like) for f in (folder, whole))
        assert one.step == other.step and one.metrics == other.metrics
        jax.tree.map(np.testing.assert_array_equal, one.state, other.state)
    assert table == json.loads((whole / "test.json").read_text())
    # Steps that were taken twice are told once.
    for record in (kept := records(folder)) + (expected := records(whole)):
        record.pop("samples_per_s", None)
    assert kept == expected


def test_a_finished_run_prints_its_table_without_training(whole, config, tmp_path, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "run")
    before = (folder / "metrics.jsonl").read_text()
    no_training(monkeypatch)
    console = Console(file=io.StringIO(), width=120)
    table = loop.train_and_evaluate(config, folder, console)
    assert table == json.loads((whole / "test.json").read_text())
    text = console.file.getvalue()
    assert "4 queries" in text and "full (32)" in text and "perturbed" in text
    assert (folder / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_nan_ends_the_run_at_its_step_and_keeps_the_last_good_state(
    config, tmp_path, monkeypatch, what
):
    scripted(monkeypatch, [50, 60])
    _, train = step.make_functions(config)

    def spoiled(current, *batch):
        state, metrics = train(current, *batch)
        value = float("nan") if int(state.step) == 5 else 1.0
        return state, {**metrics, "gradient": 1.0, what: value}

    monkeypatch.setattr(step, "make_functions", lambda _: (lambda *_: None, spoiled))
    with pytest.raises(FloatingPointError, match=f"step 5: {what} is nan") as error:
        loop.run(config, tmp_path)
    assert "state of step 3 is kept" in one_line(error)
    assert "config.train.learning_rate" in str(error.value)
    assert latest(config, tmp_path).step == 3


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("batch", 0, "config.train.batch = 0 must be at least 1"),
        ("steps", -1, "config.train.steps = -1 must be at least 0"),
        ("evaluate_every", 0, "config.train.evaluate_every = 0 must be at least 1"),
        ("batch", 64, "config.train.batch = 64 is more than the 25 crystals to train on"),
    ],
)
def test_sizes_that_make_no_sense_are_told_in_one_line(config, tmp_path, name, value, said):
    config.train[name] = value
    with pytest.raises(ValueError, match=said) as error:
        loop.run(config, tmp_path)
    one_line(error)


def test_training_starts_from_the_weights_that_are_named(whole, config, tmp_path):
    config.train.start = str(whole)
    config.train.steps = config.train.evaluate_every = 1
    config.train.warmup = 1  # the first step has no rate
    loop.run(config, tmp_path)
    assert trained.load(tmp_path).fingerprint == trained.load(whole).fingerprint


def test_weights_of_another_network_are_told_in_one_line(whole, config, tmp_path):
    config.train.start = str(whole)
    config.model.width = 32
    with pytest.raises(ValueError, match="is not that of this config.*'width': 16") as error:
        loop.run(config, tmp_path)
    one_line(error)


def test_best_is_the_best_perturbed_top1(config, tmp_path, monkeypatch):
    config.train.evaluate_every = 1
    config.train.patience = 0
    scripted(monkeypatch, [10, 60, 40, 60, 20, 30], clean=[1, 2, 99, 3, 4, 100])
    loop.run(config, tmp_path)
    like = {"params": state.create(config).params}
    best = checkpoint.restore(tmp_path, "best", like)
    assert best.step == 2 and best.metrics["validation"]["perturbed"]["top1"] == 60
    assert latest(config, tmp_path).step == 6
    # And load takes it, not the latest.
    assert trained.load(tmp_path).fingerprint == checkpoint.fingerprint(best.state["params"])


def test_the_clean_queries_decide_where_training_sees_no_disturbance(
    config, tmp_path, monkeypatch
):
    config.train.evaluate_every = 2
    for name in config.disturbance:
        config.disturbance[name] = 0.0
    config.measured.share = config.microscope.share = 0.0
    scripted(monkeypatch, [90, 60, 30], clean=[10, 40, 20])
    loop.run(config, tmp_path)
    best = checkpoint.restore(tmp_path, "best", {"params": state.create(config).params})
    assert best.step == 4 and best.metrics["validation"]["clean"]["top1"] == 40


def test_it_stops_early_and_stays_stopped(config, tmp_path, monkeypatch):
    config.train.evaluate_every = 1
    config.train.patience = 2
    calls = scripted(monkeypatch, [50, 50, 50, 50, 50, 50])
    loop.run(config, tmp_path)
    assert len(calls) == 3 and latest(config, tmp_path).step == 3
    no_training(monkeypatch)
    loop.run(config, tmp_path)


def test_patience_is_not_forgotten_when_a_run_is_stopped(config, tmp_path, monkeypatch):
    config.train.evaluate_every = 1
    config.train.patience = 2
    with monkeypatch.context() as patch:
        scripted(patch, [50, 40, KeyboardInterrupt()])
        with pytest.raises(KeyboardInterrupt):
            loop.run(config, tmp_path)
    calls = scripted(monkeypatch, [40, 40])
    loop.run(config, tmp_path)
    assert len(calls) == 1


def test_a_finished_run_can_be_made_longer(whole, config, tmp_path, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "run")
    config.train.steps = 8
    scripted(monkeypatch, [0])
    loop.run(config, folder)
    assert latest(config, folder).step == 8
    assert checkpoint.read_config(folder).train.steps == 8


def test_a_damaged_checkpoint_is_an_error_and_no_new_start(whole, config, tmp_path, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "run")
    for number in ("3", "6"):
        cut(folder / "latest" / number)
    before = (folder / "metrics.jsonl").read_text()
    config.train.steps = 8
    no_training(monkeypatch)
    with pytest.raises(errors.CheckpointError, match="damaged") as error:
        loop.run(config, folder)
    assert "latest" in one_line(error)
    assert (folder / "metrics.jsonl").read_text() == before


def cut(step) -> None:
    for path in (step / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:20])


def test_of_a_damaged_checkpoint_the_one_before_is_used(whole, config, tmp_path, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "run")
    cut(folder / "latest" / "6")
    calls = scripted(monkeypatch, [100])
    monkeypatch.setattr(loop, "test_table", lambda *_: {})
    console = Console(file=io.StringIO(), width=400)
    loop.train_and_evaluate(config, folder, console)
    said = console.file.getvalue()
    assert "latest/6 is damaged and skipped" in said and "going on from step 3" in said
    assert len(calls) == 1 and latest(config, folder).step == 6
    assert {path.name for path in (folder / "latest").iterdir()} == {"3", "6"}


def test_a_full_disk_is_one_line_and_costs_nothing(whole, config, tmp_path, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "run")
    config.train.steps = 9
    with monkeypatch.context() as patch:
        scripted(patch, [0])

        def full():
            raise OSError(errno.ENOSPC, "No space left on device")

        handler = ocp.CompositeCheckpointHandler
        patch.setattr(handler, "finalize", at_call(1, handler.finalize, full))
        with pytest.raises(OSError, match="latest/9: cannot be saved .*No space left") as error:
            loop.run(config, folder)
    one_line(error)
    assert {path.name for path in (folder / "latest").iterdir()} == {"3", "6"}
    assert latest(config, folder).step == 6


def test_a_finished_run_without_its_best_weights_is_an_error(whole, config, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(folder / "best")
    with pytest.raises(errors.CheckpointError, match="best") as error:
        loop.run(config, folder)
    one_line(error)


def test_too_few_crystals_are_refused(config, tmp_path):
    config.data.limit = 5
    with pytest.raises(ValueError, match="at least 10 crystals") as error:
        loop.run(config, tmp_path)
    one_line(error)


def test_a_batch_that_does_not_divide_is_refused_before_training(config, tmp_path, monkeypatch):
    config.train.batch = 6
    no_training(monkeypatch)
    with pytest.raises(ValueError, match="does not divide"):
        loop.run(config, tmp_path)


@pytest.mark.slow
def test_memory_stays_flat_over_two_thousand_steps(config, tmp_path, monkeypatch):
    config.train.steps = 2000
    config.train.evaluate_every = 100
    config.train.patience = 0
    sizes, real = [], accuracy.split_accuracy

    def measured(*arguments):
        pages = int(open("/proc/self/statm").read().split()[1])
        sizes.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        return real(*arguments)

    monkeypatch.setattr(loop, "split_accuracy", measured)
    loop.run(config, tmp_path)
    assert len(sizes) == 20
    # Mebibytes; the first evaluations and saves load and compile.
    assert np.mean(sizes[-4:]) - np.mean(sizes[3:7]) < 0.02 * sizes[3], sizes


def test_queries_are_the_same_on_every_call(config):
    crystals = tiny.crystals()
    source = loop.inputs.load_source(crystals, loop.Conditions.from_config(config.diffraction))
    one, two = (accuracy.queries(source, np.arange(5), config, "perturbed") for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    clean = accuracy.queries(source, np.arange(5), config, "clean")
    assert not np.allclose(one.intensity, clean.intensity, rtol=1e-3)


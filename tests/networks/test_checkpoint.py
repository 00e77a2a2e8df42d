"""Checkpoints: exact, and never read wrongly or passed over in silence."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from paths import ROOT

from dd2d_jax.networks.checkpoint import (
    fingerprint,
    read_config,
    restore,
    save,
    write_config,
    write_json,
)
from dd2d_jax.util.errors import CheckpointError

STATE = {
    "params": {
        "a": np.arange(600, dtype=np.float32).reshape(20, 30) / 7,
        "b": np.ones(3, np.float32),
    },
    "step": np.int32(7),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save(folder, "latest", 7, STATE, {"best": {"top1": 12.5}})
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A copy to damage."""
    return shutil.copytree(whole, tmp_path / "copy")


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message and len(message) < 600
    return message


def test_what_is_saved_is_restored_bit_for_bit(whole):
    found = restore(whole, "latest", STATE)
    assert found.step == 7 and found.metrics == {"best": {"top1": 12.5}}
    jax.tree.map(np.testing.assert_array_equal, found.state, STATE)
    assert [x.dtype for x in jax.tree.leaves(found.state)] == [
        x.dtype for x in jax.tree.leaves(STATE)
    ]


def test_shapes_are_enough_to_restore(whole):
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), STATE)
    jax.tree.map(np.testing.assert_array_equal, restore(whole, "latest", like).state, STATE)


def test_a_newer_step_replaces_the_older(folder):
    save(folder, "latest", 9, {**STATE, "step": np.int32(9)}, {})
    found = restore(folder, "latest", STATE)
    assert found.step == 9 and found.state["step"] == 9
    assert [p.name for p in (folder / "latest").iterdir()] == ["9"]


def test_nothing_saved_is_none(tmp_path):
    assert restore(tmp_path, "latest", STATE) is None
    (tmp_path / "latest").mkdir()
    assert restore(tmp_path, "latest", STATE) is None


def test_a_save_that_was_killed_is_passed_over(folder):
    # What kill -9 leaves behind.
    shutil.copytree(
        folder / "latest" / "7", folder / "latest" / "9.orbax-checkpoint-tmp-1700000000"
    )
    assert restore(folder, "latest", STATE).step == 7


def test_a_save_that_was_killed_leaves_nothing_for_ever(folder):
    (folder / "latest" / "9.orbax-checkpoint-tmp-1700000000" / "state").mkdir(parents=True)
    save(folder, "latest", 8, {**STATE, "step": np.int32(8)}, {})
    assert [p.name for p in (folder / "latest").iterdir()] == ["8"]


def test_what_does_not_fit_on_the_disk_is_one_line_and_the_old_stays(folder):
    noise = np.random.default_rng(0).random(100_000)
    before, limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit))
    try:
        with pytest.raises(OSError, match="latest/9: cannot be saved") as error:
            save(folder, "latest", 9, {**STATE, "params": noise}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, limit))
    one_line(error)
    assert [p.name for p in (folder / "latest").iterdir()] == ["7"]
    assert restore(folder, "latest", STATE).step == 7


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "latest").write_text("a file")
    with pytest.raises(OSError, match="latest/7: cannot be saved") as error:
        save(tmp_path, "latest", 7, STATE, {})
    one_line(error)


SAVER = """
import sys, numpy as np
from dd2d_jax.networks.checkpoint import save
for step in range(1, 1000):
    save(sys.argv[1], "latest", step, {"x": np.full(200_000, step)}, {}, keep=2)
    print(step, flush=True)
"""


def test_kill_9_at_any_moment_leaves_a_whole_step(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SAVER, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as saver:
        for _ in range(3):
            done = int(saver.stdout.readline())
        time.sleep(random.uniform(0, 0.05))  # somewhere in the next save
        saver.send_signal(signal.SIGKILL)
        done = max([done, *map(int, saver.stdout.read().split())])
    found = restore(tmp_path, "latest", {"x": np.zeros(200_000, int)})
    assert found.step in (done, done + 1) and not found.damaged
    assert (found.state["x"] == found.step).all()


def damage(path, how) -> None:
    data = path.read_bytes()
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if how == "cut" else b"\0" * len(data))


@pytest.mark.parametrize("how", ["removed", "cut", "zeroed"])
def test_damage_to_any_file_is_an_error_or_does_not_matter(whole, tmp_path, how):
    errors = 0
    for number, path in enumerate(sorted((whole / "latest").rglob("*"))):
        if path.is_dir():
            continue
        copy = shutil.copytree(whole, tmp_path / str(number))
        damage(copy / path.relative_to(whole), how)
        try:
            found = restore(copy, "latest", STATE)
        except CheckpointError as error:
            assert "\n" not in str(error) and str(copy) in str(error)
            errors += 1
            continue
        assert found.step == 7 and found.metrics == {"best": {"top1": 12.5}}
        jax.tree.map(np.testing.assert_array_equal, found.state, STATE)
    assert errors > 3


def test_an_empty_step_is_an_error(folder):
    shutil.rmtree(folder / "latest" / "7")
    (folder / "latest" / "7").mkdir()
    with pytest.raises(CheckpointError) as error:
        restore(folder, "latest", STATE)
    one_line(error)


def test_a_damaged_newest_step_falls_back_to_the_one_before(folder):
    save(folder, "latest", 9, {**STATE, "step": np.int32(9)}, {}, keep=2)
    (folder / "latest" / "9" / "state" / "manifest.ocdbt").unlink()
    found = restore(folder, "latest", STATE)
    assert found.step == 7 and list(found.damaged) == [9] and found.damaged[9]
    # As where the numbers are whole and what was saved beside them is not.
    shutil.rmtree(folder / "latest" / "9" / "metrics")
    assert restore(folder, "latest", STATE).step == 7


@pytest.mark.parametrize(
    "like",
    [
        {
            "params": {"a": np.zeros((20, 31), np.float32), "b": np.ones(3, np.float32)},
            "step": np.int32(0),
        },
        {"params": {"a": np.zeros((20, 30), np.float32)}, "step": np.int32(0)},
        {"params": {**STATE["params"], "c": np.ones(2)}, "step": np.int32(0)},
    ],
)
def test_parameters_of_another_model_are_an_error(whole, like):
    with pytest.raises(CheckpointError) as error:
        restore(whole, "latest", like)
    assert str(whole) in one_line(error)


def test_the_config_goes_to_json_and_back(tmp_path):
    write_config(tmp_path, tiny.config())
    assert read_config(tmp_path).to_dict() == tiny.config().to_dict()


def test_a_folder_without_config_is_an_error(tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(CheckpointError, match="no checkpoint here") as error:
            read_config(folder)
        assert str(folder) in one_line(error)


@pytest.mark.parametrize("text", [b"", b'{"model": {', b"\xff\xfe\x00", b"[1, 2]", b"3"])
def test_a_broken_config_is_an_error(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"config\.json") as error:
        read_config(tmp_path)
    one_line(error)


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "test.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    write_json(path, {"a": 2})
    assert path.read_text() == '{\n  "a": 2\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["test.json"]


def test_the_fingerprint_names_the_parameters():
    params = STATE["params"]
    assert fingerprint(params) == fingerprint(jax.tree.map(jnp.asarray, dict(params)))
    changed = {**params, "b": params["b"] + np.float32(1e-6)}
    renamed = {"a": params["a"], "c": params["b"]}
    assert len({fingerprint(p) for p in (params, changed, renamed)}) == 3

"""Two processes of two devices each: they train as one, and none waits for a lost one."""

import json
import os
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import two_hosts
from paths import ROOT
from programs import environment

from dd2d_jax.networks import checkpoint
from train import hosts, state


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folder of both processes, and what each of them found."""
    folder = tmp_path_factory.mktemp("pair")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(number: int) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, ROOT / "tests" / "two_hosts.py", str(number), str(port), str(folder)],
            env=environment(2, PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}"),
            stderr=subprocess.PIPE,
            text=True,
        )

    processes = [start(0), start(1)]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=500)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()
    return folder, [json.loads((folder / f"{i}.json").read_text()) for i in (0, 1)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The workdir of the same run by this process, which has four devices."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        two_hosts.alone(folder, patch.setattr)
    return folder / "alone"


@pytest.mark.slow
def test_each_process_has_its_rows_of_the_whole_batch(pair):
    for number, found in enumerate(pair[1]):
        assert found["devices"] == [2, 4]
        assert found["shard"] == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]][number]


@pytest.mark.slow
def test_all_hear_what_the_first_says(pair):
    for found in pair[1]:
        assert found["said"] == {"process": 0, "text": ""}
        bits = np.float32([-0.0, np.nan, 1.1]).tobytes().hex()
        assert found["bits"] == [bits, 0, "float32"]


@pytest.mark.slow
def test_an_error_of_one_is_raised_by_all(pair):
    first, second = pair[1]
    assert first["one fails"] == "OSError: process 1: no such disk"
    assert second["one fails"] == "OSError: no such disk"
    assert first["first fails"] == "ValueError: no such key"
    assert second["first fails"] == "ValueError: process 0: no such key"


@pytest.mark.slow
def test_other_data_on_another_process_are_refused(pair):
    for found in pair[1]:
        assert found["differ"] == "ValueError: process 1 has numbers other than those of process 0"
        assert found["same"] == "nothing"


@pytest.mark.slow
def test_all_stop_early_by_what_the_first_found(pair):
    assert [found["evaluations"] for found in pair[1]] == [3, 3]


@pytest.mark.slow
def test_two_processes_of_two_devices_train_as_one_of_four(pair, alone):
    folders = alone, pair[0] / "run"
    losses = []
    for folder in folders:
        records = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [r["step"] for r in records] == [1, 2, 3, 3]
        losses.append(next(r for r in records if "loss" in r))
    for key in ("loss", "gradient", "scale"):
        assert losses[1][key] == pytest.approx(losses[0][key], rel=1e-5)
    one, two = (
        checkpoint.restore(folder, "latest", state.create(two_hosts.config()))
        for folder in folders
    )
    assert one.step == two.step == 3
    apart = jax.tree.map(lambda a, b: np.abs(a - b).mean(), one.state.params, two.state.params)
    assert max(jax.tree.leaves(apart)) < 1e-5


@pytest.mark.slow
def test_only_the_first_writes_and_it_writes_all(pair):
    names = {path.name for path in (pair[0] / "run").iterdir()}
    assert names == {
        "config.json", "data.json", "metrics.jsonl", "test.json", "validation.db", "test.db",
        "latest", "best",
    }  # fmt: skip
    assert json.loads((pair[0] / "run" / "test.json").read_text()) == two_hosts.TABLE


@pytest.mark.slow
def test_sigterm_to_one_stops_all_after_the_same_step(pair):
    folder, (first, second) = pair
    assert first["stopped"] == second["stopped"]
    step = int(re.search(r"after step (\d+) of 1000 and saved", first["stopped"])[1])
    found = checkpoint.restore(folder / "stopped", "latest", state.create(two_hosts.config()))
    assert found.step == step == found.state.step


def test_flags_that_belong_together_are_asked_for():
    for given in (("127.0.0.1:1", None, None), (None, 2, 0), ("127.0.0.1:1", 2, None)):
        with pytest.raises(ValueError, match="must be given together"):
            hosts.connect(*given)


def test_a_single_process_does_all_by_itself(monkeypatch):
    assert hosts.on_first(lambda: (1, {"a": 2})) == (1, {"a": 2})
    tree = {"a": np.arange(3)}
    assert hosts.share(tree) is tree
    hosts.check_same("numbers", np.arange(3))
    with pytest.raises(OSError, match="^no disk$"):
        hosts.together(lambda: two_hosts.fail(0, OSError("no disk")))

"""Weights and checkpoints from strangers: no pickle is loaded, no array is endless."""

from __future__ import annotations

import json
import os
import random
import shutil

import numpy as np
import pytest
from untrusted import Canary, bounded, refused, spoiled

from dd2d_jax.networks.checkpoint import restore, save
from dd2d_jax.networks.paper_weights import _read_state
from dd2d_jax.networks.trained import DEFAULT_WEIGHTS, load
from dd2d_jax.util import limits
from dd2d_jax.util.errors import CheckpointError
from dd2d_jax.util.limits import read_npz


def test_torch_loads_no_pickle(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": Canary(tmp_path / "alive")}, tmp_path / "w.pt")
    refused(_read_state, tmp_path / "w.pt", "read safely")
    assert not (tmp_path / "alive").exists()


def test_what_unpacks_to_more_than_weights_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_ARRAYS", 2**20)
    np.savez_compressed(tmp_path / "w.npz", a=np.zeros(2**20))
    refused(read_npz, tmp_path / "w.npz", "when unpacked")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("model", "layers", 10**9), ("model", "width", 10**9), ("model", "heads", 0),
        ("model", "embedding", -1), ("model", "layers", True),
        ("diffraction", "tokens", 10**9), ("diffraction", "q_max", 1e9),
        ("diffraction", "q_max", "1"), ("diffraction", "energy", float("nan")),
    ],
)  # fmt: skip
def test_a_config_asks_for_no_network_without_end(tmp_path, part, name, value):
    config = json.loads((DEFAULT_WEIGHTS / "config.json").read_text())
    config[part][name] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused(load, tmp_path, f"{part}.{name}", CheckpointError)


def test_a_checkpoint_holds_no_pipes_no_pickles_and_no_endless_arrays(tmp_path, monkeypatch):
    like = {"params": {"a": np.zeros(3, np.float32)}}
    save(tmp_path, "best", 1, like, {})
    (tmp_path / "best" / "²").mkdir()
    assert restore(tmp_path, "best", like).step == 1
    monkeypatch.setattr("dd2d_jax.networks.checkpoint.MAX_ARRAYS", 2**20)
    save(tmp_path, "best", 2, {"params": {"a": np.zeros(2**20, np.float32)}}, {})
    shutil.rmtree(tmp_path / "best" / "1", ignore_errors=True)
    refused(lambda p: restore(p, "best", like), tmp_path, "bytes of arrays", CheckpointError)
    shutil.rmtree(tmp_path / "best")
    save(tmp_path, "best", 1, like, {})
    os.mkfifo(tmp_path / "best" / "1" / "pipe")
    refused(lambda p: restore(p, "best", like), tmp_path, "not a regular file", CheckpointError)


@pytest.mark.parametrize("number", range(12))
def test_a_spoiled_checkpoint_is_read_or_refused(tmp_path, number):
    like = {"params": {"a": np.arange(60, dtype=np.float32)}}
    save(tmp_path, "best", 1, like, {"x": 1})
    rng = random.Random(number)
    path = rng.choice([p for p in sorted((tmp_path / "best").rglob("*")) if p.is_file()])
    path.write_bytes(spoiled(path.read_bytes(), rng))
    try:
        with bounded(20.0):
            restore(tmp_path, "best", like)
    except CheckpointError as error:
        assert "\n" not in str(error)

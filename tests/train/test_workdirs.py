"""The folder of a run: whose it is, and which crystals it was begun with."""

import contextlib
import json
import shutil

import pytest
import tiny
from runs import no_training, one_line

from dd2d_jax.data import usable
from dd2d_jax.networks import trained
from dd2d_jax.util.files import alone
from train import inputs, loop, workdirs


def test_runs_of_before_a_key_go_on_and_memory_may_be_saved_later(whole, config, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    old = json.loads((folder / "config.json").read_text())
    del old["train"]["accumulate"], old["train"]["remat"]
    (folder / "config.json").write_text(json.dumps(old))
    assert trained.load(folder).config.to_dict() == old
    config.train.accumulate = 2
    with contextlib.ExitStack() as held:
        workdirs.open_workdir(folder, config, held)


def test_a_data_set_that_changed_is_refused(whole, config, tmp_path, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "run")
    rows = tiny.sheets()
    rows[0][0].positions[0] += [0.2, 0.0, 0.0]
    monkeypatch.setattr(inputs.datasets, "load", lambda *_: usable.from_atoms(rows))
    no_training(monkeypatch)
    with pytest.raises(ValueError, match="data set has changed since this run began") as error:
        loop.run(config, folder)
    assert "--workdir" in one_line(error)


def test_crystals_of_the_stored_test_are_never_trained_on(whole, config, tmp_path, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "run")
    other = inputs.splits.split
    monkeypatch.setattr(inputs.splits, "split", lambda c, kind, seed, n: other(c, kind, 1, n))
    with pytest.raises(ValueError, match="crystals of the test split would be used for training"):
        loop.run(config, folder)


def test_a_test_database_that_was_replaced_is_refused(whole, config, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    shutil.copy(folder / "validation.db", folder / "test.db")
    with pytest.raises(ValueError, match="test.db: not the file that this run wrote"):
        loop.run(config, folder)


def test_a_folder_of_something_else_is_refused_and_left_alone(config, tmp_path):
    mine = tiny.write_db(tmp_path / "test.db")
    before = mine.read_bytes()
    with pytest.raises(ValueError, match="not the folder of a run: it holds 'test.db'"):
        loop.run(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["test.db"]
    assert mine.read_bytes() == before


def test_a_workdir_of_another_config_is_refused(whole, config):
    before = (whole / "config.json").read_text()
    config.model.width = 32
    config.train.batch = 16
    with pytest.raises(ValueError, match="another config") as error:
        loop.run(config, whole)
    message = one_line(error)
    assert "model.width was 16 and is 32" in message and "train.batch was 8 and is 16" in message
    assert (whole / "config.json").read_text() == before


def test_two_runs_do_not_write_into_one_workdir(config, tmp_path):
    with alone(tmp_path), pytest.raises(OSError, match="another process") as error:
        loop.run(config, tmp_path)
    one_line(error)
    assert not list(tmp_path.iterdir())


def test_a_config_that_cannot_be_used_does_not_keep_the_workdir(config, tmp_path):
    config.data.path = str(tmp_path / "nothing.db")
    with pytest.raises(FileNotFoundError):
        loop.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_workdir_that_is_a_file_is_refused(config, tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(OSError, match="file"):
        loop.run(config, path)
    assert path.read_text() == "mine"


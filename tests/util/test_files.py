"""Writing beside and moving into place: whole, or as it was."""

import pytest

from dd2d_jax.util import files
from dd2d_jax.util.files import alone, new_file, new_folder


def test_a_file_takes_the_place_of_the_old_one_when_it_is_whole(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with new_file(path) as part:
        part.write_text("new")
        assert path.read_text() == "old" and part.suffix == ".csv"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), new_file(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "above" / "a"
    with new_folder(path) as part:
        (part / "x").write_text("new")
        assert not path.exists()
    assert (path / "x").read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "a") as part:
        (part / "x").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_folder_replaces_nothing(tmp_path):
    there, link = tmp_path / "a", tmp_path / "b"
    there.mkdir()
    link.symlink_to(tmp_path / "gone")
    for path in (there, link):
        with pytest.raises(FileExistsError, match="exists already"), new_folder(path):
            pass


def test_one_process_at_a_time_is_alone_in_a_folder(tmp_path):
    with alone(tmp_path), pytest.raises(BlockingIOError, match="another process"):
        with alone(tmp_path, wait=False):
            pass
    with alone(tmp_path, wait=False):
        pass


def test_without_locks_a_folder_can_still_be_used(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError("No locks available")

    for locks in (None, type("fcntl", (), {"LOCK_EX": 2, "LOCK_NB": 4, "flock": unsupported})):
        monkeypatch.setattr(files, "fcntl", locks)
        with alone(tmp_path, wait=False):
            (tmp_path / "made").touch()
    assert (tmp_path / "made").exists()

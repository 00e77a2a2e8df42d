"""The folder that the window works in: nothing outside is read, nothing is overwritten."""

import numpy as np
import pytest

from dd2d_jax.app import folder as folders
from dd2d_jax.app.folder import Folder
from dd2d_jax.util.errors import UserError


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "work"
    place.mkdir()
    (tmp_path / "secret.csv").write_text("qx,qy,intensity\n")
    (place / "a.csv").write_text("1,2,3\n")
    (place / "notes.md").write_text("mine\n")
    (place / "link.csv").symlink_to(tmp_path / "secret.csv")
    return Folder(place)


def test_only_patterns_within_the_folder_are_listed(folder):
    assert folder.patterns() == ["a.csv"]


@pytest.mark.parametrize(
    "name",
    ["../secret.csv", "link.csv", "notes.md", "none.csv", "/etc/passwd", "../work/../secret.csv"],
)
def test_nothing_else_is_opened(folder, name):
    with pytest.raises(UserError, match="no image or spot list"):
        folder.inside(name)


def test_a_secret_is_not_opened_by_its_whole_path_either(folder):
    with pytest.raises(UserError):
        folder.inside(str(folder.path.parent / "secret.csv"))


def test_what_is_dropped_is_kept_once_under_a_plain_name(folder):
    assert folder.keep("a.csv", b"1,2,3\n") == "a.csv"  # it is there already
    assert folder.keep("a.csv", b"4,5,6\n") == "dd2d-app/a.csv"
    assert folder.keep("a.csv", b"7,8,9\n") == "dd2d-app/a-2.csv"
    assert folder.keep("a.csv", b"7,8,9\n") == "dd2d-app/a-2.csv"
    assert folder.keep("../../x y.csv", b"0\n") == "dd2d-app/x_y.csv"
    assert (folder.path / "a.csv").read_bytes() == b"1,2,3\n"


def test_what_is_no_pattern_or_too_large_is_refused(folder, monkeypatch):
    with pytest.raises(UserError, match="format is unknown"):
        folder.keep("run.py", b"")
    monkeypatch.setattr(folders, "MAX_DROPPED", 10)
    with pytest.raises(UserError, match="at most"):
        folder.keep("a.csv", b"12345678901")
    assert not (folder.path / "dd2d-app").exists()


def test_one_mask_is_one_file(folder):
    mask = np.ones((20, 30), bool)
    first = folder.mask(mask)
    assert folder.mask(mask.copy()) == first
    mask[3] = False
    assert folder.mask(mask) != first

"""Small runs that the tests of training share."""

from pathlib import Path

import tiny
from ml_collections import ConfigDict

from train import step


def make_config(data: Path) -> ConfigDict:
    """`tiny.config` on the database of the fixture `data`."""
    made = tiny.config()
    made.data.source = "ase_db"
    made.data.path = str(data / "tiny.db")
    made.data.data_dir = str(data / "prepared")
    return made


def no_training(monkeypatch) -> None:
    """Let a step be an error."""

    def refuse(_):
        raise AssertionError("trained again")

    monkeypatch.setattr(step, "make_functions", refuse)


def one_line(error) -> str:
    """The message of an error that pytest caught, which is one line."""
    message = str(error.value)
    assert "\n" not in message and message
    return message

"""`python -m train.main` as a user types it."""

import json
import signal
import subprocess
import sys
import time

import pytest
import tiny
from paths import ROOT
from programs import environment


def start(home, *arguments: str) -> subprocess.Popen:
    folders = {"HOME": str(home), "DD2D_DATA_DIR": str(home / "data")}
    return subprocess.Popen(
        [sys.executable, "-m", "train.main", *arguments],
        cwd=ROOT,
        env=environment(COLUMNS="100", **folders),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(home, *arguments: str) -> subprocess.CompletedProcess:
    process = start(home, *arguments)
    said = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, *said)


TINY = (
    "--config.diffraction.tokens=8",
    "--config.diffraction.q_max=0.8",
    "--config.data.limit=20",
    "--config.model.width=16",
    "--config.model.heads=2",
    "--config.model.embedding=8",
    "--config.train.batch=4",
    "--config.train.steps=2",
    "--config.train.warmup=1",
    "--config.train.evaluate_every=2",
)


def test_it_runs_to_the_end_and_prints_the_table(tmp_path):
    path = tiny.write_db(tmp_path / "tiny.db")
    arguments = (
        "--config=configs/smoke.py",
        f"--workdir={tmp_path / 'run'}",
        "--config.data.source=ase_db",
        f"--config.data.path={path}",
        *TINY,
    )
    done = call(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    for text in ("step 2", "validation", "top-1", "top-50", "split (2)", "full (32)", "perturbed"):
        assert text in done.stdout
    assert "Traceback" not in done.stderr and "WARNING" not in done.stderr
    table = json.loads((tmp_path / "run" / "test.json").read_text())
    assert set(table) == {"clean", "perturbed", "measured", "microscope"}
    # The same line with another width is refused: the workdir holds the first run.
    again = call(tmp_path, *arguments, "--config.model.layers=2")
    assert again.returncode == 1 and "another config" in one_error(again)


def test_sigterm_saves_and_leaves_with_143(tmp_path):
    path = tiny.write_db(tmp_path / "tiny.db")
    process = start(
        tmp_path,
        "--config=configs/smoke.py",
        f"--workdir={tmp_path / 'run'}",
        "--config.data.source=ase_db",
        f"--config.data.path={path}",
        *TINY,
        "--config.train.steps=1000000",
        "--config.train.evaluate_every=1000000",
    )
    try:
        records = tmp_path / "run" / "metrics.jsonl"
        while process.poll() is None and not (records.exists() and records.read_text()):
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 143, said[-2000:]
    line = said.splitlines()[-1]  # after the report on the data
    assert line.startswith("SIGTERM: stopped after step ") and "the same command resumes" in line
    assert "Traceback" not in said
    (saved,) = (tmp_path / "run" / "latest").iterdir()
    assert f"after step {saved.name} of 1000000" in line and int(saved.name) >= 10


def one_error(done) -> str:
    """The only line that a failed call prints."""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--config=configs/base.py", "--config.nonsense=1"), "no such key: 'nonsense'"),
        (("--config=configs/base.py", "--config.train.bacth=1"), 'Did you mean "batch"'),
        (("--config=configs/base.py", "--config.train.batch=many"), "--config.train.batch=many"),
        (("--config=configs/base.py", "--nonsense"), "nonsense"),
        (("--config=configs/smoke.py", "--config.train.batch=0"), "must be at least 1"),
        (("--config=configs/base.py", "--processes=2"), "must be given together"),
        (("--config=configs/nothing.py",), "configs/nothing.py"),
        (("--config=configs/nothing.py", "--config.seed=1"), "configs/nothing.py"),
        ((), "--config must have a value"),
    ],
)
def test_flags_that_make_no_sense_are_told_in_one_line(tmp_path, arguments, said):
    assert said in one_error(call(tmp_path, *arguments))


def test_debug_shows_the_traceback(tmp_path):
    done = call(tmp_path, "--config=configs/base.py", "--config.nonsense=1", "--debug")
    assert done.returncode != 0 and "Traceback" in done.stderr


def test_data_that_is_not_there_is_told_in_one_line(tmp_path):
    done = call(
        tmp_path,
        "--config=configs/smoke.py",
        f"--workdir={tmp_path / 'run'}",
        "--config.data.source=ase_db",
        f"--config.data.path={tmp_path / 'nothing.db'}",
    )
    assert "nothing.db" in one_error(done)


def test_a_workdir_that_is_a_file_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = call(tmp_path, "--config=configs/smoke.py", f"--workdir={tmp_path / 'file'}")
    assert "file" in one_error(done)


def test_help_tells_the_flags(tmp_path):
    done = call(tmp_path, "--help")
    assert "--config" in done.stdout and "--workdir" in done.stdout

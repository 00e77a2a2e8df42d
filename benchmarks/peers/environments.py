"""The peers, an environment of its own for each, and running their workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import numpy as np

_HERE = Path(__file__).resolve().parent
_MINUTES = 10


@dataclass(frozen=True)
class Peer:
    """A program that simulates diffraction patterns."""

    name: str
    requirements: tuple[str, ...]
    table: str
    """Ours that is the same, or the nearest, to the form factors it uses."""
    same_table: bool
    most: int
    """So many crystals are timed at most: slow programs would take too long."""
    computes: str

    @property
    def worker(self) -> Path:
        return _HERE / f"{self.name.lower()}_worker.py"


PEERS = (
    Peer(
        "pymatgen",
        ("pymatgen==2026.10.24", "numpy==2.4.6", "scipy==1.17.1"),
        table="lobato",
        same_table=False,
        most=200,
        computes="|F|^2 at hk0 of the vacuum cell, no Ewald sphere; X-ray table by Mott-Bethe",
    ),
    Peer(
        "diffsims",
        ("diffsims==0.7.0", "orix==0.15.0", "diffpy.structure==3.3.1", "numpy==2.4.6"),
        table="lobato",
        same_table=True,
        most=1000,
        computes="hkl to 0.04 1/A off the sphere, Lorentzian; Lobato; lacks rods of oblique cells",
    ),
    Peer(
        "py4DSTEM",
        ("py4DSTEM==0.14.18", "numpy==1.26.4"),
        table="lobato",
        same_table=True,
        most=1000,
        computes="F of all hkl to q_max, then a Gaussian shape factor; Lobato, Rb and Sr exchanged",
    ),
    Peer(
        "Dans_Diffraction",
        ("Dans_Diffraction==3.4.0", "numpy==2.4.6"),
        table="peng",
        same_table=True,
        most=1000,
        computes="|F|^2 at hk0 of the vacuum cell, no Ewald sphere; Peng, a sign wrong for K",
    ),
)


def environment(peer: Peer, rebuild: bool, say: Callable[[str], None]) -> Path:
    """The Python of the peer's environment, made where it is not there yet.

    It lies in `$XDG_CACHE_HOME/dd2d-jax-benchmarks` (or `~/.cache`), outside of the repository.

    Raises:
        RuntimeError: it cannot be made; says why.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "dd2d-jax-benchmarks" / peer.name
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    done, wanted = folder / "requirements.txt", "\n".join(peer.requirements)
    if not rebuild and done.is_file() and done.read_text() == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [
            str(python),
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            *peer.requirements,
        ],
    ):
        say("$ " + " ".join(command))
        _run(command)
    done.write_text(wanted)
    return python


def run(peer: Peer, python: Path, layers: Sequence[ase.Atoms], timed: int, **settings) -> dict:
    """Run a peer's worker on layers in vacuum cells; the first `timed` of them are timed.

    Returns:
        `meta` of the worker, and its spots `zone` and `pattern`, rows of crystal, h, k, intensity.

    Raises:
        RuntimeError: the worker failed; says why.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(
            given,
            cell=[x.cell.array for x in layers],
            count=[len(x) for x in layers],
            fractions=np.concatenate([x.get_scaled_positions() for x in layers]),
            numbers=np.concatenate([x.numbers for x in layers]),
            symbols=np.concatenate([x.get_chemical_symbols() for x in layers]),
            timed=timed,
            **settings,
        )
        _run([str(python), str(peer.worker), str(given), str(found)])
        with np.load(found) as data:
            spots: dict[str, Any] = {kind: data[kind] for kind in ("zone", "pattern")}
            return json.loads(str(data["meta"])) | spots


def _run(command: list[str]) -> None:
    alone = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    alone |= {"MPLBACKEND": "Agg", "PYTHONNOUSERSITE": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60 * _MINUTES, env=alone
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not done after {_MINUTES} minutes: {' '.join(command)}") from None
    except OSError as error:
        raise RuntimeError(str(error)) from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
        raise RuntimeError(lines[-1])

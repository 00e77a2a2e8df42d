"""How long the command line takes to answer, from a cold start and with what was compiled before.

    python benchmarks/startup.py [--repeats 5] [--json OUT]

`dd2d retrieve` searches the library in the package with a pattern of MoS2; the first time it
compiles, into an empty folder, then it finds what was compiled there. Wall-clock seconds, the
median of the repeats, and processor seconds, which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def timed(command: list[str], folder: str, repeats: int = 1) -> dict[str, float]:
    """Seconds of a program that starts anew each time and keeps what it compiles in `folder`."""
    environment = {**os.environ, "DD2D_DATA_DIR": folder, "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    wall, cpu = [], []
    for _ in range(repeats):
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=environment)
        wall.append(time.perf_counter() - begin)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"wall_s": float(np.median(wall)), "cpu_s": float(np.median(cpu))}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    import ase.build

    import diffraction as dx
    from dd2d_jax.images.patterns import write_pattern
    from dd2d_jax.networks.checkpoint import write_json

    dd2d = [sys.executable, "-m", "dd2d_jax.commands.main"]
    with tempfile.TemporaryDirectory() as folder:
        atoms = ase.build.mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=10)
        pattern = dx.simulate(dx.Crystal.from_ase(atoms), dx.Electrons(80.0), 1.5, 0.5)
        spots = Path(folder) / "pattern.csv"
        write_pattern(pattern, spots)
        retrieve = [*dd2d, "retrieve", str(spots)]
        result = {
            "dd2d --help": timed([*dd2d, "--help"], folder, args.repeats),
            "dd2d retrieve, first": timed(retrieve, folder),
            "dd2d retrieve, again": timed(retrieve, folder, args.repeats),
            "import dd2d_jax": timed(
                [sys.executable, "-c", "import dd2d_jax"], folder, args.repeats
            ),
        }
    table = Table("what", "wall-clock s", "processor s")
    for name, row in result.items():
        table.add_row(name, f"{row['wall_s']:.2f}", f"{row['cpu_s']:.2f}")
    Console().print(table)
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()

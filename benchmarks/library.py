"""How long a search takes in a library of a million crystals and more, and what it takes on disk.

    dd2d index enumerate:50000 lib50
    python benchmarks/library.py lib50 --copies 20

The library is copied so many times over into a temporary folder: the same work as for as many
different crystals. Wall-clock and processor milliseconds: on a busy machine, half of
the latter is what two free cores would take at best.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

import dd2d_jax
import diffraction as dx
from dd2d_jax.libraries.elements import allowed_rows  # noqa: E402
from dd2d_jax.libraries.library import Library, shard_name, write_manifest
from dd2d_jax.matching.retrieval import retrieve
from dd2d_jax.networks.checkpoint import write_json


def timed(function, repeats: int = 5) -> dict[str, float]:
    """Median wall-clock and processor milliseconds, after one call that compiles."""
    function()
    wall, cpu = [], []
    for _ in range(repeats):
        begin = time.perf_counter(), time.process_time()
        function()
        wall.append(time.perf_counter() - begin[0])
        cpu.append(time.process_time() - begin[1])
    return {"wall_ms": round(1e3 * np.median(wall), 1), "cpu_ms": round(1e3 * np.median(cpu), 1)}


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--settings", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    args = parser.parse_args()
    original = Library.load(args.library)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for _ in range(args.copies):
            for shard in original.crystals.shards:
                paths.append(Path(folder) / shard_name(len(paths)))
                shutil.copyfile(shard.path, paths[-1])
        write_manifest(Path(folder), paths, original.model, original.crystals.report)
        out = measure(Path(folder), args)
        out["gigabytes"] = round(sum(p.stat().st_size for p in paths) / 1e9, 3)
    print(json.dumps(out, indent=1))
    if args.json:
        write_json(args.json, out)


def measure(folder: Path, args: argparse.Namespace) -> dict:
    """Loading, searching and retrieving in one library."""
    out = {"load": timed(lambda: Library.load(folder), 1)}
    out["load without checksums"] = timed(lambda: Library.load(folder, verify=False), 1)
    library = Library.load(folder, verify=False)
    out["crystals"] = len(library)
    rng = np.random.default_rng(0)
    near = library.embeddings[rng.integers(0, len(library), args.batch)].astype(np.float32)
    noise = rng.standard_normal((args.batch, args.settings, near.shape[1]), np.float32)
    queries = near[:, None] + 0.05 * noise
    queries /= np.linalg.norm(queries, axis=-1, keepdims=True)
    out["alone"] = timed(lambda: library.search(queries[0], 100))
    batch = timed(lambda: library.search(queries, 100), 2)
    out["in a batch, per query"] = {k: round(v / args.batch, 1) for k, v in batch.items()}
    only = allowed_rows(library, "Mo,S,Se,O")
    out["four elements"] = timed(lambda: allowed_rows(library, "Mo,S,Se,O"))
    out["alone, four elements"] = timed(lambda: library.search(queries[0], 100, only))
    rows, _ = library.search(queries, 100)
    out["take 100"] = timed(lambda: library.crystals.take(rows[0]))
    out["recall of 100"] = recall(library, queries, rows)
    model = dd2d_jax.load()
    crystal = library.crystals.take([len(library) // 2]).crystal[0]
    pattern = dx.simulate(crystal, dx.Electrons(80.0), 1.25, 0.5)
    out["retrieve, 100 reranked"] = timed(lambda: retrieve(pattern, library, model))
    return out


def recall(library: Library, queries: np.ndarray, rows: np.ndarray) -> float:
    """Share of the 100 best of all float32 products that were found; equal ones count as found."""
    found = 0
    for query, own in zip(queries, rows, strict=True):
        exact = np.concatenate(
            [(part.astype(np.float32) @ query.T).max(1) for part in library.embeddings.parts]
        )
        least = np.partition(exact, -100)[-100]
        found += (exact[own] >= least - 1e-6).sum()
    return found / rows.size


if __name__ == "__main__":
    main()

"""How long a release takes to build, verify and open, and how much memory at most.

    .venv/bin/python -m bench.release_build                  1,000,000 items of 64 dimensions
    .venv/bin/python -m bench.release_build --items 100000

The items have every kind of feature and five attributes. Each step runs in a process of its own, so that its peak
(of resident memory, mapped files included) is not that of another.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tests.conftest import ATTRIBUTES
from tests.model_folder import item_table, write_model

from twotower_server.cli.progress import ProgressBars
from twotower_server.release.build import Recipe, build_release
from twotower_server.release.snapshot import Snapshot
from twotower_server.release.stamp import is_stamped, write_stamp
from twotower_server.release.verify import verify_release

DIMENSION = 64
USERS = 1_000
RELEASE = "bench"
_ROWS = 100_000


def generate(folder: Path, items: int) -> None:
    """Writes the model folder and items.parquet."""
    write_model(folder / "model", similarity="cosine", dimension=DIMENSION, users=USERS)
    with pq.ParquetWriter(folder / "items.parquet", item_table(_ROWS).schema) as writer:
        for start in range(0, items, _ROWS):
            count = min(_ROWS, items - start)
            ids = pa.array([f"item-{i}" for i in range(start, start + count)])
            writer.write_table(item_table(count, seed=start).set_column(0, "item_id", ids))


def build(folder: Path) -> None:
    recipe = Recipe(RELEASE, folder / "model", folder / "items.parquet", attributes=ATTRIBUTES)
    with ProgressBars() as bars:
        build_release(recipe, folder / "releases", bars)


def verify(folder: Path) -> None:
    release = folder / "releases" / RELEASE
    verify_release(release, lambda check: print(f"  {check.seconds:6.2f} s  {check.name}", flush=True))
    write_stamp(release, folder / "data")


def open_verified(folder: Path) -> None:
    release = folder / "releases" / RELEASE
    assert is_stamped(release, folder / "data")
    Snapshot.open(release)


def _timed(step: Callable[..., None], *arguments: object) -> tuple[float, float]:
    start = time.perf_counter()
    step(*arguments)
    # Linux counts KiB.
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(step: Callable[..., None], *arguments: object) -> tuple[float, float]:
    """Runs a step in a new process: its seconds, without starting Python, and its peak memory in MiB."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_timed, step, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000, metavar="N", help="(default: %(default)s)")
    items: int = parser.parse_args().items
    print(f"{items:,} items, {DIMENSION} dimensions, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measure(generate, folder, items)
        for step in (build, verify, open_verified):
            seconds, peak_mib = measure(step, folder)
            print(
                f"{step.__name__:<14} {seconds:8.2f} s {items / seconds:12,.0f} items/s {peak_mib:8,.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()

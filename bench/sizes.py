"""What a catalog of each size costs, and what a filter of each selectivity: `python -m bench.sizes`.

A real server with one worker serves 10 thousand to 10 million items of 64 dimensions, on a manifold that no index finds
easy. ghz sends Score of 500 and Recommend of 100, one call at a time for the latency and 16 in flight for the rate.
Catalogs are built once, niced; 10 million items take about 10 minutes, 15 GB of disk meanwhile and 6 GB of memory, and
are left out where there is less.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench import load
from bench.dataset import ensure_release, users
from bench.run import CANDIDATES, FOLDER, K
from bench.switch import Server, start_server
from twotower import v1
from twotower_server.cli.progress import ProgressBars
from twotower_server.index.similarity import similarities
from twotower_server.items.filter import mask
from twotower_server.release.format import Manifest
from twotower_server.release.snapshot import Snapshot

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
SHARES = (None, 1.0, 0.5, 0.3, 0.1, 0.03, 0.01, 0.001, 0.0001, 0.00001)  # None: no filter
IN_FLIGHT = 16
_SAMPLES = 64  # different requests of a case, sent in turn
_QUERIES = 100  # that recall is measured on
# What a build needs for each item, in bytes.
_DISK = 1_500
_MEMORY = 600


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one kind of call: one at a time, and `IN_FLIGHT` at once."""

    alone: load.Load
    together: load.Load

    def row(self) -> tuple[str, str, str]:
        return f"{self.alone.p50_ms:.2f}", f"{self.alone.p99_ms:.2f}", f"{self.together.calls_s:,.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.sizes", description="Measures catalogs of several sizes.")
    parser.add_argument(
        "--items", type=int, nargs="+", default=SIZES, metavar="N", help="catalogs (default: 10k … 10M)"
    )
    parser.add_argument("--filter-items", type=int, default=1_000_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one kind of call (default: %(default)s)")
    args = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    sizes = Table(title="one worker, 64 dimensions; ms of one call at a time, calls/s at 16", title_justify="left")
    for column in (
        "items", "index", f"recall@{K}", f"Score {CANDIDATES}: p50", "p99", "calls/s",
        f"Recommend {K}: p50", "p99", "calls/s", "Anonymous, MiB",
    ):  # fmt: skip
        sizes.add_column(column, justify="right")
    for items in args.items:
        if not _has_room(items):
            print(f"{items:,} items are left out: too little memory or disk", file=sys.stderr)
            continue
        folder = prepare(items)
        index = Manifest.load(folder / "releases" / f"bench-{items}").index
        with start_server(folder / "releases", folder, workers=1) as server, tempfile.TemporaryDirectory() as requests:
            score = measure(server, Path(requests), "Score", score_requests(items), args.seconds)
            recommend = measure(server, Path(requests), "Recommend", recommend_requests(None), args.seconds)
            memory = server.anonymous_mib()[0]
        recall = "" if index.recall is None else f"{index.recall:.3f}"
        sizes.add_row(f"{items:,}", index.kind, recall, *score.row(), *recommend.row(), f"{memory:.0f}")
    console.print(sizes)
    console.print(filters(args.filter_items, args.seconds))
    console.print(f"load average of {os.cpu_count()} cores: {os.getloadavg()[1]:.1f} (the bench alone is 1 to 2)")
    return 0


def filters(items: int, seconds: float) -> Table:
    """The cost of a filter `share < s`, which has nothing to do with the query, by s."""
    table = Table(title=f"Recommend {K} of {items:,}; ms of one call at a time, calls/s at 16", title_justify="left")
    for column in ("a filter lets through", "eligible", "results", f"recall@{K}", "p50", "p99", "calls/s"):
        table.add_column(column, justify="right")
    folder = prepare(items)
    snapshot = Snapshot.open(folder / "releases" / f"bench-{items}")
    rows = [v1.User(features=features) for features in users(_QUERIES, seed=8)]
    queries = snapshot.embed_users(snapshot.user_encoder.encode(rows))
    with start_server(folder / "releases", folder, workers=1) as server, tempfile.TemporaryDirectory() as requests:
        for share in SHARES:
            figures = measure(server, Path(requests), "Recommend", recommend_requests(share), seconds)
            eligible, results, recall = quality(snapshot, queries, share)
            name = "no filter" if share is None else f"{share:.5f}".rstrip("0").rstrip(".")
            table.add_row(name, f"{eligible:,}", str(results), f"{recall:.3f}", *figures.row())
    return table


def quality(snapshot: Snapshot, queries: NDArray[np.float32], share: float | None) -> tuple[int, int, float]:
    """Eligible items, the fewest results of a query, and mean recall against comparing all that is eligible."""
    segment = snapshot.items.segments[0]
    rows = np.arange(len(segment)) if share is None else np.flatnonzero(mask(segment.catalog, below(share)))
    results, found = K, []
    wanted = min(K, len(rows))
    for query in queries:
        values = snapshot.items.search(query, K, None, None if share is None else below(share))[1]
        results = min(results, len(values))
        if wanted:
            least = np.partition(similarities(segment.vectors, rows, query), -wanted)[-wanted]
            found.append(np.mean(values >= least))
    return len(rows), results, float(np.mean(found)) if found else 1.0


def below(share: float) -> v1.Filter:
    """Lets through `share` of the items."""
    condition = v1.Condition(attribute="share", range=v1.Range(max=share, max_exclusive=True))
    return v1.Filter(all_of=[v1.AnyOf(conditions=[condition])])


def measure(server: Server, folder: Path, rpc: str, requests: Sequence[Message], seconds: float) -> Figures:
    file = folder / f"{rpc}.ghz"
    load.write_requests(file, requests)
    load.call(server.target, rpc, file, concurrency=1, seconds=seconds / 3)  # warms up
    return Figures(
        alone=load.call(server.target, rpc, file, concurrency=1, seconds=seconds),
        together=load.call(server.target, rpc, file, concurrency=IN_FLIGHT, seconds=seconds),
    )


def score_requests(items: int) -> list[v1.ScoreRequest]:
    random = np.random.default_rng(1)
    return [
        v1.ScoreRequest(user=v1.User(features=features), item_ids=[f"item-{row}" for row in rows.tolist()])
        for features, rows in zip(users(_SAMPLES), random.integers(0, items, (_SAMPLES, CANDIDATES)), strict=True)
    ]


def recommend_requests(share: float | None) -> list[v1.RecommendRequest]:
    filter = None if share is None else below(share)
    return [v1.RecommendRequest(user=v1.User(features=features), k=K, filter=filter) for features in users(_SAMPLES)]


def prepare(items: int) -> Path:
    """Builds the catalog where it is absent. Returns a folder with `releases`, in which it alone is, and `data`."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), os.nice, (19,)) as niced:
        built = niced.submit(_build, items).result()
    folder = FOLDER / "sizes" / str(items)
    release = folder / "releases" / built.name
    if not release.exists():
        shutil.copytree(built, release, copy_function=os.link)
        (folder / "releases" / "active").write_text(f"{built.name}\n")
    return folder


def _build(items: int) -> Path:
    with ProgressBars() as bars:
        return ensure_release(FOLDER, items, bars) / f"bench-{items}"


def _has_room(items: int) -> bool:
    """Whether the catalog is there, or can be built."""
    if (FOLDER / "releases" / f"bench-{items}").exists():
        return True
    FOLDER.mkdir(parents=True, exist_ok=True)
    available = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]
    return int(available) * 1024 > items * _MEMORY and shutil.disk_usage(FOLDER).free > items * _DISK


if __name__ == "__main__":
    sys.exit(main())

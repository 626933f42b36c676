"""What live changes cost: those who send them, and those who search meanwhile: `python -m bench.changes`.

A real server of two workers, called from this process over one connection, one call at a time. The delta grows from
nothing; at each size Recommend and Score are measured, then items are upserted up to the next size.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.dataset import ITEM_FEATURES, ensure_release, users
from bench.run import CANDIDATES, FOLDER, K
from bench.switch import start_server
from twotower import v1
from twotower_server.cli.progress import ProgressBars
from twotower_server.items.ids import item_keys

SIZES = (0, 1_000, 10_000, 50_000)
BATCH = 100
SINGLE = 500
CALLS = 200
_random = np.random.default_rng(12)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.changes", description="Measures live changes.")
    parser.add_argument("--items", type=int, default=100_000, metavar="N", help="catalog (default: %(default)s)")
    args = parser.parse_args()
    with ProgressBars() as bars:
        release = ensure_release(FOLDER, args.items, bars) / f"bench-{args.items}"
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder, "releases")
        own.mkdir()
        (own / release.name).symlink_to(release)
        (own / "active").write_text(f"{release.name}\n")
        with start_server(own, Path(folder)) as server, grpc.insecure_channel(server.target) as channel:
            measure(v1.TwoTowerServiceStub(channel), v1.CatalogServiceStub(channel), args.items)
    return 0


def measure(serving: v1.TwoTowerServiceStub, catalog: v1.CatalogServiceStub, items: int) -> None:
    """Half of the changes replace items of the release, half are new."""
    changed = 0
    searches = Table(title=f"{items:,} items of 64 dimensions, ms, p50 (p99)", title_justify="left")
    for column in ("changes before", f"Recommend {K}", f"Score of {CANDIDATES} by id", f"Score of {CANDIDATES} by key"):
        searches.add_column(column, justify="right")
    batches_ms = []
    for size in SIZES:
        while changed < size:
            request = v1.UpsertItemsRequest(changes=[upsert(i, items) for i in range(changed, changed + BATCH)])
            batches_ms.append(_timed(catalog.UpsertItems, request))
            changed += BATCH
        recommend, by_id, by_key = _requests(items)
        searches.add_row(
            f"{size:,}",
            _latency(serving.Recommend, recommend),
            _latency(serving.Score, by_id),
            _latency(serving.Score, by_key),
        )
    single_ms = [
        _timed(catalog.UpsertItems, v1.UpsertItemsRequest(changes=[upsert(i, items)]))
        for i in range(changed, changed + SINGLE)
    ]
    upserts = Table(title="upserts, one call at a time", title_justify="left")
    for column in ("changes a call", "changes/s", "ms a call: p50", "p99", "longest"):
        upserts.add_column(column, justify="right")
    for size, times_ms in ((1, single_ms), (BATCH, batches_ms)):
        p50, p99, longest = np.quantile(times_ms, (0.5, 0.99, 1.0))
        rate = 1000 * size * len(times_ms) / sum(times_ms)
        upserts.add_row(str(size), f"{rate:,.0f}", f"{p50:.2f}", f"{p99:.1f}", f"{longest:.0f}")
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(searches)
    console.print(upserts)


def upsert(number: int, items: int) -> v1.ItemChange:
    """Of an item of the release where the number is odd, of a new one where it is even."""
    place = number % (2 * items)
    item_id = f"item-{place}" if place % 2 else f"new-{place}"
    features = dict(zip(ITEM_FEATURES, _random.normal(size=len(ITEM_FEATURES)).tolist(), strict=True))
    share = v1.AttributeValue(number=_random.random())
    return v1.ItemChange(item=v1.Item(item_id=item_id, features=features), attributes={"share": share})


def _requests(items: int) -> tuple[list[v1.RecommendRequest], list[v1.ScoreRequest], list[v1.ScoreRequest]]:
    rows = [v1.User(features=features) for features in users(CALLS, seed=8)]
    recommend = [v1.RecommendRequest(user=row, k=K) for row in rows]
    chosen = [[f"item-{i}" for i in _random.integers(0, items, CANDIDATES)] for _ in rows]
    by_id = [v1.ScoreRequest(user=row, item_ids=ids) for row, ids in zip(rows, chosen, strict=True)]
    by_key = [v1.ScoreRequest(user=row, item_keys=item_keys(ids)) for row, ids in zip(rows, chosen, strict=True)]
    return recommend, by_id, by_key


def _latency(call: Callable[[Any], object], requests: Sequence[object]) -> str:
    times_ms = [_timed(call, request) for request in requests]
    return f"{statistics.median(times_ms):.2f} ({np.quantile(times_ms, 0.99):.1f})"


def _timed(call: Callable[[Any], object], request: object) -> float:
    start = time.perf_counter()
    call(request)
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    sys.exit(main())

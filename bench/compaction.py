"""What compaction costs callers, and how soon other servers see a change: `python -m bench.compaction`.

A real server of two workers; ghz calls it at a rate that leaves it time to breathe. Rounds alternate: one in peace, one
while changes of a fifteenth of the catalog are compacted. The p99 of both are compared. Then two servers share a log in
Redis, and a change sent to one is looked for in the other.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import grpc
import numpy as np
from rich.console import Console
from rich.table import Table
from tests.redis.running import APPEND_ALWAYS, RedisServer

from bench.changes import upsert
from bench.dataset import ensure_release
from bench.run import FOLDER, write_requests
from bench.switch import Server, load, spread, start_server
from twotower import v1
from twotower_server.catalog.log import CHANGES
from twotower_server.cli.progress import ProgressBars
from twotower_server.features.schema import Schema

LOADS = {"GetUserEmbedding.named": 400, "Recommend.top": 100}  # calls a second
BATCH = 100
SEEN = 300


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.compaction", description="Measures compaction.")
    parser.add_argument("--items", type=int, default=100_000, metavar="N", help="catalog (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of each kind (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one round in peace (default: %(default)s)")
    args = parser.parse_args()
    with ProgressBars() as bars:
        release = ensure_release(FOLDER, args.items, bars) / f"bench-{args.items}"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        own = folder / "releases"
        own.mkdir()
        (own / release.name).symlink_to(release)
        (own / "active").write_text(f"{release.name}\n")
        write_requests(folder, args.items, Schema.load(release / "schema.json").user.fingerprint)
        table = Table(title=f"{args.items:,} items of 64 dimensions", title_justify="left")
        for column in ("", "measured: median (least … most)"):
            table.add_column(column, justify="right" if column else "left")
        with start_server(own, folder, "--compact-changes", "1000") as server:
            measure(table, server, folder, args.items, args.rounds, args.seconds)
        see(table, own, folder, args.items)
        Console(width=None if sys.stdout.isatty() else 140).print(table)
    return 0


def measure(table: Table, server: Server, folder: Path, items: int, rounds: int, seconds: float) -> None:
    peace: dict[str, list[float]] = {requests: [] for requests in LOADS}
    during: dict[str, list[float]] = {requests: [] for requests in LOADS}
    took_s = []
    changes = items // 15  # more than the twentieth that it waits for, of a catalog that grows
    with grpc.insecure_channel(server.target) as channel:
        catalog = v1.CatalogServiceStub(channel)
        changed = 0
        for requests, rate in LOADS.items():
            load(server, folder, seconds / 2, requests, rate)  # warms up
            for _ in range(rounds):
                peace[requests].append(load(server, folder, seconds, requests, rate))
                before = _number(server.data)
                for start in range(changed, changed + changes, BATCH):
                    catalog.UpsertItems(
                        v1.UpsertItemsRequest(changes=[upsert(i, items) for i in range(start, start + BATCH)])
                    )
                changed += changes
                begun = time.monotonic()
                during_ms = []
                while _number(server.data) == before:
                    during_ms.append(load(server, folder, 2.0, requests, rate))
                took_s.append(time.monotonic() - begun)
                during[requests].append(max(during_ms))
    for requests, in_peace in peace.items():
        rpc = requests.partition(".")[0]
        table.add_row(f"{rpc}: p99 in peace, ms", spread(in_peace))
        table.add_row(f"{rpc}: p99 while compacted, ms", spread(during[requests]))
        ratios = [one / other for one, other in zip(during[requests], in_peace, strict=True)]
        table.add_row(f"{rpc}: ratio", spread(ratios))
    table.add_row(f"compaction of {changes:,} changes, s, to 2 s", spread(took_s))


def see(table: Table, releases: Path, folder: Path, items: int) -> None:
    """How long after a change was sent to one server the other has it."""
    redis = RedisServer(folder / "redis", *APPEND_ALWAYS)
    options = ("--change-log", "redis", "--redis", redis.url)
    times_ms = []
    try:
        with (
            start_server(releases, folder / "one", *options) as one,
            start_server(releases, folder / "two", *options) as two,
            grpc.insecure_channel(one.target) as channel,
            grpc.insecure_channel(two.target) as other,
        ):
            catalog, serving = v1.CatalogServiceStub(channel), v1.TwoTowerServiceStub(other)
            for i in range(SEEN):
                change = upsert(2 * i, items)
                request = v1.BatchGetItemEmbeddingsRequest(item_ids=[change.item.item_id])
                start = time.perf_counter()
                catalog.UpsertItems(v1.UpsertItemsRequest(changes=[change]))
                while serving.BatchGetItemEmbeddings(request).missing_indices:
                    pass
                times_ms.append((time.perf_counter() - start) * 1e3)
    finally:
        redis.close()
    p50, p99, longest = np.quantile(times_ms, (0.5, 0.99, 1.0))
    table.add_row("sent to one server, seen in the other, ms", f"p50 {p50:.1f}, p99 {p99:.1f}, longest {longest:.1f}")


def _number(data: Path) -> int:
    """Of the log that counts."""
    return max(int(path.parent.name) for path in (data / "catalog").glob(f"*/*/{CHANGES}"))


if __name__ == "__main__":
    sys.exit(main())

"""What it costs to leave item vectors in Redis: `python -m bench.item_store`.

    .venv/bin/python -m bench.item_store                     1,000,000 items of 64 dimensions
    .venv/bin/python -m bench.item_store --items 100000 --rounds 5

First how fast a machine loads the vectors of a release that was copied without them. Then the time of single calls, one
after another, of servers that have the vectors in files, and of servers that read them from Redis call by call. Redis
runs on this machine: a standalone server, and a Cluster of 3 primaries and 3 replicas. Rounds take turns.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tests.redis.running import RedisCluster, RedisServer
from tests.supervisor.running import Server

from bench.dataset import DIMENSION, ensure_release, users
from bench.run import FOLDER
from twotower import v1
from twotower_server.cli.progress import ProgressBars
from twotower_server.config import Config
from twotower_server.items.ids import item_keys
from twotower_server.items.redis import RedisKeys, RedisStore
from twotower_server.release.completion import Completion
from twotower_server.release.format import VECTORS
from twotower_server.release.push import ReleasePush
from twotower_server.release.repository import LocalRepository

CANDIDATES = 500
K = 100
CALLS = 300  # of a kind and server, a round
# What is measured is the time, not how often the default is kept.
_BUDGET_MS = 1_000


class _Loading:
    """Seconds that the stages of a completion take."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}

    def start(self, stage: str, total: int | None) -> None:
        self._begun[stage] = time.perf_counter()

    def advance(self, units: int) -> None:
        pass

    def seconds(self) -> float:
        """Until now, since vectors began to be loaded."""
        return time.perf_counter() - self._begun["loading vectors"]


def load(folder: Path, redis: RedisServer | RedisCluster) -> float:
    """Completes a release in a data folder of its own: reading, writing and comparing SHA-256; items a second."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as data:
        loading = _Loading()
        config = Config(folder.parent, data=Path(data), redis=redis.url)
        Completion(config).whole(folder, loading)
        return int(folder.name.rpartition("-")[2]) / loading.seconds()


@contextmanager
def serving(releases: Path, *options: str) -> Iterator[v1.TwoTowerServiceStub]:
    """A server with one worker."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as data:
        command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(releases), "--listen", "localhost:0"]
        server = Server([*command, "--data", data, *options], Path(data, "log"), {})
        try:
            with grpc.insecure_channel(str(server.ready()["target"])) as channel:
                yield v1.TwoTowerServiceStub(channel)
        finally:
            server.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(default: %(default)s)")
    args = parser.parse_args()
    name = f"bench-{args.items}"
    with ProgressBars() as bars:
        release = ensure_release(FOLDER, args.items, bars) / name
    print(f"{args.items:,} items, {DIMENSION} dimensions, {os.cpu_count()} cores, {args.rounds} rounds")
    with tempfile.TemporaryDirectory(dir=FOLDER) as temporary, ExitStack() as started:
        whole, light = Path(temporary, "whole"), Path(temporary, "light")
        for folder in (whole, light):
            folder.mkdir()
            (folder / "active").write_text(f"{name}\n")
        (whole / name).symlink_to(release)
        LocalRepository(light).add(release, lambda: None, [VECTORS])
        stores: dict[str, RedisServer | RedisCluster] = {}
        for kind, redis_type in (("standalone", RedisServer), ("Cluster", RedisCluster)):
            stores[kind] = redis_type(Path(temporary, kind))
            started.callback(stores[kind].close)
            with RedisStore(stores[kind].url) as store, ProgressBars() as bars:
                ReleasePush(release, store, RedisKeys("twotower:")).run(bars, "none")
        rates = [{kind: load(light / name, redis) for kind, redis in stores.items()} for _ in range(args.rounds)]
        for kind in stores:
            found = [round[kind] for round in rates]
            spread = f"{min(found):,.0f} to {max(found):,.0f}"
            print(f"bulk load  {kind:<11} {statistics.median(found):10,.0f} items/s ({spread})")
        servers = {"files": started.enter_context(serving(whole))}
        for kind, redis in stores.items():
            options = ("--redis", redis.url, "--item-store", "redis", "--item-store-budget-ms", str(_BUDGET_MS))
            servers[kind] = started.enter_context(serving(light, *options))
        show(measure(servers, args.items, args.rounds), args.rounds)
    return 0


def measure(
    servers: dict[str, v1.TwoTowerServiceStub], items: int, rounds: int
) -> dict[tuple[str, str], list[list[float]]]:
    """Milliseconds of calls, by kind and server, one list a round."""
    people = [v1.User(features=features) for features in users(64)]
    random = np.random.default_rng(5)
    keys = [item_keys(f"item-{i}" for i in random.integers(items, size=CANDIDATES)).tolist() for _ in people]
    scores = [v1.ScoreRequest(user=user, item_keys=some) for user, some in zip(people, keys, strict=True)]
    searches = [v1.RecommendRequest(user=user, k=K) for user in people]
    narrow = v1.Filter(all_of=[v1.AnyOf(conditions=[v1.Condition(attribute="share", range=v1.Range(max=0.01))])])
    filtered = [v1.RecommendRequest(user=user, k=K, filter=narrow) for user in people]
    single = [v1.GetItemEmbeddingRequest(item_id=f"item-{i}") for i in random.integers(items, size=64)]
    took: dict[tuple[str, str], list[list[float]]] = {}
    for round in range(-1, rounds):  # the first warms up
        for server, stub in servers.items():
            kinds: list[tuple[str, Callable[[Any], object], Sequence[object]]] = [
                (f"Score of {CANDIDATES}", stub.Score, scores),
                (f"Recommend of {K}", stub.Recommend, searches),
                (f"Recommend of {K}, filter of 1 %", stub.Recommend, filtered),
                ("GetItemEmbedding", stub.GetItemEmbedding, single),
            ]
            for kind, call, requests in kinds:
                times = [_timed(call, request) for request in itertools.islice(itertools.cycle(requests), CALLS)]
                if round >= 0:
                    took.setdefault((kind, server), []).append(times)
    return took


def _timed(call: Callable[[Any], object], request: object) -> float:
    start = time.perf_counter()
    call(request)
    return (time.perf_counter() - start) * 1e3


def show(took: dict[tuple[str, str], list[list[float]]], rounds: int) -> None:
    """Median over the rounds of each round's p50 and p99."""
    for (kind, server), times in took.items():
        p50, p99 = (statistics.median(float(np.percentile(some, share)) for some in times) for share in (50, 99))
        print(f"{kind:<32} {server:<11} p50 {p50:6.2f} ms   p99 {p99:6.2f} ms")


if __name__ == "__main__":
    sys.exit(main())

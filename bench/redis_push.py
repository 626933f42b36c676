"""How many item vectors a second `twotower items push` writes to Redis, and reads back to compare them.

    .venv/bin/python -m bench.redis_push                     1,000,000 items of 64 dimensions
    .venv/bin/python -m bench.redis_push --items 100000 --rounds 5

Redis runs on this machine: a standalone server, one that appends every write to its disk before it answers (AOF
always), and a Cluster of 3 primaries and 3 replicas. Rounds take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from tests.redis.running import APPEND_ALWAYS, RedisCluster, RedisServer

from bench.dataset import DIMENSION, ensure_release
from bench.run import FOLDER
from twotower_server.cli.progress import ProgressBars
from twotower_server.items.redis import RedisKeys, RedisStore
from twotower_server.release.push import ReleasePush


class _Stages:
    """Seconds of each stage of a push."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage = ""
        self._start = 0.0

    def start(self, stage: str, total: int | None) -> None:
        self.end()
        self._stage, self._start = stage, time.perf_counter()

    def advance(self, units: int) -> None:
        pass

    def end(self) -> None:
        if self._stage:
            self.seconds[self._stage] = time.perf_counter() - self._start


def push(release: Path, redis: RedisServer | RedisCluster) -> dict[str, float]:
    """Pushes to an empty Redis; items a second by stage."""
    redis.client.flushall(asynchronous=True)
    stages = _Stages()
    with RedisStore(redis.url) as store:
        pushed = ReleasePush(release, store, RedisKeys("twotower:")).run(stages)
    stages.end()
    assert pushed.written == pushed.compared == pushed.items and not pushed.repaired
    return {stage: pushed.items / seconds for stage, seconds in stages.seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(default: %(default)s)")
    args = parser.parse_args()
    with ProgressBars() as bars:
        release = ensure_release(FOLDER, args.items, bars) / f"bench-{args.items}"
    print(f"{args.items:,} items, {DIMENSION} dimensions, {os.cpu_count()} cores, {args.rounds} rounds")
    with tempfile.TemporaryDirectory() as temporary:
        started: dict[str, RedisServer | RedisCluster] = {}
        try:
            started["standalone"] = RedisServer(Path(temporary, "standalone"))
            started["AOF always"] = RedisServer(Path(temporary, "append"), *APPEND_ALWAYS)
            started["Cluster"] = RedisCluster(Path(temporary, "cluster"))
            rates: dict[tuple[str, str], list[float]] = defaultdict(list)
            for _ in range(args.rounds):
                for name, redis in started.items():
                    for stage, rate in push(release, redis).items():
                        rates[name, stage].append(rate)
                    redis.client.flushall(asynchronous=True)
        finally:
            for redis in started.values():
                redis.close()
    for (name, stage), found in rates.items():
        spread = f"{min(found):,.0f} to {max(found):,.0f}"
        print(f"{name:<12} {stage:<20} {statistics.median(found):10,.0f} items/s ({spread})")


if __name__ == "__main__":
    main()

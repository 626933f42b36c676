"""From which size of the user tower a cache of user vectors pays: `python -m bench.user_cache`.

Vectors of single users, and of batches, through the engine in this process: computed, from the worker's memory, from a
Redis on this machine. CPU time of the process is what a worker's throughput depends on, and other programs harm it
least; the time that passed is shown beside it. Rounds take turns; the ratios are those of one round. The RPC around it
costs the same in every case and is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table
from tests.redis.running import RedisServer

from bench.dataset import DIMENSION, USER_FEATURES, users, write_items, write_model
from twotower import v1
from twotower_server.cache.memory import MemoryTier
from twotower_server.cache.policy import CachePolicy
from twotower_server.cache.redis import RedisTier
from twotower_server.cache.user_cache import UserCache
from twotower_server.engine import embed
from twotower_server.engine.engine import Engine
from twotower_server.engine.limits import Limits
from twotower_server.engine.model import CacheMode, Source, UserVector
from twotower_server.engine.route import Releases
from twotower_server.engine.users import UserVectors
from twotower_server.release.build import Recipe, build_release
from twotower_server.release.snapshot import Snapshot

LAYERS = ((128, 64), (512, 256), (1024, 512), (2048, 1024), (4096, 2048))
BATCH = 64
USERS = 8 * BATCH
_BUDGET_MS = 1_000  # what is measured is the time, not how often the default of 10 ms is kept
_CASES = ("computed", "memory", "Redis")

Call = Callable[[Sequence[v1.User]], Awaitable[None]]
# µs a user, CPU time and time that passed, one a round; by case and users a call.
Figures = dict[tuple[str, int], list[tuple[float, float]]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.user_cache", description="Measures the user cache.")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="(default: %(default)s)")
    args = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    with tempfile.TemporaryDirectory() as folder:
        redis = RedisServer(Path(folder, "redis"))
        try:
            title = f"µs of CPU a user (and µs that passed), vectors of {DIMENSION}, median of {args.rounds} rounds"
            table = Table(title=title, title_justify="left")
            for column in ("user tower", "users a call", *_CASES, "computed ÷ memory", "computed ÷ Redis"):
                table.add_column(column, justify="left" if column == "user tower" else "right")
            for hidden in LAYERS:
                snapshot = _release(Path(folder, "-".join(map(str, hidden))), (*hidden, DIMENSION))
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    figures, off = runner.run(measure(snapshot, redis, args.rounds))
                for size in (1, BATCH):
                    table.add_row(_named(hidden), str(size), *_row(figures, size))
                print(f"{_named(hidden)}: a single user without a cache ÷ the tower alone: {off:.3f}", flush=True)
            console.print(table)
        finally:
            redis.close()
    return 0


async def measure(snapshot: Snapshot, redis: RedisServer, rounds: int) -> tuple[Figures, float]:
    """What each case took; and what the policy `off` costs: a single user through it ÷ the tower alone, CPU time."""
    policy = CachePolicy()
    tier = RedisTier(redis.url, None, "twotower:", policy.ttl_s, _BUDGET_MS)
    cache = UserCache(policy, MemoryTier(64 << 20, policy.ttl_s), tier)
    await cache.start()
    releases = Releases({snapshot.release: snapshot}, snapshot.release)
    engine, plain = Engine(releases, Limits(), cache), Engine(releases, Limits())
    rows = [v1.User(user_id=f"u{i}", features=features) for i, features in enumerate(users(USERS))]
    for start in range(0, USERS, BATCH):
        await engine.embed_users(rows[start : start + BATCH], cache_mode=CacheMode.REFRESH)
    while redis.client.dbsize() < USERS:
        await asyncio.sleep(0.01)

    none = UserVectors(Limits(), None)

    async def off(some: Sequence[v1.User]) -> None:
        await none.one(snapshot, some[0], CacheMode.UNSPECIFIED)

    async def bare(some: Sequence[v1.User]) -> None:
        values, use = embed.embed_user(snapshot, some[0], plain.limits)
        UserVector(values, snapshot.release, use=use)

    figures: Figures = {}
    offs = []
    for _ in range(rounds):
        for size in (1, BATCH):
            for case in _CASES:
                if case == "Redis":
                    cache.forget(snapshot.release)
                expected = Source.COMPUTED if case == "computed" else Source.CACHE
                took = await _time(_calls(plain if case == "computed" else engine, size, expected), rows, size)
                figures.setdefault((case, size), []).append(took)
        offs.append((await _time(off, rows, 1))[0] / (await _time(bare, rows, 1))[0])
    redis.client.flushall()
    await cache.close()
    engine.close()
    plain.close()
    return figures, statistics.median(offs)


def _calls(engine: Engine, size: int, expected: Source) -> Call:
    async def one(some: Sequence[v1.User]) -> None:
        assert (await engine.embed_user(some[0])).source == expected

    async def batch(some: Sequence[v1.User]) -> None:
        (arm,) = await engine.embed_users(some)
        assert len(arm.vectors.ages_ms) == (0 if expected == Source.COMPUTED else size)

    return one if size == 1 else batch


async def _time(call: Call, rows: Sequence[v1.User], size: int) -> tuple[float, float]:
    """µs a user, of calls one after another for all users: CPU time, time that passed."""
    cpu, wall = time.process_time(), time.perf_counter()
    for at in range(0, USERS, size):
        await call(rows[at : at + size])
    return (time.process_time() - cpu) / USERS * 1e6, (time.perf_counter() - wall) / USERS * 1e6


def _release(folder: Path, layers: Sequence[int]) -> Snapshot:
    folder.mkdir()
    write_items(folder / "items.parquet", 1_000)
    write_model(folder / "model", layers)
    return Snapshot.open(
        build_release(Recipe("bench", folder / "model", folder / "items.parquet"), folder / "releases")
    )


def _named(hidden: Sequence[int]) -> str:
    widths = (len(USER_FEATURES), *hidden, DIMENSION)
    weights = sum(one * other for one, other in itertools.pairwise(widths))
    return f"{'-'.join(map(str, widths))} ({weights / 1e6:.2f} M weights)"


def _row(figures: Figures, size: int) -> list[str]:
    shown = []
    for case in _CASES:
        cpu, wall = (statistics.median(column) for column in zip(*figures[case, size], strict=True))
        shown.append(f"{cpu:.1f} ({wall:.1f})")
    for case in _CASES[1:]:
        pairs = zip(figures["computed", size], figures[case, size], strict=True)
        ratios = [computed[0] / other[0] for computed, other in pairs]
        shown.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})")
    return shown


if __name__ == "__main__":
    sys.exit(main())

"""How long searches hold a worker's event loop: `python -m bench.search_blocking`.

One worker with 1,000,000 items gets the searches that are hardest for it, one kind at a time, four in flight, from ghz.
Meanwhile a timer asks to be called every millisecond. How late it is called is how long the loop was held; without a
free core that has the machine's scheduler in it, too. What the loop's thread itself computed between two calls of the
timer has not: it is the longest piece of work that ran on the loop.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from bench import load
from bench.dataset import ensure_release, users
from bench.run import FOLDER, ROOT
from twotower import v1
from twotower_server.cli.progress import ProgressBars
from twotower_server.engine.engine import Engine
from twotower_server.engine.limits import Limits
from twotower_server.engine.route import Releases
from twotower_server.items.ids import item_keys
from twotower_server.release.snapshot import Snapshot
from twotower_server.rpc.server import RpcServer
from twotower_server.rpc.servicer import TwoTowerServicer
from twotower_server.supervisor.process import ENVIRONMENT

IN_FLIGHT = 4
_SAMPLES = 8  # different requests of a case, sent in turn
_TICK_S = 0.001


@dataclass(slots=True)
class Worker:
    """A worker in a process of its own."""

    process: subprocess.Popen[str]
    target: str

    def ticks_ms(self) -> list[tuple[float, float]]:
        """How late the timer was, and what the loop's thread computed before, each time since this was asked last."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: list[tuple[float, float]] = json.loads(self.process.stdout.readline())
        return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.search_blocking", description="Measures the event loop.")
    parser.add_argument("--items", type=int, default=1_000_000, metavar="N", help="catalog (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one kind of search (default: %(default)s)")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(args.serve))
        return 0
    with ProgressBars() as bars:
        release = ensure_release(FOLDER, args.items, bars) / f"bench-{args.items}"
    table = Table(title=f"{args.items:,} items, one worker, {IN_FLIGHT} calls in flight", title_justify="left")
    for column in ("search", "calls/s", "p50 ms of a call", "loop held, ms: p50", "p99", "longest", "longest work, ms"):
        table.add_column(column, justify="left" if column == "search" else "right")
    with tempfile.TemporaryDirectory() as folder, start_worker(release) as worker:
        time.sleep(1.0)
        worker.ticks_ms()
        time.sleep(args.seconds)
        table.add_row("none", "", "", *_quantiles(worker.ticks_ms()))
        for name, change in cases(args.items).items():
            requests = [v1.RecommendRequest(user=v1.User(features=features)) for features in users(_SAMPLES)]
            for request in requests:
                change(request)
            file = Path(folder, "requests.ghz")
            load.write_requests(file, requests)
            load.call(worker.target, "Recommend", file, concurrency=IN_FLIGHT, seconds=0.5)  # warms up
            worker.ticks_ms()
            done = load.call(worker.target, "Recommend", file, concurrency=IN_FLIGHT, seconds=args.seconds)
            table.add_row(name, f"{done.calls_s:,.0f}", f"{done.p50_ms:.1f}", *_quantiles(worker.ticks_ms()))
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    console.print(f"load average of {os.cpu_count()} cores: {os.getloadavg()[0]:.1f} (the bench alone is 2 to 4)")
    return 0


def cases(items: int) -> dict[str, Callable[[v1.RecommendRequest], None]]:
    """What makes a request of each kind, by name."""
    random = np.random.default_rng(2)
    ids = [f"item-{row}" for row in random.choice(items, min(items, 11_000), replace=False)]
    # Of two braces in a request ghz makes a template.
    keys = [key for key in item_keys(ids).tolist() if b"{" not in key.to_bytes(8)][:10_000]
    ids = ids[:10_000]
    numbers = random.random(1_000).tolist()

    def below(request: v1.RecommendRequest, share: float) -> None:
        condition = v1.Condition(attribute="share", range=v1.Range(max=share, max_exclusive=True))
        request.filter.all_of.add(conditions=[condition])

    def any_of(request: v1.RecommendRequest) -> None:
        for _ in range(64):
            request.filter.all_of.add(conditions=[v1.Condition(attribute="share", any_number=numbers, negate=True)])

    def everything(request: v1.RecommendRequest) -> None:
        request.k = 10_000
        request.return_attributes.append("share")
        request.exclude_item_ids.extend(ids)
        below(request, 0.5)

    return {
        "k = 100": lambda request: None,
        "k = 10,000": lambda request: setattr(request, "k", 10_000),
        "k = 10,000 with attributes": lambda request: request.MergeFrom(
            v1.RecommendRequest(k=10_000, return_attributes=["share"])
        ),
        "k = 10,000 with embeddings": lambda request: request.MergeFrom(
            v1.RecommendRequest(k=10_000, include_embeddings=True)
        ),
        "10,000 exclusions by id": lambda request: request.exclude_item_ids.extend(ids),
        "10,000 exclusions by key": lambda request: request.exclude_item_keys.extend(keys),
        "filter of 0.5": lambda request: below(request, 0.5),
        "filter of 0.1": lambda request: below(request, 0.1),
        "filter of 0.00001": lambda request: below(request, 0.00001),
        "filter of 64 times 1,000 numbers": any_of,
        "k = 10,000, exclusions, filter, attributes": everything,
    }


def _quantiles(ticks_ms: list[tuple[float, float]]) -> list[str]:
    late, worked = np.array(ticks_ms).T
    return [f"{figure:.1f}" for figure in (*np.quantile(late, (0.5, 0.99, 1.0)), worked.max())]


@contextmanager
def start_worker(release: Path) -> Iterator[Worker]:
    command = [sys.executable, "-m", "bench.search_blocking", "--serve", str(release)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())
        yield Worker(process, f"localhost:{port}")
        process.stdin.close()


async def _serve(release: Path) -> None:
    """Prints the port; then, for every line of standard input, what the timer saw since the line before."""
    snapshot = Snapshot.open(release)
    engine = Engine(Releases({snapshot.release: snapshot}, snapshot.release), Limits())
    server = RpcServer({"TwoTowerService": TwoTowerServicer(engine)}, engine.limits)
    print(await server.start("localhost:0"), flush=True)
    gc.collect()
    gc.freeze()  # as a worker does
    loop = asyncio.get_running_loop()
    ticks_ms: list[tuple[float, float]] = []

    def tick(due: float, worked: float) -> None:
        now, working = time.perf_counter(), time.thread_time()
        ticks_ms.append(((now - due) * 1e3, (working - worked) * 1e3))
        loop.call_later(_TICK_S, tick, now + _TICK_S, working)

    tick(time.perf_counter(), time.thread_time())
    while await asyncio.to_thread(sys.stdin.readline):
        # Not this answer's own time.
        seen, ticks_ms[:] = ticks_ms[:], []
        print(await asyncio.to_thread(json.dumps, seen), flush=True)
        ticks_ms.clear()
    await server.stop(0)
    engine.close()


if __name__ == "__main__":
    sys.exit(main())

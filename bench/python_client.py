"""The asyncio client's calls that leave together, beside single calls: `python -m bench.python_client`.

Tasks of one client, in one process, make one call after another to a server of one worker on this machine. The two
kinds take turns within every round; figures are the median (least … greatest) of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path

from tests.supervisor.running import Server

import twotower
from bench.dataset import ensure_release, users
from bench.run import FOLDER
from twotower_server.cli.progress import ProgressBars

CALLERS = (1, 8, 64, 512)
CANDIDATES = [f"i{i}" for i in range(500)]
USERS = [twotower.user(f"u{i}", features) for i, features in enumerate(users(1_000))]

Call = Callable[[twotower.AsyncClient, int], Awaitable[object]]
CALLS: dict[str, Call] = {
    "get_user_embedding": lambda client, i: client.get_user_embedding(USERS[i % len(USERS)]),
    "score of 500": lambda client, i: client.score(USERS[i % len(USERS)], CANDIDATES),
}


async def rate(client: twotower.AsyncClient, call: Call, callers: int, seconds: float) -> float:
    """Calls a second, in `seconds` of as many tasks."""
    numbers = count()
    end = time.perf_counter() + seconds

    async def ask() -> int:
        done = 0
        while time.perf_counter() < end:
            await call(client, next(numbers))
            done += 1
        return done

    begun = time.perf_counter()
    done = await asyncio.gather(*(ask() for _ in range(callers)))
    return sum(done) / (time.perf_counter() - begun)


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} … {max(values):{form}})"


async def compare(target: str, rounds: int, seconds: float) -> None:
    async with (
        twotower.AsyncClient(target, timeout_s=60) as together,
        twotower.AsyncClient(target, timeout_s=60, coalescing=False) as single,
    ):
        for name, call in CALLS.items():
            for callers in CALLERS:
                single_s, together_s = [], []
                for _ in range(rounds):
                    single_s.append(await rate(single, call, callers, seconds))
                    together_s.append(await rate(together, call, callers, seconds))
                ratios = [many / one for one, many in zip(single_s, together_s, strict=True)]
                print(
                    f"{name}, {callers} callers: single {spread(single_s, ',.0f')}/s,"
                    f" together {spread(together_s, ',.0f')}/s, ratio {spread(ratios, '.2f')}",
                    flush=True,
                )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="of each turn (default: %(default)s)")
    args = parser.parse_args()
    with ProgressBars() as bars:
        # A folder of its own: other benchmarks make other releases active.
        releases = ensure_release(FOLDER / "python_client", args.items, bars)
    with tempfile.TemporaryDirectory(dir=FOLDER) as data:
        command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(releases), "--listen", "localhost:0"]
        server = Server([*command, "--data", data, "--workers", "1"], Path(data, "log"), {})
        try:
            target = str(server.ready()["target"])
            print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {args.rounds} rounds", flush=True)
            asyncio.run(compare(target, args.rounds, args.seconds))
            print(f"load {os.getloadavg()[0]:.1f}")
        finally:
            server.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

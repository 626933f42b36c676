"""What callers notice when something befalls the Redis of the servers: `python -m bench.redis_faults`.

A real server of two workers. ghz calls GetUserEmbedding and Score at a fixed rate that leaves it time to breathe,
without waiting for answers, for users whom the cache does not know at first: every call looks into Redis. In the
middle of each run a fault begins, lasts for some seconds and ends, while calls go on. The p99 of calls sent during and
after it are compared with that of calls sent before it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tests.catalog.redis.entries import LOG
from tests.redis.faults import ADMIN, FAULTS, LOGINS, SLOWNESS, USER, Fault, failing_over
from tests.redis.running import RedisCluster, RedisServer
from tests.redis.slowing import Slowing

from bench.dataset import ensure_release, users
from bench.load import write_requests
from bench.run import FOLDER, ROOT
from bench.server import SERVICE
from twotower import v1
from twotower_server.cli.progress import ProgressBars

RATE = 200  # calls a second of each RPC
CANDIDATES = 100
PHASES = ("before", "during", "after")
_WARM_UP_S = 2.0
_RPCS = ("GetUserEmbedding", "Score")


@dataclass(slots=True)
class Run:
    """Calls of one run, by phase. p99_ms: of the time of a call. failed: messages of those that failed."""

    calls: dict[str, int]
    p99_ms: dict[str, float]
    failed: list[str]

    def ratio(self, phase: str) -> float:
        return self.p99_ms[phase] / self.p99_ms["before"]


@dataclass(slots=True)
class Setting:
    """A server, and the faults of the Redis that it uses."""

    target: str
    folder: Path
    faults: Mapping[str, Fault]
    runs: dict[str, list[Run]] = field(default_factory=dict)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.redis_faults", description=__doc__)
    parser.add_argument("--items", type=int, default=100_000, metavar="N", help="catalog (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of each fault (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each phase (default: %(default)s)")
    parser.add_argument("--faults", nargs="+", metavar="FAULT", help="only these (default: all)")
    args = parser.parse_args()
    with ProgressBars() as bars:
        release = ensure_release(FOLDER, args.items, bars) / f"bench-{args.items}"
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as started:
        settings = [started.enter_context(setting) for setting in _settings(release, Path(temporary))]
        number = 0
        for _ in range(args.rounds):
            for setting in settings:
                for name, fault in setting.faults.items():
                    if not args.faults or name in args.faults:
                        number += 1
                        run = measure(setting, fault, f"run-{number}", args.items, args.seconds)
                        setting.runs.setdefault(name, []).append(run)
                        print(f"{name}: {run}", file=sys.stderr)
        show(settings, args.seconds)
    return 0


def measure(setting: Setting, fault: Fault, name: str, items: int, seconds: float) -> Run:
    """Calls before, during and after a fault, for so many seconds each. name: of users whom nobody knows yet."""
    total_s = _WARM_UP_S + len(PHASES) * seconds
    for rpc, requests in _requests(name, items, int(1.2 * RATE * total_s)).items():
        write_requests(setting.folder / f"{rpc}.ghz", requests)
    with ThreadPoolExecutor(len(_RPCS)) as threads:
        start = time.time()
        calling = [threads.submit(call, setting, rpc, total_s) for rpc in _RPCS]
        time.sleep(_WARM_UP_S + seconds)
        begun = time.time()
        fault.begin()
        time.sleep(seconds)
        fault.end()
        ended = time.time()
        details = [detail for one in calling for detail in one.result()]
    sent_s, latency_ms = np.array([_times(detail) for detail in details]).T
    bounds = {"before": (start + _WARM_UP_S, begun), "during": (begun, ended), "after": (ended, np.inf)}
    found = {phase: latency_ms[(low <= sent_s) & (sent_s < high)] for phase, (low, high) in bounds.items()}
    return Run(
        {phase: len(latencies) for phase, latencies in found.items()},
        {phase: float(np.percentile(latencies, 99)) for phase, latencies in found.items()},
        [detail["error"] for detail in details if detail["status"] != "OK"],
    )


def call(setting: Setting, rpc: str, seconds: float) -> list[dict[str, Any]]:
    """Calls at `RATE`; what ghz tells of every call."""
    command = [os.environ.get("GHZ", "ghz"), "--insecure", "--protoset", str(setting.folder / "twotower.binpb")]
    command += ["--call", f"{SERVICE}.{rpc}", "--binary-file", str(setting.folder / f"{rpc}.ghz")]
    command += ["--async", "--rps", str(RATE), "--concurrency", "8", "--connections", "8"]
    command += ["--duration", f"{seconds}s", "--duration-stop", "wait", "--format", "json", setting.target]
    # Else its own collections of garbage, of about 30 ms, would be seen as those of the server.
    environ = {**os.environ, "GOGC": "off"}
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environ).stdout)
    details: list[dict[str, Any]] = done["details"]
    return details


def _times(detail: Mapping[str, Any]) -> tuple[float, float]:
    """When a call was sent, seconds since 1970, and how long it took, ms."""
    latency_s = detail["latency"] / 1e9
    return datetime.fromisoformat(detail["timestamp"]).timestamp() - latency_s, latency_s * 1e3


def _requests(name: str, items: int, count: int) -> dict[str, Sequence[Any]]:
    """Requests for the same users of both RPCs, so that the one finds what the other has written."""
    random = np.random.default_rng(1)
    known = users(1_000)
    found = [v1.User(user_id=f"{name}-{i}", features=known[i % len(known)]) for i in range(count)]
    ids = [[f"item-{row}" for row in random.integers(0, items, CANDIDATES)] for _ in range(100)]
    return {
        "GetUserEmbedding": [v1.GetUserEmbeddingRequest(user=user) for user in found],
        "Score": [v1.ScoreRequest(user=user, item_ids=ids[i % len(ids)]) for i, user in enumerate(found)],
    }


# ---- servers


def _settings(release: Path, folder: Path) -> Iterator[Any]:
    yield _standalone(release, folder / "standalone")
    yield _slow(release, folder / "slow")
    yield _cluster(release, folder / "cluster")


@contextmanager
def _standalone(release: Path, folder: Path) -> Iterator[Setting]:
    redis = RedisServer(folder / "redis", *LOGINS, user=ADMIN)
    try:
        with _serving(release, folder, f"redis://{USER}@127.0.0.1:{redis.port}") as target:
            yield Setting(target, folder, {name: fault(redis) for name, fault in FAULTS.items()})
    finally:
        redis.close()


@contextmanager
def _slow(release: Path, folder: Path) -> Iterator[Setting]:
    redis = RedisServer(folder / "redis")
    try:
        with Slowing(redis.port) as way, _serving(release, folder, way.url) as target:
            yield Setting(target, folder, {name: fault(way) for name, fault in SLOWNESS.items()})
    finally:
        redis.close()


@contextmanager
def _cluster(release: Path, folder: Path) -> Iterator[Setting]:
    cluster = RedisCluster(folder / "redis")
    try:
        with _serving(release, folder, cluster.nodes[1].url) as target:
            yield Setting(target, folder, {"primary fails over": failing_over(cluster, LOG)})
    finally:
        cluster.close()


@contextmanager
def _serving(release: Path, folder: Path, url: str) -> Iterator[str]:
    """`twotower serve` with two workers; its target."""
    releases = folder / "releases"
    releases.mkdir()
    (releases / release.name).symlink_to(release)
    (releases / "active").write_text(f"{release.name}\n")
    command = [sys.executable, "-m", "twotower_server.cli.main", "serve", "--releases", str(releases)]
    command += ["--data", str(folder / "data"), "--listen", "localhost:0", "--workers", "2", "--log-level", "error"]
    command += ["--user-cache", "ttl", "--user-cache-redis", "--change-log", "redis", "--redis", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["target"]
        finally:
            process.terminate()


# ---- the table


def show(settings: Sequence[Setting], seconds: float) -> None:
    title = f"{len(_RPCS) * RATE} calls/s; p99 in ms; a fault lasts {seconds:g} s"
    table = Table(title=title, title_justify="left")
    for column in ("Redis", "calls", "failed", *PHASES, "during ÷ before", "after ÷ before"):
        table.add_column(column, justify="left" if column == "Redis" else "right")
    for setting in settings:
        for name, runs in setting.runs.items():
            calls = sum(sum(run.calls.values()) for run in runs)
            failed = sum(len(run.failed) for run in runs)
            p99s = [_spread([run.p99_ms[phase] for run in runs]) for phase in PHASES]
            ratios = [_spread([run.ratio(phase) for run in runs]) for phase in PHASES[1:]]
            table.add_row(name, f"{calls:,}", str(failed), *p99s, *ratios)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _spread(figures: Sequence[float]) -> str:
    return f"{statistics.median(figures):.1f} ({min(figures):.1f} … {max(figures):.1f})"


if __name__ == "__main__":
    sys.exit(main())

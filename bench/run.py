"""Measures the server as ratios within one run: `make bench`.

Every figure compares the service with an echo of the same bytes in the same process, on warm connections, with the
load generator (ghz) in a process of its own. Rounds are interleaved, so that a busy machine harms both alike; the
table shows the median of the rounds, and their least and greatest.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench import load
from bench.dataset import ensure_release, users
from twotower import v1
from twotower_server.cli.progress import ProgressBars
from twotower_server.features.schema import Schema
from twotower_server.items.ids import item_keys
from twotower_server.release.snapshot import Snapshot
from twotower_server.supervisor.process import ENVIRONMENT

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".twotower" / "bench"
BATCH = 64
CANDIDATES = 500
K = 100
_SAMPLES = 64  # different requests of a case, sent in turn
# Faiss replaces constructors when it is imported; its type information shows the old ones.
_SearchParametersIVF: Any = faiss.SearchParametersIVF
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Case:
    """One kind of request, to the service or to the echo.

    concurrency: calls in flight. calls_s, latency_ms, cpu_us: one a round: calls a second, median latency, CPU time of
    the server a call.
    """

    name: str
    rpc: str
    requests: Path
    concurrency: int
    echo: bool
    calls_s: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def forget(self) -> None:
        for figures in (self.calls_s, self.latency_ms, self.cpu_us):
            figures.clear()


@dataclass(slots=True)
class Server:
    """The process that serves and echoes."""

    pid: int
    service: int
    echo: int

    def cpu_s(self) -> float:
        """CPU time that the process has used."""
        numbers = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(numbers[11]) + int(numbers[12])) / _TICKS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description="Measures the server, as ratios.")
    parser.add_argument("--items", type=int, default=1_000_000, metavar="N", help="catalog (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one case in one round (default: %(default)s)")
    args = parser.parse_args()
    with ProgressBars() as bars:
        release = ensure_release(FOLDER, args.items, bars) / f"bench-{args.items}"
    opened_s = [_open_s(release) for _ in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        fingerprint = Schema.load(release / "schema.json").user.fingerprint
        cases = write_requests(Path(folder), args.items, fingerprint)
        with start_server(release, Path(folder)) as server:
            faiss_ms, recall = measure(server, cases, args.rounds, args.seconds, release)
    show(cases, faiss_ms, recall, opened_s, args.items)
    return 0


def write_requests(folder: Path, items: int, fingerprint: int) -> list[Case]:
    """Writes the requests of every case, and one of each for the echo to answer. Returns the cases.

    fingerprint: of the release's user schema.
    """
    random = np.random.default_rng(1)
    rows = [v1.User(user_id=f"u{i}", features=features) for i, features in enumerate(users(_SAMPLES + BATCH))]
    ids = [[f"item-{row}" for row in random.integers(0, items, CANDIDATES)] for _ in range(_SAMPLES)]
    samples = range(_SAMPLES)
    batches = {
        name: [v1.BatchGetUserEmbeddingsRequest(users=users[i : i + BATCH], encoding=encoding) for i in samples]
        for name, users, encoding in (
            ("list", rows, v1.EMBEDDING_ENCODING_LIST),
            ("matrix", rows, v1.EMBEDDING_ENCODING_MATRIX),
            ("dense", [_dense(user, fingerprint) for user in rows], v1.EMBEDDING_ENCODING_MATRIX),
        )
    }
    requests: dict[str, Sequence[Message]] = {
        "GetUserEmbedding.named": [v1.GetUserEmbeddingRequest(user=rows[i]) for i in samples],
        "BatchGetUserEmbeddings.list": batches["list"],
        "BatchGetUserEmbeddings.matrix": batches["matrix"],
        "BatchGetUserEmbeddings.dense": batches["dense"],
        "Score.ids": [v1.ScoreRequest(user=rows[i], item_ids=ids[i]) for i in samples],
        "Score.keys": [v1.ScoreRequest(user=rows[i], item_keys=item_keys(ids[i]).tolist()) for i in samples],
        "Recommend.top": [v1.RecommendRequest(user=rows[i], k=K) for i in samples],
    }
    cases = []
    for name, messages in requests.items():
        rpc = name.partition(".")[0]
        (folder / f"{name}.bin").write_bytes(messages[0].SerializeToString())
        file = folder / f"{name}.ghz"
        load.write_requests(file, messages)
        # One search occupies a core: more in flight would measure the queue.
        concurrency = 1 if rpc == "Recommend" else 16
        cases += [Case(name, rpc, file, concurrency, echo) for echo in (True, False)]
    return cases


def measure(
    server: Server, cases: list[Case], rounds: int, seconds: float, release: Path
) -> tuple[list[float], float | None]:
    """Runs every case in every round. Returns the bare Faiss search, ms a round, and the recall of the service."""
    snapshot = Snapshot.open(release)
    queries = _queries(snapshot)
    for case in cases:
        _run(server, case, seconds / 2)  # warms up
        case.forget()
    faiss_ms = []
    for _ in range(rounds):
        for case in cases:
            _run(server, case, seconds)
        faiss_ms.append(_bare_faiss_ms(snapshot, queries))
    return faiss_ms, snapshot.manifest.index.recall


def _run(server: Server, case: Case, seconds: float) -> None:
    before = server.cpu_s()
    port = server.echo if case.echo else server.service
    done = load.call(f"localhost:{port}", case.rpc, case.requests, concurrency=case.concurrency, seconds=seconds)
    cpu_s = server.cpu_s() - before
    case.calls_s.append(done.calls_s)
    case.latency_ms.append(done.p50_ms)
    case.cpu_us.append(cpu_s / done.calls * 1e6)


@contextmanager
def start_server(release: Path, requests: Path) -> Iterator[Server]:
    command = [sys.executable, "-m", "bench.server", str(release), str(requests)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ports = json.loads(process.stdout.readline())
        yield Server(process.pid, ports["service"], ports["echo"])
        process.stdin.close()


def show(cases: list[Case], faiss_ms: list[float], recall: float | None, opened_s: list[float], items: int) -> None:
    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table(title=f"{items:,} items of 64 dimensions, one worker", title_justify="left")
    for column in ("case", "in flight", "calls/s", "p50 ms", "server CPU µs a call"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for case in cases:
        name = f"{case.name}{' (echo)' if case.echo else ''}"
        figures = (_spread(case.calls_s, "{:,.0f}"), _spread(case.latency_ms, "{:.2f}"), _spread(case.cpu_us, "{:.0f}"))
        table.add_row(name, str(case.concurrency), *figures)
    console.print(table)
    by_name = {(case.name, case.echo): case for case in cases}

    def ratio(of: list[float], to: list[float], factor: float = 1.0) -> list[float]:
        return [factor * one / other for one, other in zip(of, to, strict=True)]

    single = by_name["GetUserEmbedding.named", False]
    goals = [("GetUserEmbedding: calls/s ÷ echo", "≥ 0.75", ratio(single.calls_s, by_name[single.name, True].calls_s))]
    for name in ("list", "matrix", "dense"):
        batch = by_name[f"BatchGetUserEmbeddings.{name}", False]
        goals.append((f"a batch of 64 ({name}): users/s ÷ single", "≥ 15", ratio(batch.calls_s, single.calls_s, BATCH)))
    for name, goal in (("ids", "≤ 2.5"), ("keys", "≤ 1.8")):
        case, echo = by_name[f"Score.{name}", False], by_name[f"Score.{name}", True]
        goals.append((f"Score of 500 by {name}: time ÷ echo", goal, ratio(echo.calls_s, case.calls_s)))
    top, echo = by_name["Recommend.top", False], by_name["Recommend.top", True]
    beyond = [(one - other) for one, other in zip(top.latency_ms, echo.latency_ms, strict=True)]
    goals.append((f"Recommend {K}: (time - echo) ÷ bare Faiss", "≤ 1.5", ratio(beyond, faiss_ms)))
    table = Table()
    for column in ("ratio", "goal", "measured"):
        table.add_column(column, justify="left" if column == "ratio" else "right")
    for name, goal, found in goals:
        table.add_row(name, goal, _spread(found, "{:.2f}"))
    table.add_row(f"recall@{K} of the index", "≥ 0.95", "not measured" if recall is None else f"{recall:.3f}")
    table.add_row("bare Faiss search, ms", "", _spread(faiss_ms, "{:.2f}"))
    table.add_row("opening the verified release, s", "< 2", _spread(opened_s, "{:.2f}"))
    console.print(table)


def _spread(figures: list[float], format: str) -> str:
    median = format.format(statistics.median(figures))
    return f"{median} ({format.format(min(figures))} … {format.format(max(figures))})"


def _queries(snapshot: Snapshot) -> NDArray[np.float32]:
    rows = [v1.User(features=features) for features in users(200, seed=8)]
    return snapshot.embed_users(snapshot.user_encoder.encode(rows))


def _bare_faiss_ms(snapshot: Snapshot, queries: NDArray[np.float32]) -> float:
    """Median time of what Faiss alone takes, with the parameters that reach the recorded recall."""
    index = faiss.read_index(str(FOLDER / "releases" / snapshot.release / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
    probes = snapshot.manifest.index.parameters.get("probes")
    parameters = None if probes is None else _SearchParametersIVF(nprobe=probes)
    times = []
    for query in queries:
        start = time.perf_counter()
        index.search(query[None], K, params=parameters)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def _open_s(release: Path) -> float:
    """Seconds to open a verified release in a fresh process, imports apart."""
    program = (
        "import sys, time; from pathlib import Path; from twotower_server.release.snapshot import Snapshot; "
        "start = time.perf_counter(); Snapshot.open(Path(sys.argv[1])); print(time.perf_counter() - start)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(release)], check=True, capture_output=True, text=True)
    return float(done.stdout)


def _dense(user: v1.User, fingerprint: int) -> v1.User:
    """The same user with `dense_features` in place of names."""
    values = [user.features[name] for name in sorted(user.features)]
    return v1.User(user_id=user.user_id, dense_features=values, schema_fingerprint=fingerprint)


if __name__ == "__main__":
    sys.exit(main())

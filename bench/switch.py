"""What a switch of releases costs those who call meanwhile, and in memory: `python -m bench.switch`.

A real server of two workers; ghz calls it at a rate that leaves it time to breathe. Rounds alternate: one in peace, one
while the other release is verified, loaded, activated, and the one before it closed. The p99 of both are compared.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import twotower
from bench.dataset import ensure_release
from bench.run import FOLDER, ROOT, write_requests
from bench.server import SERVICE
from twotower_server.cli.progress import ProgressBars
from twotower_server.features.schema import Schema
from twotower_server.release.format import Manifest

RATE = 400  # calls a second
SWITCHES = 10
_REQUESTS = "GetUserEmbedding.named"
LOADED = twotower.ReleaseState.LOADED


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, and its own folder on this machine."""

    target: str
    pid: int
    data: Path

    def workers(self) -> list[int]:
        """Process ids of the workers, the verifier left out."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"run_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def anonymous_mib(self) -> list[float]:
        """Memory of each worker that no file stands behind."""
        os.sync()
        found = []
        for pid in self.workers():
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            found.append(int(rollup.partition("Anonymous:")[2].split()[0]) / 1024)
        return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.switch", description="Measures switches of releases.")
    parser.add_argument("--items", type=int, default=1_000_000, metavar="N", help="catalog (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of each kind (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of one round (default: %(default)s)")
    args = parser.parse_args()
    with ProgressBars() as bars:
        releases = ensure_release(FOLDER, args.items, bars)
    first, second = f"bench-{args.items}", f"again-{args.items}"
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder, "releases")
        own.mkdir()
        _copy(releases / first, own / first)
        _copy(releases / first, own / second)
        (own / "active").write_text(f"{first}\n")
        fingerprint = Schema.load(releases / first / "schema.json").user.fingerprint
        write_requests(Path(folder), args.items, fingerprint)
        with start_server(own, Path(folder)) as server, twotower.Client(server.target, timeout_s=120) as client:
            measure(server, client, Path(folder), (first, second), args.rounds, args.seconds)
    return 0


def measure(
    server: Server, client: twotower.Client, folder: Path, names: tuple[str, str], rounds: int, seconds: float
) -> None:
    load(server, folder, seconds / 2)  # warms up
    peace_ms: list[float] = []
    switch_ms: list[float] = []
    switches = 0
    before_mib = server.anonymous_mib()
    for _ in range(rounds):
        peace_ms.append(load(server, folder, seconds))
        done = threading.Event()
        switching = threading.Thread(target=_switch, args=(server, client, names[(switches + 1) % 2], done))
        switching.start()
        switch_ms.append(load(server, folder, seconds))
        done.wait()
        switching.join()
        switches += 1
    while switches < SWITCHES:
        _switch(server, client, names[(switches + 1) % 2], threading.Event())
        switches += 1
    load(server, folder, seconds / 2)
    after_mib = server.anonymous_mib()
    table = Table()
    for column in ("", "goal", "measured"):
        table.add_column(column, justify="left" if not column else "right")
    ratios = [during / peace for during, peace in zip(switch_ms, peace_ms, strict=True)]
    table.add_row("p99 in peace, ms", "", spread(peace_ms))
    table.add_row("p99 while verified, loaded, switched, ms", "", spread(switch_ms))
    table.add_row("ratio", "≤ 2", spread(ratios))
    table.add_row(f"Anonymous, MiB, before → after {switches} switches", "", _both(before_mib, after_mib))
    growth = max(after / before for before, after in zip(before_mib, after_mib, strict=True))
    table.add_row("greatest growth", "≤ 1.1", f"{growth:.2f}")
    table.add_row("a further worker, MiB", "< 80", f"{max(before_mib):.0f}")
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def load(server: Server, folder: Path, seconds: float, requests: str = _REQUESTS, rate: int = RATE) -> float:
    """Calls at a rate for some seconds; the p99 in ms. Ends the program when a call fails.

    requests: a case of `bench.run`, named for its RPC.
    """
    rpc = requests.partition(".")[0]
    command = [os.environ.get("GHZ", "ghz"), "--insecure", "--protoset", str(folder / "twotower.binpb")]
    command += ["--call", f"{SERVICE}.{rpc}", "--binary-file", str(folder / f"{requests}.ghz")]
    command += ["--rps", str(rate), "--concurrency", "16", "--connections", "16", "--duration", f"{seconds}s"]
    command += ["--duration-stop", "wait", "--format", "json", server.target]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if done["statusCodeDistribution"].keys() != {"OK"}:
        sys.exit(f"calls failed: {done['statusCodeDistribution']} {done['errorDistribution']}")
    return float(next(p["latency"] for p in done["latencyDistribution"] if p["percentage"] == 99)) / 1e6


def _switch(server: Server, client: twotower.Client, release: str, done: threading.Event) -> None:
    try:
        shutil.rmtree(server.data / "verified", ignore_errors=True)  # so that it is verified again
        client.releases.load(release, wait_s=100)
        before = client.releases.activate(release)
        while any(status.release == before and status.state is LOADED for status in client.releases.list()):
            time.sleep(0.05)
    finally:
        done.set()


@contextmanager
def start_server(releases: Path, folder: Path, *options: str, workers: int = 2) -> Iterator[Server]:
    """`twotower serve`, which keeps its data in `folder` and closes a release soon after another is active."""
    command = [sys.executable, "-m", "twotower_server.cli.main", "serve", "--releases", str(releases)]
    command += ["--data", str(folder / "data"), "--listen", "localhost:0"]
    command += ["--workers", str(workers), "--keep-s", "2", "--log-level", "warning", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield Server(json.loads(process.stdout.readline())["target"], process.pid, folder / "data")
        finally:
            process.terminate()


def _copy(release: Path, copy: Path) -> None:
    """The same release under another name."""
    shutil.copytree(release, copy)
    dataclasses.replace(Manifest.load(release), release=copy.name).dump(copy)


def _both(before: list[float], after: list[float]) -> str:
    return " … ".join(f"{one:.0f} → {other:.0f}" for one, other in zip(before, after, strict=True))


def spread(figures: list[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(figures):.2f} ({min(figures):.2f} … {max(figures):.2f})"


if __name__ == "__main__":
    sys.exit(main())

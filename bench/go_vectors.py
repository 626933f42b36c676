"""Scoring in Go, beside one RPC that scores on the server: `python -m bench.go_vectors`.

    .venv/bin/python -m bench.go_vectors --items 100000 --calls 2000

Runs the benchmarks of clients/go/vectors against a server of one worker, a standalone Redis and a Cluster of 3
primaries and 3 replicas, all on this machine. Dot and Score are of 500 items × 64 dimensions, Top is of the best 100.
Flow is the time of one call after another, of ways that take turns: `rpc`, one Score of 500 items; `redis`, `cluster`,
one GetUserEmbedding, the vectors of 500 items from there, and the dot products; `near`, the same with all vectors in
the near-cache; `embedding`, the first call alone. But for `embedding`, all end with the best 100.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.redis.running import RedisCluster, RedisServer
from tests.supervisor.running import Server

from bench.dataset import ensure_release
from bench.run import FOLDER, ROOT
from twotower_server.cli.progress import ProgressBars
from twotower_server.items.redis import RedisKeys, RedisStore
from twotower_server.release.push import ReleasePush


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--calls", type=int, default=2_000, metavar="N", help="of each way (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(default: %(default)s)")
    args = parser.parse_args()
    with ProgressBars() as bars:
        # A folder of its own: other benchmarks make other releases active.
        releases = ensure_release(FOLDER / "go_vectors", args.items, bars)
    with tempfile.TemporaryDirectory(dir=FOLDER) as temporary, ExitStack() as started:
        stores: list[RedisServer | RedisCluster] = []
        for redis_type in (RedisServer, RedisCluster):
            stores.append(redis_type(Path(temporary, redis_type.__name__)))
            started.callback(stores[-1].close)
            with RedisStore(stores[-1].url) as store, ProgressBars() as bars:
                ReleasePush(releases / f"bench-{args.items}", store, RedisKeys("twotower:")).run(bars, "none")
        command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(releases), "--listen", "localhost:0"]
        server = Server([*command, "--data", str(Path(temporary, "data"))], Path(temporary, "log"), {})
        started.callback(server.close)
        environ = {
            "TWOTOWER_TEST_TARGET": str(server.ready()["target"]),
            "TWOTOWER_TEST_REDIS": stores[0].url,
            "TWOTOWER_TEST_REDIS_CLUSTER": stores[1].url,
        }
        go, folder = os.environ.get("GO", "go"), ROOT / "clients" / "go" / "vectors"
        for bench, times in (("Dot|Score|Top", "1s"), ("Flow", f"{args.calls}x")):
            subprocess.run(
                [go, "test", "-run", "^$", "-bench", bench, "-benchtime", times, "-count", str(args.rounds), "."],
                cwd=folder,
                env={**os.environ, **environ},
                check=True,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

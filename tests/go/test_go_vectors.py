"""The Go package `vectors`, against a real Redis, a real Cluster and a real server, filled by `twotower items push`."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.go.conftest import MODULE
from tests.redis.fixtures import StartRedis
from tests.redis.running import RedisCluster, RedisServer
from tests.supervisor.running import Server
from twotower_server.cli.exit_code import ExitCode

VECTORS = MODULE / "vectors"


@dataclass(frozen=True, slots=True)
class Filled:
    """A server of the releases `dot` (active) and `cosine`, which caches users, and what has their vectors."""

    target: str
    redis: RedisServer
    cluster: RedisCluster

    @property
    def environ(self) -> dict[str, str]:
        """As the Go tests read it."""
        return {
            "TWOTOWER_TEST_TARGET": self.target,
            "TWOTOWER_TEST_REDIS": self.redis.url,
            "TWOTOWER_TEST_REDIS_CLUSTER": self.cluster.url,
        }


@pytest.fixture
def filled(
    releases: Path,
    tmp_path: Path,
    start_redis: StartRedis,
    redis_cluster: RedisCluster,
    run_twotower: Command,
) -> Iterator[Filled]:
    redis, own, data = start_redis(), tmp_path / "releases", tmp_path / "data"
    own.mkdir()
    for name in ("dot", "cosine"):
        (own / name).symlink_to(releases / name)
        for url in (redis.url, redis_cluster.url):
            pushed = run_twotower("items", "push", name, "--releases", own, "--data", data, "--redis", url)
            assert pushed[0] == ExitCode.OK, pushed
    (own / "active").write_text("dot\n")
    command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(own), "--data", str(data), "--workers", "2"]
    cache = ["--user-cache", "ttl", "--user-cache-redis", "--redis", redis.url]
    server = Server([*command, *cache, "--listen", "localhost:0"], tmp_path / "log", {})
    try:
        yield Filled(str(server.ready()["target"]), redis, redis_cluster)
    finally:
        server.close()


def test_the_go_package_passes_its_tests_against_real_servers(go: str, filled: Filled) -> None:
    done = subprocess.run(
        [go, "test", "-count=1", "-v", "./..."],
        cwd=VECTORS,
        env={**os.environ, **filled.environ},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
    assert not re.findall(r"^ *--- SKIP", done.stdout, re.MULTILINE)
    assert len(re.findall(r"^--- PASS", done.stdout, re.MULTILINE)) > 20

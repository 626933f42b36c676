"""The Go package `vectors` and its document, against a real server, and a real Redis and Cluster that a push filled."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.conftest import Command
from tests.go.conftest import MODULE
from tests.redis.fixtures import StartRedis
from tests.redis.running import RedisCluster, RedisServer
from tests.supervisor.running import Server
from twotower_server.cli.exit_code import ExitCode

VECTORS = MODULE / "vectors"
DOCUMENT = MODULE.parents[1] / "docs" / "go-vectors.md"
TEXT = DOCUMENT.read_text("utf-8")
EXAMPLES = [(match.start(1), match[1]) for match in re.finditer(r"^```go\n(.*?)^```$", TEXT, re.M | re.S)]

# What the text says that the examples stand in. Each sees what those before it have made.
PROGRAM = """package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/twotower/twotower/clients/go/twotower"
	"github.com/twotower/twotower/clients/go/vectors"
)

func main() {{
	ctx := context.Background()
	client, err := twotower.Dial(ctx, "{target}", twotower.WithTimeout(time.Minute))
	if err != nil {{
		log.Fatal(err)
	}}
	user := &twotower.User{{ID: "u1", Features: map[string]float64{{"age": 34}}}}
	itemIDs := []string{{"i1", "gone", "i2", "i3"}}
	if err := func() error {{
{examples}
		return nil
	}}(); err != nil {{
		log.Fatal(err)
	}}
}}
"""


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
    done = _run(go, "test", "-count=1", "-v", "./...", folder=VECTORS, environ=filled.environ)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
    assert not re.findall(r"^ *--- SKIP", done.stdout, re.MULTILINE)
    assert len(re.findall(r"^--- PASS", done.stdout, re.MULTILINE)) > 20


def test_every_example_runs(go: str, filled: Filled, tmp_path: Path) -> None:
    examples = ""
    for start, example in EXAMPLES:
        # The compiler's lines are then those of the document.
        examples += f"{{\n//line {DOCUMENT.name}:{TEXT.count(chr(10), 0, start) + 1}\n{example}\n"
    examples += "}" * len(EXAMPLES)
    examples = examples.replace("50 * time.Millisecond", "time.Minute")  # on a busy machine
    for named, url in (("localhost:6379", filled.redis.url), ("localhost:7000", filled.cluster.url)):
        examples = examples.replace(named, url.removeprefix("redis://"))
    (tmp_path / "main.go").write_text(PROGRAM.format(target=filled.target, examples=examples), "utf-8")
    built = _run(go, "build", "-o", str(tmp_path / "program"), str(tmp_path / "main.go"), folder=VECTORS)
    assert built.returncode == 0, built.stderr
    done = _run(str(tmp_path / "program"), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    best, (scored, compared, active) = lines[:3], (lines[3], lines[4:-1], lines[-1])
    assert {line.split()[0] for line in best} == {"i1", "i2", "i3"}
    assert scored == "4 1"
    # `Items` and `Dot` are another way to the same scores.
    shown = sorted(tuple(map(float, line.split()[1:])) for line in compared)
    assert shown == sorted(tuple(map(float, reversed(line.split()[1:]))) for line in best)
    assert active == " false"


def test_the_document_shows_every_function_and_option() -> None:
    shown = "".join(example for _, example in EXAMPLES)
    for path in VECTORS.glob("*.go"):
        if path.name.endswith("_test.go"):
            continue
        source = path.read_text("utf-8")
        for name in re.findall(r"^func \(\w+ \*?(?:Reader|Scorer|Calibration)\) ([A-Z]\w*)\(", source, re.MULTILINE):
            assert f".{name}(" in shown or f".{name}(" in TEXT, name
        for name in re.findall(r"^func (With\w+)\(", source, re.MULTILINE):
            assert name in TEXT, name


def _run(
    *command: str, folder: Path, environ: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **environ}, capture_output=True, text=True, timeout=600, check=False
    )

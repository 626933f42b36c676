"""`twotower users refresh`: a table of users becomes cached vectors; the real Redis."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.cache.conftest import StartServer
from tests.cache.test_redis import AGES, PATIENT, embed_all, is_right
from tests.cache.test_user_cache import CACHE, OTHER, embed, is_of
from tests.redis.fixtures import StartRedis
from tests.redis.running import LOGIN, RedisCluster, RedisServer
from tests.rpc.recomputed import Features, Recomputed
from twotower_server.cli.exit_code import ExitCode
from twotower_server.cli.main import main

Refresh = Callable[..., tuple[int, str, str]]


@pytest.fixture
def refresh(
    releases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refresh:
    """Runs `twotower users refresh` on a table, for the release `dot`: exit code, standard output, standard error."""
    monkeypatch.setenv("TWOTOWER_RELEASES", str(releases))
    monkeypatch.setenv("TWOTOWER_DATA", str(tmp_path / "verified"))

    def run(table: pa.Table | Path, *options: str) -> tuple[int, str, str]:
        path = table if isinstance(table, Path) else tmp_path / "users.parquet"
        if isinstance(table, pa.Table):
            pq.write_table(table, path)
        code = main(["users", "refresh", str(path), "--release", "dot", *options])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def aged() -> pa.Table:
    """Users of every age, as `embed_all` asks for them."""
    return pa.table({"user_id": [f"aged {age}" for age in AGES], "user_age": AGES})


def test_servers_find_the_vectors(
    refresh: Refresh, start_server: StartServer, redis_server: RedisServer, dot: Recomputed, aged: pa.Table
) -> None:
    code, out, err = refresh(aged, "--redis", redis_server.url, "--user-cache-ttl-s", "86400")
    assert code == ExitCode.OK, err
    assert out == (
        f"Redis at 127.0.0.1:{redis_server.port} has 100 vectors of users of dot for 86,400 s; "
        "0 users are not to be cached, 0 cannot be embedded\n"
    )
    assert redis_server.client.dbsize() == len(AGES)
    for age in AGES:
        key = f"twotower:user_emb:dot:-:aged {age}"
        assert is_of(np.frombuffer(redis_server.client.get(key), "<f4"), dot.user({"user_age": age}))
        assert 0 < redis_server.client.pttl(key) <= 86_400_000
    own = start_server(*PATIENT, "--redis", redis_server.url, "--user-cache-ttl-s", "86400")
    got = embed_all(own)
    assert set(got.sources) == {CACHE} and is_right(got, dot)
    assert max(got.ages_ms) < 86_400_000 / 2


def test_what_becomes_of_each_row(
    refresh: Refresh, start_server: StartServer, redis_server: RedisServer, dot: Recomputed
) -> None:
    rows: list[dict[str, Any]] = [
        {"user_id": "a:b", "user_age": 31.0, "feature_version": "7"},
        {"user_id": "a:b", "user_age": 44.0},
        {"user_id": "c", "user_tags": ["x", "y"], "user_gender": "f"},
        {"user_id": "d", "user_age": 31.0, "feature_version": "a:b"},  # not to be cached, as the next three
        {"user_id": "e", "user_age": 31.0, "user_hour": 3.0},
        {"user_id": "", "user_age": 31.0},
        {"user_age": 31.0},
        {"user_id": "f"},
    ]
    columns = ("user_id", "feature_version", "user_age", "user_hour", "user_gender", "user_tags")
    table = pa.table({name: [row.get(name) for row in rows] for name in columns})
    options = ("--redis", redis_server.url, "--redis-prefix", "shop:", "--user-cache-real-time", "user_hour")
    code, out, err = refresh(table, *options, "--json")
    assert code == ExitCode.OK, err
    told = json.loads(out)
    reason = told.pop("reason")
    assert told == {"release": "dot", "written": 3, "uncached": 4, "refused": 1}
    assert reason == "row 8: the user has no features; send at least one"
    assert set(redis_server.client.keys()) == {
        b"shop:user_emb:dot:7:a:b",
        b"shop:user_emb:dot:-:a:b",
        b"shop:user_emb:dot:-:c",
    }
    own = start_server(*PATIENT, *options)
    expected: list[tuple[str, str, Features]] = [
        ("a:b", "7", {"user_age": 31.0}),
        ("a:b", "", {"user_age": 44.0}),
        ("c", "", {"user_tags": ["x", "y"], "user_gender": "f"}),
    ]
    for user_id, version, features in expected:
        got = embed(own, OTHER, user_id, feature_version=version)
        assert got.source == CACHE and is_of(got.embedding.values, dot.user(features))


def test_a_table_of_many_batches_replaces_what_is_there(
    refresh: Refresh, redis_server: RedisServer, dot: Recomputed, tmp_path: Path
) -> None:
    ages = [float(i % 90) for i in range(2_500)]
    table = pa.table({"user_id": list(range(2_500)), "user_age": ages})  # ids that are numbers
    pyarrow.csv.write_csv(table, tmp_path / "users.csv")
    redis_server.client.set("twotower:user_emb:dot:-:2499", b"old")
    code, _, err = refresh(tmp_path / "users.csv", "--redis", redis_server.url)
    assert code == ExitCode.OK, err
    assert redis_server.client.dbsize() == 2_500
    for i in (0, 999, 1_000, 2_499):
        values = np.frombuffer(redis_server.client.get(f"twotower:user_emb:dot:-:{i}"), "<f4")
        assert is_of(values, dot.user({"user_age": ages[i]}))
        assert 0 < redis_server.client.pttl(f"twotower:user_emb:dot:-:{i}") <= 600_000


def test_a_cluster(refresh: Refresh, redis_cluster: RedisCluster, aged: pa.Table) -> None:
    code, _, err = refresh(aged, "--redis", redis_cluster.url)
    assert code == ExitCode.OK, err
    assert sum(node.client.dbsize() for node in redis_cluster.nodes[:3]) == len(AGES)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"user_age": [1.0]}, "has no column user_id: it has user_age"),
        ({"user_id": ["a"]}, "has no column of a user feature"),
        ({"user_id": [["a"]], "user_age": [1.0]}, "the column user_id holds list<element: string>, not text"),
        (
            {"user_id": [""], "user_age": [1.0]},
            "0 cannot be embedded; of 1 no vector may be kept",
        ),
        ({"user_id": ["a"], "user_age": pa.array([None], pa.float64())}, "has no user to write: 1 cannot be embedded"),
    ],
)
def test_a_table_that_cannot_be_used(
    refresh: Refresh, redis_server: RedisServer, columns: dict[str, Any], said: str
) -> None:
    code, out, err = refresh(pa.table(columns), "--redis", redis_server.url)
    assert (code, out) == (ExitCode.RELEASE_REFUSED, "")
    assert said in err
    assert redis_server.client.dbsize() == 0


def test_redis_that_cannot_be_used(refresh: Refresh, start_redis: StartRedis, aged: pa.Table) -> None:
    code, _, err = refresh(aged)
    assert code == ExitCode.USAGE
    assert "no Redis is named: add --redis" in err
    strict = start_redis(*LOGIN, user="app:secret")
    code, _, err = refresh(aged, "--redis", f"redis://app:wrong@127.0.0.1:{strict.port}")
    assert code == 8
    assert "refuses the login" in err

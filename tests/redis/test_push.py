"""`twotower items` against the real Redis."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ITEMS
from tests.model_folder import item_table
from tests.redis.conftest import LARGE_ITEMS, Items, vectors_of
from tests.redis.fixtures import StartRedis
from tests.redis.running import APPEND_ALWAYS, LOGIN, RedisCluster, RedisServer
from tests.redis.stalling import Stalling
from tests.supervisor.running import PATIENCE_S, until
from twotower_server.cli.exit_code import ExitCode
from twotower_server.cli.main import main
from twotower_server.release.build import Recipe, build_release

# What docs/redis.md says that the user of a push needs.
RIGHTS = "+info +mset +mget +get +set +scan +expire +unlink"
CLUSTER_RIGHTS = "+command +cluster|slots"


def keys_of(client: Any, pattern: str = "*") -> set[bytes]:
    return set(client.scan_iter(pattern, count=1_000))


def answered(result: tuple[int, str, str]) -> Any:
    """The JSON document of a command that ended well."""
    code, out, err = result
    assert code == ExitCode.OK, err
    return json.loads(out)


def assert_holds(client: Any, beginning: bytes, release: Path) -> None:
    """Asserts that every vector of a release is there as the contract has it."""
    wanted = vectors_of(release)
    for item_id, vector in wanted.items():
        assert client.get(beginning + item_id) == vector.astype("<f4").tobytes()


# ---- what is written


@pytest.mark.parametrize("release", ["dot", "cosine"])
def test_keys_and_values_are_those_of_the_contract(
    items: Items, own: Path, redis_server: RedisServer, release: str
) -> None:
    code, out, err = items("push", release, "--redis", redis_server.url)
    assert code == ExitCode.OK, err
    assert out == (
        f"Redis at 127.0.0.1:{redis_server.port} has {ITEMS} vectors of {release}: "
        f"{ITEMS} written, 0 before, {ITEMS} compared, 0 repaired\n"
    )
    assert "writing vectors" in err, "progress"
    beginning = f"twotower:item_emb:{release}:".encode()
    assert_holds(redis_server.client, beginning, own / release)
    assert len(keys_of(redis_server.client)) == ITEMS + 1, "the vectors, and how far the push has come"
    if release == "cosine":
        found = [np.frombuffer(redis_server.client.get(key), "<f4") for key in keys_of(redis_server.client, "*_emb:*")]
        assert np.linalg.norm(found, axis=1) == pytest.approx(1.0, abs=1e-6)


def test_a_cluster_holds_the_same(items: Items, own: Path, redis_cluster: RedisCluster) -> None:
    pushed = answered(items("push", "dot", "--redis", redis_cluster.url, "--activate", "--json"))
    assert (pushed["items"], pushed["written"], pushed["compared"]) == (ITEMS, ITEMS, ITEMS)
    assert_holds(redis_cluster.client, b"twotower:item_emb:dot:", own / "dot")
    assert redis_cluster.client.get("twotower:active") == b"dot"
    sizes = [node.client.dbsize() for node in redis_cluster.nodes[:3]]
    assert all(size > ITEMS / 6 for size in sizes)


def test_ids_may_hold_anything(items: Items, releases: Path, tmp_path: Path, redis_cluster: RedisCluster) -> None:
    ids = ["a b", "a:b", "{x}y", "}{", "*?[a]", "ü😀", "line\r\nend", "-"]
    table = item_table(len(ids)).set_column(0, "item_id", pa.array(ids))
    pq.write_table(table, tmp_path / "items.parquet")
    build_release(
        Recipe("odd", releases.parent / "model-dot", tmp_path / "items.parquet"), tmp_path / "odd", activate=True
    )
    options = ("--releases", str(tmp_path / "odd"), "--redis", redis_cluster.url)
    for plain, beginning in (((), b"twotower:item_emb:odd:"), (("--plain", "--remove-others"), b"item_emb:")):
        pushed = answered(items("push", "odd", *options, *plain, "--json"))
        assert (pushed["written"], pushed["repaired"], pushed.get("plain_others", 0)) == (len(ids), 0, 0)
        assert_holds(redis_cluster.client, beginning, tmp_path / "odd" / "odd")
    assert len(keys_of(redis_cluster.client, "*item_emb:*")) == 2 * len(ids)


def test_prefix_database_and_login(items: Items, own: Path, start_redis: StartRedis) -> None:
    server = start_redis(*LOGIN, user="app:secret")
    code, _, err = items("push", "dot", "--redis", f"{server.url}/3", "--redis-prefix", "shop:", "--activate")
    assert code == ExitCode.OK, err
    assert server.client.dbsize() == 0
    server.client.select(3)
    assert_holds(server.client, b"shop:item_emb:dot:", own / "dot")
    assert server.client.get("shop:active") == b"dot"


def test_tls_by_an_authority_that_is_named(items: Items, own: Path, start_redis: StartRedis) -> None:
    server = start_redis(tls=True)
    url, authority = f"rediss://127.0.0.1:{server.port}", server.folder / "ca.pem"
    code, _, err = items("push", "dot", "--redis", url)
    assert code == ExitCode.STORE_UNAVAILABLE
    assert "certificate verify failed" in err
    for wrong in ((url, authority.with_name("nothing.pem")), (url.replace("rediss", "redis"), authority)):
        code, _, err = items("push", "dot", "--redis", wrong[0], "--redis-ca", str(wrong[1]))
        assert code == ExitCode.USAGE
        assert "--redis-ca needs a file, and a --redis that begins with rediss://" in err
    code, _, err = items("push", "dot", "--redis", url, "--redis-ca", str(authority))
    assert code == ExitCode.OK, err
    assert_holds(server.client, b"twotower:item_emb:dot:", own / "dot")


@pytest.mark.parametrize("verify", ["all", "sample", "none"])
def test_the_active_release_is_named_only_when_asked_for(items: Items, redis_server: RedisServer, verify: str) -> None:
    items("push", "dot", "--redis", redis_server.url)
    assert redis_server.client.get("twotower:active") is None
    code, out, err = items("push", "cosine", "--redis", redis_server.url, "--activate", "--verify", verify)
    assert code == ExitCode.OK, err
    assert out.endswith("cosine is its active release\n")
    assert redis_server.client.get("twotower:active") == b"cosine"


def test_the_rights_that_the_docs_name_are_enough(items: Items, redis_cluster: RedisCluster) -> None:
    assert f"~twotower:* {RIGHTS}" in (Path(__file__).parents[2] / "docs/redis.md").read_text()
    for node in redis_cluster.nodes:
        node.client.execute_command("ACL", "SETUSER", "low", "reset", "on", ">pw", "~twotower:*", *RIGHTS.split())
    url = redis_cluster.url.replace("//", "//low:pw@")
    code, _, err = items("push", "dot", "--redis", url)
    assert code == ExitCode.STORE_REFUSED, "a Cluster needs two more"
    assert "does not let this user do what is needed" in err
    for node in redis_cluster.nodes:
        node.client.execute_command("ACL", "SETUSER", "low", *CLUSTER_RIGHTS.split())
    for command in (("push", "dot", "--activate"), ("expire", "cosine")):
        code, _, err = items(*command, "--redis", url)
        assert code == ExitCode.OK, err


# ---- going on, comparing


def test_a_push_goes_on_where_one_before_was_killed(items: Items, own: Path, redis_server: RedisServer) -> None:
    pushed = answered(items("push", "dot", "--redis", redis_server.url, "--json"))
    # As if the first had stopped after 100 items: the mark says so, and the rest is not there.
    mark = json.loads(redis_server.client.get("twotower:item_push:dot"))
    ids = list(vectors_of(own / "dot"))
    redis_server.client.set("twotower:item_push:dot", json.dumps({**mark, "items": 100}))
    redis_server.client.delete(*(b"twotower:item_emb:dot:" + item_id for item_id in ids[100:]))
    pushed = answered(items("push", "dot", "--redis", redis_server.url, "--json"))
    assert (pushed["resumed"], pushed["written"], pushed["repaired"]) == (100, ITEMS - 100, 0)
    assert_holds(redis_server.client, b"twotower:item_emb:dot:", own / "dot")
    pushed = answered(items("push", "dot", "--redis", redis_server.url, "--json"))
    assert (pushed["resumed"], pushed["written"], pushed["compared"]) == (ITEMS, 0, ITEMS)


def test_a_push_that_is_killed_is_finished_by_the_next(
    items: Items, large: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    options = ("push", "large", "--releases", str(large), "--redis")
    # Time stands still in the middle of a batch, whatever the machine is busy with.
    with Stalling(redis_server.port, after_bytes=150_000) as proxy:
        command = [sys.executable, "-m", "twotower_server.cli.main", "items", *options, proxy.url]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        proxy.wait_stalled()
        process.kill()
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
    pushed = answered(items(*options, redis_server.url, "--json"))
    assert 0 < pushed["resumed"] < LARGE_ITEMS
    assert (pushed["written"], pushed["repaired"]) == (LARGE_ITEMS - pushed["resumed"], 0)
    assert_holds(redis_server.client, b"twotower:item_emb:large:", large / "large")


def test_a_redis_that_is_killed_again_and_again_ends_up_with_everything(
    items: Items, large: Path, start_redis: StartRedis
) -> None:
    server = start_redis(*APPEND_ALWAYS)
    options = ("push", "large", "--releases", str(large), "--redis", server.url, "--json")
    process = subprocess.Popen(
        [sys.executable, "-m", "twotower_server.cli.main", "items", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    mark = "twotower:item_push:large"
    for count in (1_000, 2_000, 4_000):
        # Wherever it is by then, in the middle of a batch or not.
        until(lambda count=count: count <= json.loads(server.client.get(mark) or '{"items": 0}')["items"])  # type: ignore[misc]
        server.kill()
        server.start()
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == ExitCode.OK
    assert json.loads(out)["compared"] == LARGE_ITEMS
    assert_holds(server.client, b"twotower:item_emb:large:", large / "large")


def test_another_release_of_the_same_name_is_written_from_the_start(
    items: Items, own: Path, redis_server: RedisServer
) -> None:
    items("push", "dot", "--redis", redis_server.url)
    mark = json.loads(redis_server.client.get("twotower:item_push:dot"))
    redis_server.client.set("twotower:item_push:dot", json.dumps({**mark, "sha256": "0" * 64}))
    assert answered(items("push", "dot", "--redis", redis_server.url, "--json"))["written"] == ITEMS
    redis_server.client.set("twotower:item_push:dot", "not ours")
    assert answered(items("push", "dot", "--redis", redis_server.url, "--json"))["written"] == ITEMS


def test_what_redis_has_lost_or_another_has_changed_is_repaired(
    items: Items, own: Path, redis_server: RedisServer
) -> None:
    items("push", "dot", "--redis", redis_server.url)
    first, second, *_ = [b"twotower:item_emb:dot:" + item_id for item_id in vectors_of(own / "dot")]
    redis_server.client.delete(first)
    redis_server.client.set(second, b"short")
    assert answered(items("push", "dot", "--redis", redis_server.url, "--verify", "none", "--json"))["repaired"] == 0
    assert answered(items("push", "dot", "--redis", redis_server.url, "--json"))["repaired"] == 2
    assert_holds(redis_server.client, b"twotower:item_emb:dot:", own / "dot")


# ---- expiry


def test_an_old_release_vanishes_and_can_come_back(items: Items, own: Path, redis_server: RedisServer) -> None:
    for release in ("cosine", "dot"):
        items("push", release, "--redis", redis_server.url)
    code, out, err = items("expire", "cosine", "--redis", redis_server.url, "--after-s", "100")
    assert code == ExitCode.OK, err
    assert out == f"{ITEMS} vectors of cosine vanish from Redis at 127.0.0.1:{redis_server.port} in 100 s\n"
    for key in keys_of(redis_server.client):
        expiring = key.startswith(b"twotower:item_emb:cosine:")
        assert 0 < redis_server.client.ttl(key) <= 100 if expiring else redis_server.client.ttl(key) == -1
    later = answered(items("expire", "cosine", "--redis", redis_server.url, "--after-s", "5000", "--json"))
    assert later["expiring"] == 0, "what expires already keeps its time"
    assert answered(items("push", "cosine", "--redis", redis_server.url, "--json"))["written"] == ITEMS
    assert {redis_server.client.ttl(key) for key in keys_of(redis_server.client)} == {-1}


def test_expiry_in_a_cluster(items: Items, redis_cluster: RedisCluster) -> None:
    items("push", "cosine", "--redis", redis_cluster.url)
    gone = answered(items("expire", "cosine", "--redis", redis_cluster.url, "--after-s", "0", "--json"))
    assert gone["expiring"] == ITEMS
    assert keys_of(redis_cluster.client) == set()


def test_what_is_active_does_not_expire(items: Items, redis_server: RedisServer) -> None:
    items("push", "cosine", "--redis", redis_server.url, "--activate")
    for release in ("cosine", "dot"):
        code, _, err = items("expire", release, "--redis", redis_server.url)
        assert code == ExitCode.USAGE
        assert f"{release} is the active release" in err
    assert {redis_server.client.ttl(key) for key in keys_of(redis_server.client)} == {-1}


# ---- plain keys


def test_plain_keys_hold_the_active_release_alone(items: Items, own: Path, redis_server: RedisServer) -> None:
    code, _, err = items("push", "cosine", "--plain", "--redis", redis_server.url)
    assert code == ExitCode.USAGE
    assert "plain keys hold the active release, which is dot: activate cosine first" in err
    assert redis_server.client.dbsize() == 0
    for release in ("dot", "cosine"):
        (own / "active").write_text(release)
        pushed = answered(items("push", release, "--plain", "--redis", redis_server.url, "--json"))
        assert (pushed["written"], pushed["plain_others"]) == (ITEMS, 0)
        assert_holds(redis_server.client, b"item_emb:", own / release)
    assert keys_of(redis_server.client, "twotower:item_emb:*") == set()


def test_plain_keys_of_other_items_are_told_and_removed_when_asked_for(
    items: Items, own: Path, redis_server: RedisServer
) -> None:
    others = {"item_emb:gone": b"x", "item_emb:gone:too": b"x", b"item_emb:\xff": b"x"}
    for key, value in {**others, "item_embryo": b"x"}.items():
        redis_server.client.set(key, value)
    code, out, err = items("push", "dot", "--plain", "--redis", redis_server.url)
    assert code == ExitCode.OK, err
    assert "2 keys item_emb:* of items that dot lacks are still there; --remove-others removes them\n" in out
    code, out, err = items("push", "dot", "--plain", "--remove-others", "--redis", redis_server.url)
    assert code == ExitCode.OK, err
    assert "2 keys item_emb:* of items that dot lacks were removed\n" in out
    assert_holds(redis_server.client, b"item_emb:", own / "dot")
    assert keys_of(redis_server.client, "item_emb*") - {b"item_emb:" + item for item in vectors_of(own / "dot")} == {
        b"item_embryo",
        b"item_emb:\xff",
    }


# ---- what goes wrong


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("push", "dot"), ExitCode.USAGE, "no Redis is named: add --redis redis://HOST:6379, or set TWOTOWER_REDIS"),
        (("push", "dot", "--redis", "localhost"), ExitCode.USAGE, "--redis: must be redis://"),
        (("push", "dot", "--redis", "redis://127.0.0.1:1"), ExitCode.STORE_UNAVAILABLE, "no answer from Redis at 127"),
        (("push", "books", "--redis", "redis://h"), ExitCode.NO_RELEASE, "has no release books; it has cosine, dot"),
        (("push", "dot", "--remove-others"), ExitCode.USAGE, "--remove-others needs --plain"),
        (("expire", "a b", "--redis", "redis://h"), ExitCode.RELEASE_REFUSED, "'a b' cannot name a release"),
    ],
)
def test_what_is_asked_for_in_vain(items: Items, options: tuple[str, ...], code: ExitCode, message: str) -> None:
    ended, out, err = items(*options)
    assert (ended, out) == (code, "")
    assert err.startswith("twotower items: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_wrong_password_is_not_shown(items: Items, start_redis: StartRedis) -> None:
    server = start_redis(*LOGIN, user="app:secret")
    for login in ("app:top9z@", ""):
        code, _, err = items("push", "dot", "--redis", f"redis://{login}127.0.0.1:{server.port}")
        assert code == ExitCode.STORE_REFUSED
        assert f"Redis at 127.0.0.1:{server.port} refuses the login" in err
        assert "check user and password of --redis" in err
        assert "top9z" not in err


def test_a_database_that_is_not_there(items: Items, redis_server: RedisServer, redis_cluster: RedisCluster) -> None:
    for url, reason in (
        (f"{redis_server.url}/77", "DB index is out of range"),
        (f"{redis_cluster.url}/1", "SELECT is not allowed in cluster mode"),
    ):
        code, _, err = items("push", "dot", "--redis", url)
        assert code == ExitCode.STORE_REFUSED
        assert reason in err


def test_a_full_redis_is_told_and_the_push_goes_on_when_there_is_room(
    items: Items, own: Path, redis_server: RedisServer
) -> None:
    redis_server.client.config_set("maxmemory", 1)
    code, _, err = items("push", "dot", "--redis", redis_server.url)
    assert code == ExitCode.STORE_REFUSED
    assert "is full: raise its maxmemory, or let keys of old releases expire" in err
    redis_server.client.config_set("maxmemory", 0)
    code, _, err = items("push", "dot", "--redis", redis_server.url)
    assert code == ExitCode.OK, err
    assert_holds(redis_server.client, b"twotower:item_emb:dot:", own / "dot")


def test_a_replica_is_refused_at_once(items: Items, redis_server: RedisServer, start_redis: StartRedis) -> None:
    replica = start_redis(f"replicaof 127.0.0.1 {redis_server.port}")
    until(lambda: replica.client.info("replication")["master_link_status"] == "up")
    code, _, err = items("push", "dot", "--redis", replica.url)
    assert code == ExitCode.STORE_REFUSED
    assert "read only replica" in err


def test_a_redis_that_drops_keys_is_warned_of(items: Items, start_redis: StartRedis) -> None:
    server = start_redis("maxmemory 100mb", "maxmemory-policy allkeys-lru")
    code, _, err = items("push", "dot", "--redis", server.url)
    assert code == ExitCode.OK
    assert f"warning: Redis at 127.0.0.1:{server.port} drops keys when it is full (allkeys-lru)" in err


def test_a_broken_release_is_not_pushed(items: Items, own: Path, redis_server: RedisServer) -> None:
    content = bytearray((own / "dot" / "vectors.npy").read_bytes())
    content[-1] ^= 1
    (own / "dot" / "vectors.npy").write_bytes(content)
    code, _, err = items("push", "dot", "--redis", redis_server.url)
    assert code == ExitCode.RELEASE_REFUSED
    assert "vectors.npy has changed" in err
    assert redis_server.client.dbsize() == 0


@pytest.mark.parametrize("command", ["push", "expire"])
def test_help_names_the_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["items", command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "exit codes of Redis: 7 does not answer, 8 refuses" in shown
    assert "TWOTOWER_REDIS" in shown

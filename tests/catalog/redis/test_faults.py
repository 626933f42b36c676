"""The log of changes in Redis, while servers fail, refuse and change places."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis.crc import key_slot

from tests.catalog.redis.entries import LOG, OpenLog, append, append_at_last, everything, positions
from tests.redis.fixtures import StartRedis, StartRedisCluster
from tests.redis.running import APPEND_ALWAYS, LOGIN, RedisCluster, RedisServer
from tests.supervisor.running import PATIENCE_S, until
from twotower_server.catalog.record import BEGINNING
from twotower_server.catalog.redis_log import Diverged, Entry
from twotower_server.errors import NotAppended, OutcomeUnknown, StoreRefused, StoreUnavailable

SLOT = key_slot(LOG.encode())


def replica_of(primary: RedisServer, start_redis: StartRedis) -> RedisServer:
    replica = start_redis(f"replicaof 127.0.0.1 {primary.port}")
    # It follows only when something written has come to it: a WAIT without a write is content with less.
    until(lambda: primary.client.set("probe", "") and primary.client.wait(1, 100))
    return replica


@pytest.fixture
def primary(start_redis: StartRedis) -> RedisServer:
    return start_redis("repl-diskless-sync-delay 0", "repl-ping-replica-period 1")


@pytest.fixture
def replica(primary: RedisServer, start_redis: StartRedis) -> RedisServer:
    return replica_of(primary, start_redis)


# ---- one server


def test_a_killed_server_keeps_what_it_acknowledged(start_redis: StartRedis, open_log: OpenLog) -> None:
    server = start_redis(*APPEND_ALWAYS)
    log = open_log(server.url)
    acknowledged: list[Entry] = []
    unknown: list[bytes] = []
    stop = threading.Event()

    def work(number: int) -> None:
        for i in range(1_000_000):
            if stop.is_set():
                return
            changes = b"%d-%d" % (number, i)
            try:
                acknowledged.extend(append(log, changes))
            except OutcomeUnknown:
                unknown.append(changes)
            except NotAppended:
                pass

    with ThreadPoolExecutor(4) as threads:
        working = [threads.submit(work, number) for number in range(4)]
        for round_ in range(1, 4):
            until(lambda: len(acknowledged) > 100 * round_)  # noqa: B023
            server.kill()
            server.start()
        stop.set()
        for one in working:
            one.result(PATIENCE_S)
    entries = everything(log)
    assert set(acknowledged) <= set(entries)
    assert {entry.changes for entry in set(entries) - set(acknowledged)} <= set(unknown)
    assert positions(entries) == list(range(1, len(entries) + 1))


def test_a_restart_is_not_seen_by_who_was_connected(start_redis: StartRedis, open_log: OpenLog) -> None:
    server = start_redis(*APPEND_ALWAYS)
    log = open_log(server.url)
    entries = append(log, b"a")
    server.kill()
    server.start()
    entries += append(log, b"b")
    server.client.script_flush()
    assert everything(log) == entries
    server.client.script_flush()
    assert append(log, b"c")[0].position == 3


def test_an_append_that_gets_no_answer_has_an_unknown_outcome(start_redis: StartRedis, open_log: OpenLog) -> None:
    server = start_redis(*APPEND_ALWAYS)
    log, patient = open_log(server.url, timeout_s=0.5), open_log(server.url)
    entries = append(patient, b"a")
    for changes, goes_on in ((b"b", server.resume), (b"c", server.kill)):
        assert everything(log) == entries
        server.pause()
        with pytest.raises(OutcomeUnknown, match=f"^no answer from Redis at 127.0.0.1:{server.port}"):
            append(log, changes)
        # A new connection comes first now, and nothing is sent without one.
        with pytest.raises(NotAppended, match=f"^no connection to Redis at 127.0.0.1:{server.port}"):
            append(log, b"d")
        with pytest.raises(StoreUnavailable):
            log.read(BEGINNING)
        goes_on()
        if changes == b"b":  # it comes late, and must not be taken for another's
            until(lambda: len(everything(patient)) == 2)
            entries = everything(patient)
    server.start()
    assert everything(log) == entries
    assert [entry.changes for entry in entries] == [b"a", b"b"]


def test_a_wait_ends_when_the_server_does(redis_server: RedisServer, open_log: OpenLog) -> None:
    log = open_log(redis_server.url)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(log.wait, BEGINNING, PATIENCE_S)
        until(lambda: redis_server.client.info("clients")["blocked_clients"])
        redis_server.kill()
        with pytest.raises(StoreUnavailable):
            waiting.result(PATIENCE_S)


def test_a_server_that_is_not_there_has_appended_nothing(redis_server: RedisServer, open_log: OpenLog) -> None:
    log = open_log(redis_server.url)
    append(log, b"a")
    redis_server.kill()
    for _ in range(2):
        with pytest.raises(NotAppended, match=f"^no connection to Redis at 127.0.0.1:{redis_server.port}"):
            append(log, b"b")
    for call in (lambda: log.read(BEGINNING), lambda: log.wait(BEGINNING, 1.0), log.snapshot, log.risks):
        with pytest.raises(StoreUnavailable):
            call()
    redis_server.start()
    assert everything(log) == []


@pytest.mark.parametrize(
    ("lines", "login", "reason"),
    [
        (("maxmemory 1",), "", "is full: raise its maxmemory$"),
        (("replicaof 127.0.0.1 1",), "", "cannot do it now: You can't write against a read only replica"),
        (("min-replicas-to-write 1",), "", "NOREPLICAS"),
        (LOGIN, "app:wrong@", "refuses the login .*: check user and password$"),
        (LOGIN, "", "refuses the login .*: check user and password$"),
        (("user default on nopass ~* +@all -xadd",), "", "can't run this command|no permissions to run the 'xadd'"),
        (("user default on nopass ~other:* +@all",), "", "does not let this user do what is needed: .*key"),
    ],
)
def test_an_append_that_is_refused_says_why(
    start_redis: StartRedis, open_log: OpenLog, lines: tuple[str, ...], login: str, reason: str
) -> None:
    server = start_redis(*lines, user="app:secret" if lines == LOGIN else "")
    log = open_log(f"redis://{login}127.0.0.1:{server.port}")
    for _ in range(2):
        with pytest.raises(NotAppended, match=f"^Redis at 127.0.0.1:{server.port} .*({reason})"):
            append(log, b"a")
    assert server.client.dbsize() == 0


def test_reading_works_while_nothing_can_be_written(redis_server: RedisServer, open_log: OpenLog) -> None:
    log = open_log(redis_server.url)
    entries = append(log, b"a", b"b")
    assert log.publish_snapshot(entries[0].mark, 1, [b"s"])
    redis_server.client.config_set("maxmemory", 1)
    with pytest.raises(NotAppended):
        append(log, b"c")
    with pytest.raises(StoreRefused, match="is full"):
        log.publish_snapshot(entries[1].mark, 1, [b"t"])
    assert everything(log, entries[0].mark) == entries[1:]
    found = log.snapshot()
    assert found is not None
    assert list(found[1]) == [b"s"]
    redis_server.client.config_set("maxmemory", 0)
    assert append(log, b"c")[0].position == 3


# ---- a primary and its replica


def test_an_append_waits_for_replicas(primary: RedisServer, replica: RedisServer, open_log: OpenLog) -> None:
    log = open_log(primary.url, replicas=1)
    entries = append(log, *[b"x"] * 20)
    assert replica.client.xlen(LOG) == 20

    replica.pause()
    with pytest.raises(OutcomeUnknown, match=r"^0 of 1 replicas of Redis at .* have the changes$"):
        append(log, b"y")
    replica.resume()
    entries += append(log, b"z")
    assert [entry.changes for entry in everything(log)] == [*[b"x"] * 20, b"y", b"z"]
    with pytest.raises(OutcomeUnknown, match=r"^1 of 2 replicas"):
        append(open_log(primary.url, replicas=2, timeout_s=0.5), b"w")


def test_a_failover_that_loses_nothing_is_the_same_history(
    primary: RedisServer, replica: RedisServer, open_log: OpenLog
) -> None:
    before = append(open_log(primary.url, replicas=1), *[b"x"] * 5)
    primary.kill()
    replica.client.replicaof("NO", "ONE")
    log = open_log(replica.url)
    assert log.read(before[-1].mark) == []
    after = append(log, b"y")
    assert everything(log, before[2].mark) == before[3:] + after


@pytest.mark.parametrize("appended", [0, 1, 2, 3, 4])
def test_a_failover_that_loses_entries_is_another_history(
    primary: RedisServer, replica: RedisServer, open_log: OpenLog, appended: int
) -> None:
    old = open_log(primary.url)
    kept = append(open_log(primary.url, replicas=1), *[b"kept"] * 3)
    # As if it were cut off, and took its primary's place.
    replica.client.replicaof("NO", "ONE")
    lost = append(old, *[b"lost"] * 3)
    log = open_log(replica.url)
    new = append(log, *[b"new"] * appended)
    assert positions(new) == list(range(4, 4 + appended))
    for entry in lost:
        with pytest.raises(Diverged):
            log.read(entry.mark)
    assert log.wait(lost[-1].mark, PATIENCE_S)
    assert not log.publish_snapshot(lost[0].mark, 1, [b"s"])
    assert log.read(kept[-1].mark) == new
    assert everything(log) == kept + new


# ---- a Cluster


def nodes_of_log(cluster: RedisCluster) -> tuple[RedisServer, RedisServer]:
    """The primary of the log's slot, and its replica."""
    for primary, replica in zip(cluster.nodes[:3], cluster.nodes[3:], strict=True):
        if SLOT in slots(primary):
            return primary, replica
    raise AssertionError


def slots(node: RedisServer) -> range:
    shards = node.client.execute_command("CLUSTER SLOTS")
    return next(range(first, last + 1) for first, last, primary, *_ in shards if primary[1] == node.port)


def test_a_cluster_goes_on_after_a_failover(start_redis_cluster: StartRedisCluster, open_log: OpenLog) -> None:
    cluster = start_redis_cluster()
    primary, replica = nodes_of_log(cluster)
    log = open_log(primary.url, timeout_s=0.5)  # of the one that is lost
    entries = append(open_log(primary.url, replicas=1), *[b"x"] * 5)
    assert everything(log) == entries
    assert log.publish_snapshot(entries[1].mark, 1, [b"s"])

    primary.pause()
    with pytest.raises(OutcomeUnknown):
        append(log, b"paused")
    entries.append(append_at_last(log))
    assert replica.client.info("replication")["role"] == "master"
    # What had no answer may be there, too.
    assert entries[2:] == [entry for entry in everything(log, entries[1].mark) if entry in entries]
    assert log.snapshot() is not None

    primary.resume()
    until(lambda: primary.client.info("replication").get("master_link_status") == "up")
    replica.kill()
    with pytest.raises(NotAppended, match=r"^no connection to"):
        append(log, b"killed")
    entries.append(append_at_last(log))
    assert primary.client.info("replication")["role"] == "master"
    assert entries[2:] == [entry for entry in everything(log, entries[1].mark) if entry in entries]


def test_the_log_is_followed_when_its_slot_moves(start_redis_cluster: StartRedisCluster, open_log: OpenLog) -> None:
    cluster = start_redis_cluster()
    source, _ = nodes_of_log(cluster)
    target = next(node for node in cluster.nodes[:3] if node is not source)
    names: dict[RedisServer, Any] = {
        node: node.client.execute_command("CLUSTER MYID").decode() for node in (source, target)
    }
    log = open_log(cluster.url)
    entries = append(log, b"a")
    target.client.execute_command("CLUSTER SETSLOT", SLOT, "IMPORTING", names[source])
    source.client.execute_command("CLUSTER SETSLOT", SLOT, "MIGRATING", names[target])
    entries += append(log, b"before its key moved")
    source.client.execute_command("MIGRATE", "127.0.0.1", target.port, LOG, 0, 10_000)
    entries += append(log, b"after its key moved")
    assert everything(log) == entries
    for node in (target, source):
        node.client.execute_command("CLUSTER SETSLOT", SLOT, "NODE", names[target])
    entries += append(log, b"after its slot moved")
    assert everything(log) == everything(open_log(source.url)) == entries
    assert target.client.xlen(LOG) == 4
    # It was redirected once, and then knew.
    assert source.client.info("errorstats")["errorstat_MOVED"]["count"] == 1

"""The log of changes in Redis, while all goes well."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.catalog.redis.entries import (
    LOG,
    PREFIX,
    SNAPSHOT,
    OpenLog,
    Redis,
    append,
    everything,
    positions,
)
from tests.redis.fixtures import StartRedis
from tests.redis.running import APPEND_ALWAYS, RedisCluster, RedisServer
from tests.supervisor.running import PATIENCE_S, until
from twotower_server.catalog.record import BEGINNING, Mark
from twotower_server.catalog.redis_log import LARGEST_BEYOND, Diverged, RedisLog
from twotower_server.errors import NotAppended, StoreRefused

APPEND = Path(__file__).with_name("append_entries.py")
MIB = 1 << 20

# What a server needs for the log; `select` for a database that is not 0, `asking` in a Cluster.
RIGHTS = (
    "+select +eval +evalsha +xadd +xrange +xrevrange +xread +xtrim +wait +get +set +unlink +exists +persist "
    "+hset +hmget +hgetall +info"
)


def test_what_was_appended_is_read_in_steps(log: RedisLog, redis: Redis) -> None:
    assert log.read(BEGINNING) == []
    entries = append(log, *(b"\x00\xff%d" % i for i in range(10)), count=3)
    assert positions(entries) == list(range(3, 33, 3))
    for limit in (1, 3, 64):
        assert everything(log, limit=limit) == entries
        assert everything(log, entries[4].mark, limit) == entries[5:]
    # Positions are the ids: no clock has a say in their order.
    assert [name for name, _ in redis.client.xrange(LOG)] == [b"%d-0" % entry.position for entry in entries]


def test_an_answer_is_not_large(redis_server: RedisServer, open_log: OpenLog) -> None:
    log = open_log(redis_server.url)
    entries = append(log, *[bytes(3 * MIB)] * 3, bytes(9 * MIB), b"small")
    sizes = []
    after = BEGINNING
    while step := log.read(after):
        sizes.append(len(step))
        after = step[-1].mark
    assert sizes == [2, 2, 1]
    assert everything(log) == entries


def test_positions_begin_beyond_what_they_must(log: RedisLog) -> None:
    entries = append(log, b"a", b"b", count=2, beyond=100)
    entries += append(log, b"c", beyond=50)
    entries += append(log, b"d", count=10, beyond=LARGEST_BEYOND)
    entries += append(log, b"e")
    assert positions(entries) == [102, 104, 105, LARGEST_BEYOND + 10, LARGEST_BEYOND + 11]
    assert everything(log) == entries
    with pytest.raises(NotAppended, match=r"^positions end at"):
        log.append(b"f", 1, LARGEST_BEYOND + 1, 1)


def test_positions_that_doubles_cannot_count_are_refused(redis_server: RedisServer, open_log: OpenLog) -> None:
    redis_server.client.xadd(LOG, {"somebody": "else"}, id=f"{2**53 - 2}-0")
    log = open_log(redis_server.url)
    assert append(log, b"the last")[0].position == 2**53 - 1
    with pytest.raises(NotAppended, match="positions have come to their end"):
        append(log, b"one more")


def test_writers_at_the_same_time_share_the_positions(log: RedisLog, redis: Redis) -> None:
    processes = [
        subprocess.Popen([sys.executable, APPEND, redis.url, name, "50"], stdout=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]
    with ThreadPoolExecutor(4) as threads:
        own = [
            entry
            for entries in threads.map(lambda _: append(log, *[b"own"] * 50, count=3), range(4))
            for entry in entries
        ]
    printed = [int(line) for process in processes for line in process.communicate(timeout=PATIENCE_S)[0].split()]
    entries = everything(log)
    assert sorted(positions(entries)) == positions(entries) == sorted(printed + positions(own))
    assert [entry.position - entry.count for entry in entries] == [0, *positions(entries[:-1])]
    assert {entry for entry in entries if entry.changes == b"own"} == set(own)
    for name in ("a", "b"):
        written = [entry.changes.decode() for entry in entries if entry.changes.startswith(name.encode())]
        assert written == [f"{name}-{i}" for i in range(50)]


def blocked(redis: Redis) -> int:
    nodes = redis.nodes if isinstance(redis, RedisCluster) else [redis]
    return sum(int(node.client.info("clients")["blocked_clients"]) for node in nodes)


def test_an_append_ends_a_wait(log: RedisLog, redis: Redis, open_log: OpenLog) -> None:
    after = BEGINNING
    for _ in range(3):
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(log.wait, after, PATIENCE_S)
            until(lambda: blocked(redis))
            after = append(open_log(redis.url), b"x")[0].mark
            assert waiting.result(PATIENCE_S)
    assert not log.wait(after, 0.1)
    assert log.wait(BEGINNING, PATIENCE_S)


def test_a_call_that_is_under_way_outlives_the_close_and_leaves_no_connection(
    redis_server: RedisServer, open_log: OpenLog
) -> None:
    log, other = open_log(redis_server.url), open_log(redis_server.url)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(log.wait, BEGINNING, PATIENCE_S)
        until(lambda: blocked(redis_server))
        log.close()
        append(other, b"x")
        assert waiting.result(PATIENCE_S)
    other.close()
    until(lambda: int(redis_server.client.info("clients")["connected_clients"]) == 1)


def test_another_history_ends_a_wait(log: RedisLog, redis: Redis) -> None:
    mark = append(log, b"a", b"b")[-1].mark
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(log.wait, mark, PATIENCE_S)
        until(lambda: blocked(redis))
        redis.client.flushall()
        append(log, b"c", b"d")
        assert waiting.result(PATIENCE_S)
    redis.client.flushall()
    assert log.wait(mark, PATIENCE_S)


def test_an_empty_redis_has_another_history(log: RedisLog, redis: Redis) -> None:
    old = append(log, b"a", b"b", b"c")
    redis.client.flushall()
    assert log.read(BEGINNING) == []
    for round_ in range(4):
        for entry in old:
            with pytest.raises(Diverged, match="another history of changes than this server at position"):
                log.read(entry.mark)
        new = append(log, b"new")
        assert positions(new) == [round_ + 1]
        assert log.read(new[0].mark) == []


def test_positions_between_those_of_entries_are_of_another_history(log: RedisLog) -> None:
    append(log, b"a", b"b", count=10)
    for position in (5, 15, 25):
        with pytest.raises(Diverged):
            log.read(Mark(position, 1))


def test_what_somebody_else_wrote_is_refused(redis_server: RedisServer, open_log: OpenLog) -> None:
    log = open_log(redis_server.url)
    entries = append(log, b"a")
    redis_server.client.xadd(LOG, {"somebody": "else"})
    with pytest.raises(StoreRefused, match=r"holds something else than changes$"):
        log.read(entries[0].mark)
    assert log.wait(entries[0].mark, PATIENCE_S)
    redis_server.client.hset(SNAPSHOT, "somebody", "else")
    with pytest.raises(StoreRefused, match=r"holds something else than a snapshot$"):
        log.snapshot()
    redis_server.client.set(LOG, "text")
    with pytest.raises(StoreRefused, match="refuses: WRONGTYPE"):
        log.read(BEGINNING)
    with pytest.raises(NotAppended, match="refuses: WRONGTYPE"):
        append(log, b"b")


def test_a_login_with_few_rights_a_database_and_tls_are_enough(start_redis: StartRedis, open_log: OpenLog) -> None:
    rights = f"user app on >secret ~{PREFIX}* {RIGHTS}"
    server = start_redis("user default off", "user admin on nopass ~* +@all", rights, user="admin:any", tls=True)
    url = f"rediss://app:secret@127.0.0.1:{server.port}/3"
    log = open_log(url, ca=server.folder / "ca.pem", timeout_s=5.0)
    entries = append(log, b"a", b"b")
    assert everything(log) == entries
    assert not log.wait(entries[1].mark, 0.1)
    assert log.publish_snapshot(entries[0].mark, 1, [b"s"])
    assert log.publish_snapshot(entries[1].mark, 1, [b"s"])
    found = log.snapshot()
    assert found is not None
    assert list(found[1]) == [b"s"]
    assert len(log.risks()) == 1
    assert list(server.client.info("keyspace")) == ["db3"]
    assert server.client.acl_log() == []


def test_settings_that_would_lose_the_log_are_told(start_redis: StartRedis, open_log: OpenLog) -> None:
    server = start_redis(*APPEND_ALWAYS)
    log = open_log(server.url)
    assert log.risks() == []
    for policy, size, told in (("allkeys-lru", "0", 0), ("allkeys-lru", "1gb", 1), ("volatile-lru", "1gb", 0)):
        server.client.config_set("maxmemory-policy", policy)
        server.client.config_set("maxmemory", size)
        assert len(log.risks()) == told
    server.client.config_set("appendonly", "no")
    assert log.risks() == ["Redis keeps no append-only file: item changes are lost when it restarts"]


def test_many_threads_share_the_connections(redis_server: RedisServer, open_log: OpenLog) -> None:
    log = open_log(redis_server.url)
    done = threading.Barrier(8)

    def work(_: int) -> None:
        for _ in range(20):
            append(log, b"x")
            log.read(BEGINNING)
        done.wait(PATIENCE_S)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert len(everything(log)) == 160
    assert int(redis_server.client.info("clients")["connected_clients"]) <= 9
    log.close()
    until(lambda: int(redis_server.client.info("clients")["connected_clients"]) == 1)

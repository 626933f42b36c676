"""The snapshot of the log of changes in Redis."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.catalog.redis.entries import LOG, SNAPSHOT, OpenLog, Redis, append, everything, keys
from tests.redis.running import RedisServer
from twotower_server.catalog.record import BEGINNING, Mark
from twotower_server.catalog.redis_log import Behind, Diverged, RedisLog
from twotower_server.errors import StoreUnavailable

MIB = 1 << 20


def pieces(content: bytes, size: int) -> Iterator[bytes]:
    return (content[i : i + size] for i in range(0, len(content), size))


def test_a_snapshot_is_read_as_it_was_published(log: RedisLog, redis: Redis) -> None:
    entries = append(log, *[b"x"] * 300)
    assert log.snapshot() is None
    for at, size_bytes, piece_bytes in (
        (100, 0, 1),
        (200, 5 * MIB // 2, 100_000),
        (250, 3 * MIB, 2 * MIB),
        (251, 7, 7),
    ):
        content = random.Random(at).randbytes(size_bytes)
        assert log.publish_snapshot(entries[at].mark, size_bytes, pieces(content, piece_bytes))
        found = log.snapshot()
        assert found is not None
        assert found[0] == entries[at].mark
        assert b"".join(found[1]) == content
        chunks = [key for key in keys(redis.client) if key.startswith(f"{SNAPSHOT}:")]
        assert keys(redis.client) == [LOG, SNAPSHOT, *chunks]
        assert len(chunks) == -(-size_bytes // MIB)
        assert all(redis.client.ttl(key) == -1 for key in keys(redis.client))

        assert everything(log, entries[at].mark) == entries[at + 1 :]
        assert everything(log, entries[280].mark) == entries[281:]
        for after in (BEGINNING, entries[0].mark, entries[at - 1].mark):
            with pytest.raises(Behind, match=f"no longer has the changes after position {after.position} one by one"):
                log.read(after)
        for lost in (Mark(entries[at].position + 1, 1), Mark(301, 1)):
            with pytest.raises(Diverged):
                log.read(lost)
    assert append(log, b"next")[0].position == 301


def test_a_log_that_lost_its_beginning_and_its_snapshot_is_not_taken_for_whole(
    redis_server: RedisServer, open_log: OpenLog
) -> None:
    log = open_log(redis_server.url)
    entries = append(log, *[b"x"] * 3)
    assert log.publish_snapshot(entries[1].mark, 1, [b"s"])
    redis_server.client.delete(SNAPSHOT)
    with pytest.raises(Behind):
        log.read(BEGINNING)
    assert log.read(entries[1].mark) == entries[2:]
    # Whoever has it all can mend it.
    assert log.publish_snapshot(entries[1].mark, 1, [b"s"])
    assert log.snapshot() is not None


def test_a_snapshot_of_another_history_or_an_older_one_is_not_taken(log: RedisLog, redis: Redis) -> None:
    old = append(log, *[b"old"] * 5)
    redis.client.flushall()
    assert not log.publish_snapshot(old[2].mark, 3, [b"old"])
    entries = append(log, *[b"new"] * 4)
    for mark in (BEGINNING, old[2].mark, old[4].mark):
        assert not log.publish_snapshot(mark, 3, [b"old"])
    assert keys(redis.client) == [LOG]

    assert log.publish_snapshot(entries[2].mark, 3, [b"new"])
    for entry in entries[:3]:
        assert not log.publish_snapshot(entry.mark, 3, [b"old"])
    found = log.snapshot()
    assert found is not None
    assert (found[0], b"".join(found[1])) == (entries[2].mark, b"new")
    assert len(keys(redis.client)) == 3


def test_an_upload_that_ends_early_leaves_nothing_that_lasts(log: RedisLog, redis: Redis) -> None:
    entries = append(log, b"a", b"b")
    uploaded: list[str] = []

    def breaking() -> Iterator[bytes]:
        yield bytes(2 * MIB + 1)
        # What a server leaves that is killed here.
        uploaded.extend(key for key in keys(redis.client) if key != LOG)
        assert all(0 < redis.client.ttl(key) <= 3_600 for key in uploaded)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        log.publish_snapshot(entries[0].mark, 3 * MIB, breaking())
    assert len(uploaded) == 2
    with pytest.raises(ValueError, match=r"^the snapshot has 3 bytes instead of 4$"):
        log.publish_snapshot(entries[0].mark, 4, [b"abc"])
    assert keys(redis.client) == [LOG]
    assert everything(log) == entries


def test_an_upload_that_lost_a_chunk_is_not_taken(log: RedisLog, redis: Redis) -> None:
    entries = append(log, b"a", b"b")

    def losing() -> Iterator[bytes]:
        yield bytes(2 * MIB)
        redis.client.delete(keys(redis.client)[-1])  # as if its time were over

    assert not log.publish_snapshot(entries[1].mark, 2 * MIB, losing())
    assert keys(redis.client) == [LOG]
    assert everything(log) == entries


def test_a_snapshot_that_is_replaced_while_it_is_read_says_so(log: RedisLog) -> None:
    entries = append(log, b"a", b"b")
    assert log.publish_snapshot(entries[0].mark, 3 * MIB, [bytes(3 * MIB)])
    found = log.snapshot()
    assert found is not None
    assert next(found[1]) == bytes(MIB)
    assert log.publish_snapshot(entries[1].mark, MIB, [bytes(MIB)])
    with pytest.raises(StoreUnavailable, match=r"was replaced while it was read$"):
        list(found[1])


def test_a_damaged_snapshot_can_be_replaced(log: RedisLog, redis: Redis) -> None:
    entries = append(log, b"a", b"b")
    assert log.publish_snapshot(entries[1].mark, 2 * MIB, [bytes(2 * MIB)])
    redis.client.delete(keys(redis.client)[-1])
    assert log.publish_snapshot(entries[1].mark, 2 * MIB, [b"\x01" * (2 * MIB)])
    found = log.snapshot()
    assert found is not None
    assert b"".join(found[1]) == b"\x01" * (2 * MIB)
    assert len(keys(redis.client)) == 4

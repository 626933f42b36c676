"""Servers that share a log in Redis: each sees what any of them was told, whenever it comes and whatever it missed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tests.catalog.live import Live, by_features, by_vector, living, reached, replaced, workers
from tests.catalog.redis.entries import LOG, Redis
from tests.redis.running import APPEND_ALWAYS, RedisServer
from tests.rpc.messages import ITEM
from tests.supervisor.running import until
from twotower import v1
from twotower_server.release.stamp import write_stamp

Start = Callable[..., Live]
ANEW = "serving from the log of item changes as Redis has it now"


@pytest.fixture
def start(folder: Path, releases: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a server with a data folder of its own, on the log in a Redis."""
    with ExitStack() as started:

        def start_one(name: str, redis: str, *options: str) -> Live:
            data = tmp_path / f"data-{name}"
            for release in ("dot", "cosine"):
                write_stamp(releases / release, data)
            return started.enter_context(living(folder, data, "--change-log", "redis", "--redis", redis, *options))

        yield start_one


def numbers(live: Live, item_id: str) -> set[float | None]:
    """What connections have of an item made by `set_number`; None where it is not there."""
    return {None if vector is None else float(vector[0]) for vector in live.vectors(item_id, "dot")}


def number(live: Live, item_id: str) -> float | None:
    """The same, on which all connections must agree."""
    (found,) = numbers(live, item_id)
    return found


def comes(lives: Sequence[Live], item_id: str, value: float | None) -> None:
    """Waits until all connections of servers have a number."""
    until(lambda: all(numbers(live, item_id) == {value} for live in lives))


def vanishes(lives: Sequence[Live], item_id: str) -> None:
    comes(lives, item_id, None)


def stop(live: Live) -> None:
    live.own.server.send(signal.SIGTERM)
    live.own.server.ended()


def set_number(live: Live, item_id: str, value: float) -> None:
    live.upsert(by_vector(item_id, "dot", [value] * 8))


def degraded(live: Live) -> str:
    return "".join(live.own.serving.GetServingInfo(v1.GetServingInfoRequest()).degraded)


def test_every_server_sees_what_any_of_them_was_told(start: Start, redis: Redis) -> None:
    one, two = start("one", redis.url), start("two", redis.url)
    one.upsert(by_features("new", ITEM), by_vector("ready", "dot", [1.0] * 8))
    assert one.has("new", "dot") and number(one, "ready") == 1.0
    comes([two], "ready", 1.0)
    assert two.has("new", "dot")
    assert two.delete("new", "i4", "never").missing_indices == [2]
    assert not two.has("new", "dot") and not two.has("i4", "dot")
    vanishes([one], "i4")
    # Positions are of the one log.
    assert one.upsert(by_features("other", ITEM)).log_position == 6
    assert degraded(one) == degraded(two) == ""


def test_a_server_that_starts_later_has_everything(start: Start, redis: Redis) -> None:
    one = start("one", redis.url)
    for value in range(30):
        set_number(one, f"v{value % 3}", value)
    one.delete("i4")
    two = start("two", redis.url)
    assert [number(two, f"v{i}") for i in range(3)] == [27.0, 28.0, 29.0]
    assert not two.has("i4", "dot")
    replaced(two.own.server, workers(two.own.server)[0])
    with reached(two.own) as again:
        assert number(again, "v2") == 29.0


def test_a_server_that_was_cut_off_catches_up(start: Start, start_redis: Callable[..., RedisServer]) -> None:
    redis = start_redis(*APPEND_ALWAYS)
    one, two = start("one", redis.url), start("two", redis.url)
    set_number(one, "v", 1.0)
    comes([two], "v", 1.0)
    redis.kill()
    with pytest.raises(grpc.RpcError, match="STORE_UNAVAILABLE"):
        set_number(one, "v", 2.0)
    until(lambda: "the log of item changes in Redis cannot be read" in degraded(two))
    assert number(one, "v") == number(two, "v") == 1.0
    redis.start()
    until(lambda: degraded(one) == degraded(two) == "")
    set_number(two, "v", 3.0)
    comes([one], "v", 3.0)


def test_without_redis_a_server_starts_with_what_it_had(start: Start, start_redis: Callable[..., RedisServer]) -> None:
    redis = start_redis(*APPEND_ALWAYS)
    one = start("one", redis.url)
    set_number(one, "v", 1.0)
    stop(one)
    redis.kill()
    again = start("one", redis.url)
    assert number(again, "v") == 1.0
    until(lambda: "the log of item changes in Redis cannot be read" in degraded(again))
    empty = start("empty", redis.url)
    assert not empty.has("v", "dot") and empty.has("i4", "dot")
    redis.start()
    comes([empty], "v", 1.0)


def test_servers_take_over_another_history_while_they_serve(start: Start, redis: Redis) -> None:
    one, two = start("one", redis.url), start("two", redis.url)
    set_number(one, "kept", 1.0)
    set_number(one, "lost", 1.0)
    one.delete("i4")
    vanishes([two], "i4")
    redis.client.flushall()
    # As a Redis that came back without its data.
    until(lambda: None not in numbers(one, "i4") | numbers(two, "i4"))
    assert ANEW in one.own.server.log()
    set_number(two, "kept", 2.0)
    comes([one, two], "kept", 2.0)
    assert number(one, "lost") is number(two, "lost") is None
    assert degraded(one) == degraded(two) == ""


def test_as_many_other_changes_at_the_same_positions_are_noticed(start: Start, redis: Redis) -> None:
    one = start("one", redis.url)
    set_number(one, "lost", 1.0)
    stop(one)
    redis.client.flushall()
    other = start("other", redis.url)
    set_number(other, "there", 2.0)
    again = start("one", redis.url)
    assert number(again, "lost") is None and number(again, "there") == 2.0


def test_a_compacted_log_is_handed_on_as_a_snapshot(start: Start, redis: Redis) -> None:
    compacting = ("--compact-changes", "20")
    one = start("one", redis.url, *compacting)
    for value in range(60):
        set_number(one, f"v{value % 5}", value)
    until(lambda: "serving from the compacted changes" in one.own.server.log())
    until(lambda: redis.client.xlen(LOG) < 60)
    set_number(one, "after", 7.0)
    late = start("late", redis.url, *compacting)
    for live in (one, late):
        assert [number(live, f"v{i}") for i in range(5)] == [55.0, 56.0, 57.0, 58.0, 59.0]
        assert number(live, "after") == 7.0
    set_number(late, "v0", -1.0)
    comes([one], "v0", -1.0)


def test_two_servers_that_write_at_once_agree(start: Start, redis: Redis) -> None:
    lives = [start("one", redis.url), start("two", redis.url)]
    failed: list[BaseException] = []

    def write(live: Live, at: int) -> None:
        try:
            for value in range(80):
                live.upsert(by_vector(f"v{value % 4}", "dot", [float(value * 2 + at)] * 8))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(live, at)) for at, live in enumerate(lives)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    ends = [lives[0].delete("never").log_position, lives[1].delete("never").log_position]
    assert ends == [161, 162]
    for i in range(4):
        until(lambda i=i: len(numbers(lives[0], f"v{i}") | numbers(lives[1], f"v{i}")) == 1)  # type: ignore[misc]
        assert number(lives[0], f"v{i}") is not None

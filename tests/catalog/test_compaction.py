"""Compaction while a server serves: nobody notices, nothing is lost, and what starts later begins with its results."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.catalog.live import Live, build, by_features, by_vector, living, reached, replaced, workers
from tests.conftest import ITEMS
from tests.rpc.messages import ITEM, USER, user
from tests.rpc.recomputed import Recomputed
from tests.supervisor.running import until
from twotower import v1
from twotower_server.catalog.log import CHANGES

COMPACT = ("--compact-changes", "20")
DONE = "serving from the compacted changes"


def number_of(data: Path) -> int:
    """Of the log that counts."""
    return max(int(path.parent.name) for path in (data / "catalog").glob(f"*/*/{CHANGES}"))


def bases(data: Path) -> set[str]:
    return {path.parent.name for path in (data / "catalog").glob("*/*/*/*/release.json")}


def fill(live: Live, count: int = 30) -> None:
    """In one call: compaction has all of it, or nothing."""
    changes = []
    for i in range(count):
        changes += [by_vector(f"v{i % 7}", "dot", [float(i + 1)] * 8), by_features(f"f{i % 5}", ITEM, title=f"T{i}")]
    live.upsert(*changes)


def check_filled(live: Live, count: int = 30) -> None:
    for i in range(count - 7, count):
        live.check_vector(f"v{i % 7}", "dot", np.full(8, i + 1.0))
    titles = [f"T{i}" for i in range(count)]
    has_title = v1.Filter(all_of=[v1.AnyOf(conditions=[v1.Condition(attribute="title", any_text=titles)])])
    request = v1.SearchItemsRequest(item_id="i0", filter=has_title, return_attributes=["title"], release="dot")
    for connection in live.connections:
        found = [item.attributes["title"].text for item in connection.serving.SearchItems(request).items]
        assert sorted(found) == sorted(titles[-5:])


def test_changes_become_bases_of_all_releases_and_survive_restarts(folder: Path, data: Path, tmp_path: Path) -> None:
    with living(folder, data, *COMPACT) as live:
        assert live.own.load("cosine") == "LOADED"
        live.delete("i4")
        fill(live)
        until(lambda: DONE in live.own.server.log())
        assert (number_of(data), bases(data)) == (2, {"dot", "cosine"})
        check_filled(live)
        assert not live.has("i4", "dot") and not live.has("i4", "cosine")
        assert len([*(data / "catalog").glob("*/*/")]) == 1, "what it was made from is gone"
        fill(live, 3)
        replaced(live.own.server, workers(live.own.server)[0])
        with reached(live.own) as again:
            again.check_vector("v2", "dot", np.full(8, 3.0))
            assert not again.has("i4", "dot")
    with living(folder, data, *COMPACT) as live:
        live.check_vector("v2", "dot", np.full(8, 3.0))
        live.check_vector("v6", "dot", np.full(8, 28.0))
        assert not live.has("i4", "dot")
        assert "opened release dot: 311 items" in live.own.server.log(), "the base, not the release"
        # A release that no compaction knew gets all changes from the compacted log.
        later = Recomputed(build("later", tmp_path, folder))
        assert live.own.load("later") == "LOADED"
        live.check_vector("f0", "later", later.item(ITEM))
        assert not live.has("i4", "later")


def test_compaction_after_compaction(folder: Path, data: Path) -> None:
    with living(folder, data, *COMPACT) as live:
        for round in range(1, 4):
            fill(live, 30 + round)
            until(lambda round=round: live.own.server.log().count(DONE) >= round)  # type: ignore[misc]
            check_filled(live, 30 + round)
        assert number_of(data) >= 4


def test_a_worker_that_slept_through_it_goes_on_with_what_serves(folder: Path, data: Path) -> None:
    with living(folder, data, *COMPACT) as live:
        fill(live, 3)
        sleeper, awake = workers(live.own.server)
        os.kill(sleeper, signal.SIGSTOP)
        try:
            with reached(live.own) as other:  # connections that the sleeper took never answer
                connection = next(c for c in other.connections if answers(c.catalog))
                changes = [by_vector(f"w{i}", "dot", [float(i)] * 8) for i in range(40)]
                connection.catalog.UpsertItems(v1.UpsertItemsRequest(changes=changes), timeout=20)
                until(lambda: DONE in live.own.server.log())
        finally:
            os.kill(sleeper, signal.SIGCONT)
        until(lambda: agrees(live, "w39", 39.0))
        set_after = by_vector("after", "dot", [5.0] * 8)
        live.upsert(set_after)
        live.check_vector("after", "dot", np.full(8, 5.0))
        assert sorted(workers(live.own.server)) == sorted((sleeper, awake)), "nobody was replaced"


def answers(catalog: v1.CatalogServiceStub) -> bool:
    try:
        catalog.DeleteItems(v1.DeleteItemsRequest(item_ids=["never"]), timeout=1)
    except grpc.RpcError:
        return False
    return True


def agrees(live: Live, item_id: str, value: float) -> bool:
    try:
        vectors = live.vectors(item_id, "dot")
    except (grpc.RpcError, AssertionError):
        return False
    return all(vector is not None and vector[0] == value for vector in vectors)


def test_when_all_items_are_gone_the_log_is_compacted_alone(folder: Path, data: Path) -> None:
    with living(folder, data, *COMPACT) as live:
        live.delete(*(f"i{i}" for i in range(ITEMS)))
        until(lambda: DONE in live.own.server.log())
        assert bases(data) == set()
        assert not live.has("i3", "dot")
        live.upsert(by_features("i3", ITEM))
        assert live.has("i3", "dot")
    with living(folder, data, *COMPACT) as live:
        assert live.has("i3", "dot") and not live.has("i4", "dot")


def test_a_compaction_that_fails_is_told_and_leaves_everything_as_it_was(folder: Path, data: Path) -> None:
    with living(folder, data, *COMPACT) as live:
        (catalog,) = (data / "catalog").glob("*")
        (catalog / "2").write_text("in the way")
        fill(live)
        until(lambda: "item changes cannot be compacted" in live.own.server.log())
        info = live.own.serving.GetServingInfo(v1.GetServingInfoRequest())
        assert any("item changes cannot be compacted" in sentence for sentence in info.degraded)
        check_filled(live)


@pytest.mark.parametrize("seed", range(2))
def test_nobody_notices_it_under_load(folder: Path, data: Path, releases: Path, seed: int) -> None:
    """Upserts, deletes and searches go on while the log is compacted again and again."""
    order = random.Random(seed)
    dot = Recomputed(releases / "dot")
    query = dot.user(USER)
    state: dict[str, float | None] = {}
    raised: list[BaseException] = []
    stop = threading.Event()

    def search(live: Live, at: int) -> None:
        try:
            serving = live.connections[at].serving
            while not stop.is_set():
                found = serving.Recommend(v1.RecommendRequest(user=user(USER), k=50))
                assert len(found.items) == 50
                assert np.all(np.diff([item.similarity for item in found.items]) <= 0)
        except BaseException as error:
            raised.append(error)

    with living(folder, data, *COMPACT) as live:
        readers = [threading.Thread(target=search, args=(live, at)) for at in range(4)]
        for reader in readers:
            reader.start()
        try:
            deadline = time.monotonic() + 60
            while live.own.server.log().count(DONE) < 3 and time.monotonic() < deadline:
                item_id = f"item-{order.randrange(30)}"
                if order.random() < 0.3:
                    live.delete(item_id)
                    state[item_id] = None
                else:
                    state[item_id] = value = order.random() * 50
                    live.upsert(by_vector(item_id, "dot", (query * value).tolist()))
                assert live.has(item_id, "dot") == (state[item_id] is not None)
                time.sleep(0.005)
        finally:
            stop.set()
            for reader in readers:
                reader.join()
        assert not raised
        assert live.own.server.log().count(DONE) >= 3
        check_state(live, state, query)
    with living(folder, data, *COMPACT) as live:
        check_state(live, state, query)


def check_state(live: Live, state: dict[str, float | None], query: NDArray[np.float32]) -> None:
    for item_id, value in state.items():
        if value is None:
            assert not live.has(item_id, "dot")
        else:
            live.check_vector(item_id, "dot", query * value)


def test_kill_9_in_the_middle_of_compactions_loses_nothing(folder: Path, data: Path) -> None:
    order = random.Random(5)
    expected: dict[str, float] = {}
    number = 0.0
    for _ in range(6):
        with living(folder, data, *COMPACT) as live:
            for item_id, value in expected.items():
                live.check_vector(item_id, "dot", np.full(8, value))
            ends = time.monotonic() + 1.2 + order.random() * 1.5
            while time.monotonic() < ends:
                number += 1
                item_id = f"k{order.randrange(12)}"
                try:
                    live.upsert(by_vector(item_id, "dot", [number] * 8))
                except grpc.RpcError:
                    break
                expected[item_id] = number
            live.own.server.send(signal.SIGKILL)
            live.own.server.ended()
    assert number_of(data) > 1, "some compaction came to its end"
    with living(folder, data, *COMPACT) as live:
        for item_id, value in expected.items():
            live.check_vector(item_id, "dot", np.full(8, value))

"""The log of changes through the life of servers: releases that come later, restarts, damage, a full disk."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.catalog.live import Live, build, by_features, by_vector, living, reached, replaced, workers
from tests.conftest import ITEMS
from tests.reliability.serving import starting
from tests.rpc.messages import ITEM
from tests.rpc.recomputed import Recomputed
from twotower import v1


def log_of(data: Path) -> Path:
    (found,) = (data / "catalog").glob("*/1/changes")
    return found


def catalog_of(live: Live, *item_ids: str) -> dict[str, list[list[float] | None]]:
    """What every connection has of these items."""
    found = {}
    for item_id in item_ids:
        vectors = live.vectors(item_id, "dot")
        found[item_id] = [None if vector is None else vector.round(4).tolist() for vector in vectors]
    return found


def make_changes(live: Live) -> dict[str, list[list[float] | None]]:
    """Changes of every kind, and what they left."""
    live.upsert(by_features("new", ITEM, 7, title="New"), by_vector("ready", "dot", [1.0] * 8))
    live.upsert(by_features("i3", {**ITEM, "item_price": 800.0}), by_features("gone", ITEM))
    live.delete("i4", "gone")
    live.upsert(by_features("new", {**ITEM, "item_price": 1.0}, 6))
    found = catalog_of(live, "new", "ready", "i3", "i4", "gone", "i5")
    assert [vectors[0] is None for vectors in found.values()] == [False, False, False, True, True, False]
    return found


# ---- releases that come later


def test_a_release_that_is_loaded_later_has_the_changes(folder: Path, data: Path, tmp_path: Path) -> None:
    with living(folder, data) as live:
        live.upsert(by_features("new", ITEM, title="New"), by_vector("ready", "dot", [1.0] * 8))
        live.delete("i4")
        later = Recomputed(build("later", tmp_path, folder))
        assert live.own.load("later") == "LOADED"
        live.own.activate("later")
        live.check_vector("new", "later", later.item(ITEM))
        assert not live.has("i4", "later")
        assert not live.has("ready", "later"), "a vector of another release"
        live.upsert(by_features("newer", ITEM))
        live.check_vector("newer", "later", later.item(ITEM))
        assert live.own.info().active_release == "later"
        items = {release.release: release.items for release in live.own.info().releases}
        assert items == {"later": 40 - 1 + 2, "dot": ITEMS - 1 + 3}


def test_a_release_is_spared_the_changes_that_it_was_built_with(folder: Path, data: Path, tmp_path: Path) -> None:
    with living(folder, data) as live:
        live.upsert(by_features("contained", ITEM))
        position = live.delete("i4").log_position
        live.upsert(by_features("beyond", ITEM))
        live.delete("i5")
        build("later", tmp_path, folder, log_position=position)
        assert live.own.load("later") == "LOADED"
        for _ in range(2):  # as it was loaded, and once more changes came
            assert not live.has("contained", "later") and live.has("i4", "later")
            assert live.has("beyond", "later") and not live.has("i5", "later")
            live.upsert(by_features("after", ITEM))
        assert live.has("after", "later")


def test_a_release_with_changes_of_a_longer_log_gets_all_that_come(folder: Path, data: Path, tmp_path: Path) -> None:
    build("elsewhere", tmp_path, folder, log_position=100)
    (folder / "active").write_text("elsewhere\n")
    with living(folder, data) as live:
        assert live.upsert(by_features("new", ITEM)).log_position == 101
        assert live.has("new", "elsewhere")
    with living(folder, data) as live:
        assert live.has("new", "elsewhere")
        assert live.delete("new").log_position == 102
        assert not live.has("new", "elsewhere")


# ---- restarts


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_starts_again_has_the_same_catalog(folder: Path, data: Path, number: signal.Signals) -> None:
    with living(folder, data) as live:
        before = make_changes(live)
        position = live.upsert(by_features("last", ITEM)).log_position
        live.own.server.send(number)
        live.own.server.ended()
    with living(folder, data) as live:
        assert catalog_of(live, *before) == before
        assert live.upsert(by_features("next", ITEM)).log_position == position + 1
        live.upsert(by_features("new", {**ITEM, "item_price": 2.0}, 6))
        assert catalog_of(live, *before) == before, "its sequence is remembered"


def test_a_worker_that_is_replaced_has_the_same_catalog(folder: Path, data: Path) -> None:
    with living(folder, data) as live:
        before = make_changes(live)
        for worker in workers(live.own.server):
            replaced(live.own.server, worker)
        with reached(live.own) as again:
            assert catalog_of(again, *before) == before
            again.upsert(by_features("after", ITEM))
            assert again.has("after", "dot")


def test_another_server_on_the_data_of_one_that_runs_ends_with_the_reason(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    with living(folder, data) as live:
        with starting(folder, data) as second:
            assert second.ended() == 1
            assert "another server keeps the item changes of" in second.log()
            assert "give each server a folder of its own by --data" in second.log()
        live.upsert(by_features("new", ITEM))
        with living(folder, tmp_path / "others") as other:
            assert not other.has("new", "dot")


# ---- damage


def refused_start(folder: Path, data: Path) -> str:
    with starting(folder, data) as server:
        assert server.ended() == 1
        assert "Traceback" not in server.log()
        return server.log()


def test_a_server_does_not_start_on_a_log_that_is_damaged_before_its_end(folder: Path, data: Path) -> None:
    with living(folder, data) as live:
        live.upsert(by_features("first", ITEM))
        live.upsert(by_features("second", ITEM))
    log = log_of(data)
    content = bytearray(log.read_bytes())
    content[40] ^= 1
    log.write_bytes(content)
    assert "is damaged at byte 19, and holds changes behind that; put back a copy" in refused_start(folder, data)
    assert log.read_bytes() == content
    log.write_bytes(b"something else")
    assert "is no log of item changes that this version can read" in refused_start(folder, data)
    log.unlink()
    with living(folder, data) as live:
        assert not live.has("first", "dot")


def test_a_large_call_is_whole_though_it_is_logged_in_pieces(folder: Path, data: Path) -> None:
    with living(folder, data) as live:
        changes = [by_vector(f"b{i}", "dot", [float(i)] * 8) for i in range(700)]
        assert live.upsert(*changes).log_position == 700
        for item_id in ("b0", "b255", "b256", "b699"):
            live.check_vector(item_id, "dot", np.full(8, float(item_id[1:])))
        assert live.delete(*(f"b{i}" for i in range(600))).log_position == 1300
        assert not live.has("b599", "dot") and live.has("b600", "dot")


def test_a_server_starts_on_a_torn_log_and_says_so(folder: Path, data: Path) -> None:
    with living(folder, data) as live:
        live.upsert(by_features("first", ITEM))
        live.upsert(by_features("second", ITEM))
    log = log_of(data)
    os.truncate(log, log.stat().st_size - 3)
    with living(folder, data) as live:
        assert live.has("first", "dot") and not live.has("second", "dot")
        assert "were never written to their end and do not count" in live.own.server.log()
        live.upsert(by_features("third", ITEM))
        assert live.has("third", "dot")


def test_a_full_disk_is_unavailable_and_loses_nothing(folder: Path, data: Path) -> None:
    with living(folder, data) as live:
        live.upsert(by_features("before", ITEM))
        size = log_of(data).stat().st_size
        for worker in workers(live.own.server):
            resource.prlimit(worker, resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
        for call in (lambda: live.upsert(by_features("during", ITEM)), lambda: live.delete("before")):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert error.details() == (
                "STORE_UNAVAILABLE: the log of changes cannot be written; nothing was changed, try again"
            )
        assert live.has("before", "dot") and not live.has("during", "dot")
        for worker in workers(live.own.server):
            resource.prlimit(worker, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        live.upsert(by_features("after", ITEM))
        assert live.has("after", "dot")
    with living(folder, data) as live:
        assert live.has("before", "dot") and live.has("after", "dot") and not live.has("during", "dot")


def test_without_its_log_a_server_serves_on_and_takes_no_changes(folder: Path, data: Path) -> None:
    with living(folder, data) as live:
        live.upsert(by_features("before", ITEM))
        shutil.rmtree(log_of(data).parents[1])
        with pytest.raises(grpc.RpcError, match="STORE_UNAVAILABLE"):
            live.upsert(by_features("during", ITEM))
        assert live.has("before", "dot")
        request = v1.GetItemEmbeddingRequest(item_id="before")
        vector = live.own.serving.GetItemEmbedding(request).embedding.values
        np.testing.assert_allclose(vector, live.vectors("before", "dot")[0])  # type: ignore[arg-type]

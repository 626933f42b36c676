"""Workers that hang are found and replaced; those that only stand still for a while are not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import grpc
import pytest

from tests.life.conftest import Start, StartOwn
from tests.life.workers import BLOCKING
from tests.reliability.load import caller
from tests.reliability.serving import Own
from tests.rpc.messages import ITEM, USER, item, user
from tests.supervisor.running import PATIENCE_S, alive, until
from twotower import v1

REQUEST = v1.GetUserEmbeddingRequest(user=caller(1))


def served(own: Own) -> bool:
    try:
        return bool(own.serving.GetUserEmbedding(REQUEST, timeout=1).release)
    except grpc.RpcError:
        return False


def test_a_stopped_worker_is_replaced_and_the_reason_logged(start_own: StartOwn) -> None:
    own = start_own("--hang-s", "1")
    (worker,) = own.server.children()
    os.kill(worker, signal.SIGSTOP)
    until(lambda: not alive(worker))
    until(lambda: served(own))
    assert "worker 0 hangs: it has not moved for 1 s; ending it" in own.server.log()
    assert "worker 0: it hangs: it has not moved for 1 s; another starts" in own.server.log()
    assert "memory" not in own.server.log()


def test_where_a_worker_hangs_is_in_the_log(start_own: StartOwn) -> None:
    own = start_own("--hang-s", "1", worker="tests.life.workers:hold")
    call = own.serving.GetUserEmbedding.future(v1.GetUserEmbeddingRequest(user=user(USER, user_id=BLOCKING)))
    assert call.exception(PATIENCE_S).code() is grpc.StatusCode.UNAVAILABLE
    until(lambda: served(own))
    assert "Fatal Python error: Aborted" in own.server.log()
    assert "in held" in own.server.log()


def test_a_worker_that_stands_still_for_less_is_kept(start_own: StartOwn) -> None:
    own = start_own("--hang-s", "30")
    (worker,) = own.server.children()
    os.kill(worker, signal.SIGSTOP)
    time.sleep(3)  # longer than it may, to count as healthy
    os.kill(worker, signal.SIGCONT)
    until(lambda: served(own))
    assert own.server.children() == [worker]


def test_nothing_hangs_where_all_processes_were_paused(start_own: StartOwn) -> None:
    own = start_own("--hang-s", "1", "--workers", "2")
    workers = own.server.children()
    # As a container is frozen: the order does not matter then, so that the supervisor goes first, and on last.
    processes = [own.server.process.pid, *workers]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    time.sleep(3)
    for process in reversed(processes):
        os.kill(process, signal.SIGCONT)
    time.sleep(2)
    assert set(own.server.children()) == set(workers)
    assert served(own)


@pytest.mark.parametrize("options", [(), ("--hang-s", "0")])
def test_a_worker_that_never_serves_is_replaced(start: Start, options: tuple[str, ...]) -> None:
    server = start("--start-s", "4", *options, worker="tests.life.workers:open_for_ever_once")
    server.ready()
    assert "worker 0: it hangs: it did not serve within 4 s of its start; another starts" in server.log()


def test_opening_a_release_may_take_longer_than_standing_still(start: Start) -> None:
    server = start("--hang-s", "2", worker="tests.life.workers:open_slowly")
    server.ready()
    assert "hangs" not in server.log()


def test_a_worker_that_was_stopped_with_the_lock_of_the_log_holds_up_no_change(
    start_own: StartOwn, tmp_path: Path
) -> None:
    own = start_own("--hang-s", "2", "--workers", "2", worker="tests.life.workers:stop_with_the_lock")
    change = v1.ItemChange(item=item(ITEM, item_id="i-new"))
    request = v1.UpsertItemsRequest(changes=[change])

    def upserted() -> bool:
        with grpc.insecure_channel(own.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                v1.CatalogServiceStub(channel).UpsertItems(request, timeout=PATIENCE_S)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                return False
            return True

    until(upserted)
    assert (tmp_path / "data-0" / "stopped-with-the-lock").exists()
    assert "hangs: it has not moved for 2 s" in own.server.log()


def test_a_killed_worker_is_said_to_have_run_out_of_memory_perhaps(start_own: StartOwn) -> None:
    own = start_own()
    (worker,) = own.server.children()
    os.kill(worker, signal.SIGKILL)
    until(lambda: "was killed by SIGKILL, perhaps because memory ran out; another starts" in own.server.log())
    until(lambda: served(own))

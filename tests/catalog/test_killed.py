"""kill -9 of workers and of whole servers, at random, while changes come: what was acknowledged stays."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.catalog.conftest import recovered
from tests.catalog.live import Live, by_vector, living, reached, replaced, workers
from tests.rpc.messages import USER, user
from tests.rpc.recomputed import Recomputed
from tests.supervisor.running import alive, children, until
from twotower import v1

SERVE_LOG = Path(__file__).with_name("serve_log.py")
LOG_KILLS = 150
SERVER_KILLS = 8
IDS = [f"item-{i}" for i in range(12)]
GONE = None


# ---- the log alone: many deaths in little time


class Said:
    """What processes say that append changes, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line for line in self.process.stdout if line.endswith("\n"))

    def end(self) -> None:
        """Kills the server, whose processes end with it, and waits for their last words."""
        self.process.kill()
        self.process.wait()
        self._reading.join()


@contextmanager
def log_server(folder: Path) -> Iterator[Said]:
    command = [sys.executable, str(SERVE_LOG), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = Said(process)
        try:
            yield said
        finally:
            said.end()


def test_the_log_keeps_what_was_acknowledged_over_many_deaths(tmp_path: Path) -> None:
    order = random.Random(1)
    acknowledged: dict[str, int] = {}
    deaths = 0
    while deaths < LOG_KILLS:
        with log_server(tmp_path) as said:
            for _ in range(order.randint(3, 20)):
                heard = len(said.lines)
                until(lambda heard=heard, said=said: len(said.lines) > heard + 1)  # type: ignore[misc]
                time.sleep(order.random() * 0.01)
                living = children(said.process.pid)
                if living:
                    os.kill(order.choice(living), signal.SIGKILL)
                    deaths += 1
        deaths += 1
        for line in said.lines[1:]:
            _, position, names = line.split()
            listed = names.split(",")
            acknowledged |= {name: int(position) - len(listed) + 1 + i for i, name in enumerate(listed)}
        found = {change.item_id: change.position for change in recovered(tmp_path).all()}
        assert sorted(found.values()) == list(range(1, len(found) + 1))
        lost = {name: position for name, position in acknowledged.items() if found.get(name) != position}
        assert not lost
    assert len(acknowledged) > LOG_KILLS


# ---- whole servers, seen by a client


class Client:
    """Upserts and deletes, one call after the other, and remembers what each item may be."""

    def __init__(self) -> None:
        # The first value of an item's vector, or GONE: one when the last change was acknowledged, more when it may
        # have been applied or not.
        self.possible: dict[str, set[float | None]] = {item_id: {GONE} for item_id in IDS}
        self.acknowledged = self.failed = 0
        self._order = random.Random(2)
        self._number = 0.0

    def change(self, live: Live) -> None:
        item_id = self._order.choice(IDS)
        self._number += 1
        deletes = self._order.random() < 0.3
        value = GONE if deletes else self._number
        try:
            if deletes:
                live.delete(item_id)
            else:
                live.upsert(by_vector(item_id, "dot", [self._number, *[0.0] * 7]))
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error
            self.possible[item_id].add(value)
            self.failed += 1
        else:
            self.possible[item_id] = {value}
            self.acknowledged += 1

    def check(self, live: Live) -> None:
        """That all connections agree, and on what is possible."""
        for item_id in IDS:
            found = {GONE if vector is None else float(vector[0]) for vector in live.vectors(item_id, "dot")}
            assert len(found) == 1, f"connections disagree on {item_id}: {found}"
            assert found <= self.possible[item_id], f"{item_id} is {found}, not of {self.possible[item_id]}"
            self.possible[item_id] = found


@contextmanager
def changing(client: Client, live: Live) -> Iterator[None]:
    """Changes come for as long as the block lasts. Raises what the client meets with."""
    stop = threading.Event()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            while not stop.is_set():
                client.change(live)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if raised:
        raise raised[0]


def test_servers_keep_what_was_acknowledged_over_many_deaths(folder: Path, data: Path) -> None:
    order = random.Random(3)
    client = Client()
    kills = 0
    while kills < SERVER_KILLS:
        with ExitStack() as started:
            live = started.enter_context(living(folder, data))
            client.check(live)
            while kills < SERVER_KILLS:
                kills += 1
                whole = order.random() < 0.4
                with changing(client, live):
                    time.sleep(order.random() * 0.3)
                    if whole:
                        live.own.server.send(signal.SIGKILL)
                        live.own.server.ended()
                    else:
                        replaced(live.own.server, order.choice(workers(live.own.server)))
                if whole:
                    break
                live = started.enter_context(reached(live.own))
                client.check(live)
    with living(folder, data) as live:
        client.check(live)
    assert client.acknowledged > SERVER_KILLS


# ---- nobody is killed: everything at once


@pytest.mark.parametrize("rounds", [150])
def test_searches_among_changes_never_fail_and_never_find_what_was_deleted(
    folder: Path, data: Path, releases: Path, rounds: int
) -> None:
    dot = Recomputed(releases / "dot")
    query = dot.user(USER)
    state = dict.fromkeys(IDS, (0, "out"))  # a number that grows with every change, and how it stands
    raised: list[BaseException] = []
    searched = 0
    stop = threading.Event()

    def change(live: Live, ids: list[str]) -> None:
        for number in range(rounds):
            item_id = ids[number % len(ids)]
            upserts = state[item_id][1] == "out"
            state[item_id] = (number, "changing")
            if upserts:
                live.upsert(by_vector(item_id, "dot", [float(v) for v in query * (50.0 + number)]))
            else:
                assert not live.delete(item_id).missing_indices
            state[item_id] = (number, "in" if upserts else "out")

    def search(live: Live, at: int) -> None:
        nonlocal searched
        serving = live.connections[at].serving
        while not stop.is_set():
            before = dict(state)
            recommended = serving.Recommend(v1.RecommendRequest(user=user(USER), k=len(IDS) + 5))
            found = {item.item_id for item in recommended.items}
            scored = serving.Score(v1.ScoreRequest(user=user(USER), item_ids=IDS))
            missing = {IDS[i] for i in scored.missing_indices}
            assert len(recommended.items) == len(IDS) + 5
            assert np.all(np.diff([item.similarity for item in recommended.items]) <= 0)
            for item_id, stood in before.items():
                if stood == state[item_id] and stood[1] != "changing":
                    assert (item_id in found) == (stood[1] == "in")
                    assert (item_id in missing) == (stood[1] == "out")
            searched += 1

    def guarded(call: object, *arguments: object) -> None:
        try:
            call(*arguments)  # type: ignore[operator]
        except BaseException as error:
            raised.append(error)
            stop.set()

    with living(folder, data) as live, reached(live.own) as other:
        writers = [
            threading.Thread(target=guarded, args=(change, one, IDS[part::2])) for part, one in enumerate((live, other))
        ]
        readers = [threading.Thread(target=guarded, args=(search, live, at)) for at in range(4)]
        for thread in (*readers, *writers):
            thread.start()
        for thread in writers:
            thread.join()
        stop.set()
        for thread in readers:
            thread.join()
        if raised:
            raise raised[0]
        assert searched > rounds / 5
        assert all(alive(worker) for worker in workers(live.own.server))

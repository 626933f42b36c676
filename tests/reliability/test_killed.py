"""SIGKILL between any two steps: what runs goes on, and what starts again serves one whole release."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from tests.orthogonal import build_orthogonal
from tests.reliability import killed
from tests.reliability.conftest import stamp
from tests.reliability.load import IDS, Expected, Load, Switched, caller, persisting, stale, switched
from tests.reliability.serving import StartOwn, connected, starting
from tests.supervisor.running import PATIENCE_S, alive, until
from twotower import v1
from twotower_server.release.fleet import Fleet
from twotower_server.release.repository import LocalRepository
from twotower_server.release.stamp import is_stamped

CONNECTIONS = 8
OTHER = {"left": "right", "right": "left"}
REQUEST = v1.ScoreRequest(user=caller(1), item_ids=IDS)


def effective(steps: list[str]) -> list[str]:
    """The steps that another process, or a server that starts later, can notice."""
    return [step for step in steps if step.startswith(("page", "os.rename"))]


def test_a_supervisor_killed_at_any_step_of_a_switch(
    folder: Path, tmp_path: Path, expected: Mapping[str, Expected]
) -> None:
    data, steps_file = tmp_path / "data", tmp_path / "steps"
    stamp(folder, data)
    fleet = Fleet(LocalRepository(folder))
    steps: list[str] = []
    step = 0  # of none at first, to see which there are
    while step <= len(steps):
        serves = fleet.active()
        environ = {
            killed.STEP: str(step),
            killed.STEPS: str(steps_file),
            killed.PLACES: os.pathsep.join((str(folder), str(data))),
        }
        with (
            starting(folder, data, patch="tests.reliability.killed:kill_supervisor", **environ) as server,
            connected(server) as own,
        ):
            answer = own.serving.Score(REQUEST)
            assert answer.release == own.active() == serves, f"after step {step}"
            expected[serves].check_scores("Score", answer, expected[serves].users[1])
            workers = server.children()
            with suppress(grpc.RpcError):
                own.load(OTHER[serves])
                own.activate(OTHER[serves])
            if step:
                assert server.ended() == -signal.SIGKILL
                until(lambda workers=workers: not any(alive(pid) for pid in workers))  # type: ignore[misc]
        if not step:
            steps = steps_file.read_text().splitlines()
            assert effective(steps) == [
                *("page.next", "page.current"),  # loaded
                *("page.next", "os.rename ~history", "os.rename active", "page.current"),  # activated
            ]
        step = next((at for at, name in enumerate(steps, 1) if at > step and effective([name])), len(steps) + 1)
        # The pointer names one of the two, and all that stands beside it can be read.
        assert fleet.active() in OTHER
        assert isinstance(json.loads((folder / "~history").read_text()), list)
        assert fleet.previous(fleet.active()) in (None, OTHER[fleet.active()])
        assert fleet.repository.names() == ["left", "right"]


def test_a_verifier_killed_at_any_step_leaves_no_stamp(start: StartOwn, folder: Path, tmp_path: Path) -> None:
    for name in ("first", "new"):
        build_orthogonal(name, 1, folder)
    own, data = start(verifier="tests.reliability.killed:verify_until_killed"), tmp_path / "data"
    (data / killed.VERIFIER_STEP).write_text("0")
    assert own.load("first") == "LOADED"
    until((data / killed.VERIFIER_STEPS).exists)
    steps = int((data / killed.VERIFIER_STEPS).read_text())
    for step in (1, steps // 2, steps - 2, steps - 1):  # before the stamp is written, and before it gets its name
        (data / killed.VERIFIER_STEP).write_text(str(step))
        assert own.load("new") == "REFUSED"
        assert not is_stamped(folder / "new", data)
        assert own.serving.Score(REQUEST).release == "left"
    (data / killed.VERIFIER_STEP).write_text("0")
    assert own.load("new") == "LOADED"
    assert is_stamped(folder / "new", data)


def test_the_only_worker_killed_in_the_middle_of_a_switch(start: StartOwn, tmp_path: Path) -> None:
    own = start(worker="tests.reliability.killed:work_until_killed")
    (before,) = own.server.children()
    (tmp_path / "data" / "kill").write_text(killed.POINTS[1])
    own.releases.LoadRelease(v1.LoadReleaseRequest(release="right"))
    until(lambda: not alive(before))
    # Its replacement takes part in the switch that goes on.
    until(lambda: "loaded release right" in own.server.log())
    grpc.channel_ready_future(own.channel).result(PATIENCE_S)
    assert own.activate("right") == "left"
    assert own.serving.Score(REQUEST).release == "right"


@pytest.mark.asyncio
async def test_workers_killed_in_the_middle_of_switches_under_load(
    start: StartOwn, folder: Path, tmp_path: Path, expected: Mapping[str, Expected]
) -> None:
    build_orthogonal("third", 1, folder)
    third = {**expected, "third": Expected(folder / "third")}
    own = start("--workers", "2", "--keep-releases", "5", worker="tests.reliability.killed:work_until_killed")
    load = Load(own.target, third, kills=True, pins=["left"])
    switches = [Switched(0.0, 0.0, "left")]
    order = tmp_path / "data" / "kill"

    async def killing() -> None:
        for number, point in enumerate(killed.POINTS):
            await load.answered({"Score", "Recommend"}, switches[-1].returned)
            order.write_text(point)
            if number < 2:
                release = ("right", "third")[number]
                state = await asyncio.to_thread(persisting, own, lambda release=release: own.load(release))
                assert state == "LOADED"
                load.pins.append(release)
            switches.append(await switched(own, next(name for name in load.pins if name != switches[-1].release)))
            assert not order.exists(), f"one was killed {point}"
            # While the replacement starts and joins, the other is switched.
            while own.server.log().count("is ready") < 3 + number:
                switches.append(await switched(own, next(n for n in load.pins if n != switches[-1].release)))
                await load.answered({"Score", "Recommend"}, switches[-1].returned)

    await load.run(CONNECTIONS, killing)
    assert stale(load.observed, switches) == []
    assert own.server.log().count("was killed by SIGKILL") == len(killed.POINTS)

"""Processes of a server that a test kills at a chosen step."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from twotower_server import app
from twotower_server.config import Config
from twotower_server.release.snapshot import Snapshot
from twotower_server.rpc.server import RpcServer
from twotower_server.supervisor import verifier
from twotower_server.supervisor.child import Parent
from twotower_server.supervisor.follower import Follower
from twotower_server.supervisor.job import Job
from twotower_server.supervisor.page import Page
from twotower_server.supervisor.switch import Switch

_open_release = app.open_release


def verify_killed_once(job: Job, parent: Parent) -> None:
    """A verifier that is killed, as by the kernel when memory runs out, the first time that it runs."""
    once = job.config.data / "killed-once"
    if not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    verifier.run(job, parent)


def work_but_open_right_badly(job: Job, parent: Parent) -> None:
    """A worker; that of slot 1 has no memory for the release `right`."""

    def open_release(config: Config, folder: Path) -> Snapshot:
        if job.slot == 1 and folder.name == "right":
            raise MemoryError
        return _open_release(config, folder)

    app.open_release = open_release
    app.run_worker(job, parent)


# ---- the supervisor, killed at one of its steps

STEP = "TEST_KILL_AT_STEP"  # environment: kill before this step; 0 = never
STEPS = "TEST_KILL_STEPS"  # environment: the file to which the steps are written
PLACES = "TEST_KILL_PLACES"  # environment: the folders in which changes are steps
_EVENTS = ("open", "os.remove", "os.rename")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def kill_supervisor() -> None:
    """Counts what the supervisor changes on disk and on the page, from its first ReleaseService call on.

    It is killed just before the step that the environment names.
    """
    at, steps = int(os.environ[STEP]), Path(os.environ[STEPS])
    places = os.environ[PLACES].split(os.pathsep)
    done: list[str] = []
    armed = False

    def step(name: str) -> None:
        if not armed:
            return
        done.append(name)
        if len(done) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        with os.fdopen(os.open(steps, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "w") as file:
            file.write(f"{name}\n")

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event not in _EVENTS or (event == "open" and not given[2] & _WRITES):
            return
        # Every server reports all the time: that is no step of the switch.
        if str(given[0]).startswith(tuple(places)) and "~servers" not in str(given[0]):
            step(f"{event} {Path(given[1] if event == 'os.rename' else given[0]).name}")

    def store(word: str) -> property:
        found = getattr(Page, word)

        def set_word(page: Page, number: int) -> None:
            step(f"page.{word}")
            found.fset(page, number)

        return property(found.fget, set_word)

    def arming(method: str) -> Any:
        call = getattr(Switch, method)

        async def armed_call(*args: Any, **kwargs: Any) -> Any:
            nonlocal armed
            armed = True
            return await call(*args, **kwargs)

        armed_call.__name__ = method
        return armed_call

    sys.addaudithook(hook)
    for word in ("current", "next"):
        setattr(Page, word, store(word))
    for method in ("load", "activate"):
        setattr(Switch, method, arming(method))


# ---- workers, killed while they open a generation

POINTS = ("before a release is opened", "after a release was opened", "before a generation is ready", "after it is")


def work_until_killed(job: Job, parent: Parent) -> None:
    """A worker that is killed at the point which the file `kill` in the data folder names; it is removed then."""
    order = job.config.data / "kill"

    def reach(point: int) -> None:
        try:
            if order.read_text() == POINTS[point]:
                order.unlink()  # by one worker alone
                os.kill(os.getpid(), signal.SIGKILL)
        except FileNotFoundError:
            return

    def open_release(config: Config, folder: Path) -> Snapshot:
        reach(0)
        snapshot = _open_release(config, folder)
        reach(1)
        return snapshot

    prepare = Follower._prepare

    async def prepare_and_reach(self: Follower, number: int) -> None:
        reach(2)
        await prepare(self, number)
        reach(3)

    set_serving = RpcServer.set_serving

    async def set_serving_late(self: RpcServer, serving: bool) -> None:
        # Calls come as soon as the port is bound, which is before the supervisor hears of the worker.
        await asyncio.sleep(0.5 if serving else 0.0)
        await set_serving(self, serving)

    app.open_release = open_release
    setattr(Follower, "_prepare", prepare_and_reach)  # noqa: B010
    setattr(RpcServer, "set_serving", set_serving_late)  # noqa: B010
    app.run_worker(job, parent)


# ---- the verifier, killed at one of its steps

VERIFIER_STEP = "kill-verifier-at"  # file in the data folder: kill before this step; 0 = never
VERIFIER_STEPS = "verifier-steps"  # file in the data folder: how many steps there were


def verify_until_killed(job: Job, parent: Parent) -> None:
    """A verifier that is killed just before one of the files that it opens, makes or renames."""
    at = int((job.config.data / VERIFIER_STEP).read_text())
    steps = 0

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal steps
        if event in _EVENTS and str(given[0]).startswith((str(job.release), str(job.config.data / "verified"))):
            steps += 1
            if steps == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    verifier.run(job, parent)
    (job.config.data / VERIFIER_STEPS).write_text(str(steps))

"""Workers that do at will what others do by mishap."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twotower_server import app
from twotower_server.catalog.log import Log
from twotower_server.config import Config
from twotower_server.release.snapshot import Snapshot
from twotower_server.rpc.servicer import TwoTowerServicer
from twotower_server.supervisor.child import Parent
from twotower_server.supervisor.job import Job

HELD = "held"  # a user whose calls are not answered before there is the file `go` in the data folder
BLOCKING = "blocking"  # a user whose call blocks its worker for ever
_open_release = app.open_release


def hold(job: Job, parent: Parent) -> None:
    """Answers calls for some users late, or never."""
    answer = TwoTowerServicer.get_user_embedding

    async def held(self: TwoTowerServicer, request: Any) -> Any:
        if request.user.user_id == HELD:
            (job.config.data / f"begun-{time.monotonic_ns()}").touch()
            while not (job.config.data / "go").exists():
                await asyncio.sleep(0.01)
        while request.user.user_id == BLOCKING:
            time.sleep(1.0)
        return await answer(self, request)

    setattr(TwoTowerServicer, "get_user_embedding", held)  # noqa: B010
    app.run_worker(job, parent)


def stop_with_the_lock(job: Job, parent: Parent) -> None:
    """Stops (SIGSTOP) while it holds the lock of the log of changes: one worker, once."""
    locked = Log.locked
    once = job.config.data / "stopped-with-the-lock"

    @contextmanager
    def lock_and_stop(self: Log) -> Iterator[None]:
        with locked(self):
            if not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGSTOP)
            yield

    setattr(Log, "locked", lock_and_stop)  # noqa: B010
    app.run_worker(job, parent)


def open_for_ever_once(job: Job, parent: Parent) -> None:
    """The first worker never gets its release open, although it beats."""
    once = job.config.data / "opens-for-ever"

    def open_release(config: Config, folder: Path) -> Snapshot:
        if not once.exists():
            once.touch()
            time.sleep(3600)
        return _open_release(config, folder)

    app.open_release = open_release
    app.run_worker(job, parent)


def open_slowly(job: Job, parent: Parent) -> None:
    """Opening takes longer than a worker may stand still, as that of a large release on a slow disk."""

    def open_release(config: Config, folder: Path) -> Snapshot:
        time.sleep(2 * config.hang_s)
        return _open_release(config, folder)

    app.open_release = open_release
    app.run_worker(job, parent)

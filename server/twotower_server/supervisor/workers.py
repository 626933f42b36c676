"""Keeps a worker running in every slot: replaces those that end, and ends those that hang."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from twotower_server.errors import ReleaseRefused
from twotower_server.supervisor.answers import Answers
from twotower_server.supervisor.board import Board, Phase
from twotower_server.supervisor.errors import WorkerFailed
from twotower_server.supervisor.hang import until_it_hangs
from twotower_server.supervisor.job import Event, Job, Reload, Report
from twotower_server.supervisor.process import Process
from twotower_server.supervisor.processes import Processes

log = logging.getLogger(__name__)

# A worker that served this long had a sound start: what ends it later is no crash loop.
_SOUND_S = 30.0
_MAX_FAILURES = 5
_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 5.0


class Workers:
    """Lives in the supervisor, on its event loop."""

    def __init__(
        self,
        job: Job,
        entry: str,
        release: str,
        processes: Processes,
        board: Board,
        answers: Answers,
        on_ready: Callable[[], None],
    ) -> None:
        """job: what all processes are told. entry: of the workers. release: that they open first.

        on_ready: called once, when all workers serve.
        """
        self._job = job
        self._release = release
        self._entry = entry
        self._processes = processes
        self._board = board
        self._answers = answers
        self._on_ready = on_ready
        self._running: dict[int, Process] = {}  # by slot
        self._ready: set[int] = set()
        self._announced = False

    def reload(self) -> None:
        """Has all workers read certificates and tokens again."""
        for worker in self._running.values():
            worker.tell(Reload())

    async def keep(self, slot: int) -> None:
        """Keeps one worker running. Raises when workers end in a loop and none is left."""
        failures = 0
        while True:
            why, served_s = await self._run(slot)
            failures = 1 if served_s >= _SOUND_S else failures + 1
            if failures >= _MAX_FAILURES and not self._ready:
                raise WorkerFailed(f"worker {slot} failed {failures} times in a row; at last: {why}")
            backoff_s = min(_FIRST_BACKOFF_S * 2 ** (failures - 1), _MAX_BACKOFF_S)
            log.warning("worker %d: %s; another starts in %.1f s", slot, why, backoff_s)
            await asyncio.sleep(backoff_s)

    async def _run(self, slot: int) -> tuple[str, float]:
        """Starts a worker and attends to it until it has ended: why it did, and how long it served."""
        row = self._board.rows[slot]
        row.starts += 1
        job = replace(self._job, name=f"worker {slot}", slot=slot)
        worker = self._running[slot] = await self._processes.start(self._entry, job)
        watching = asyncio.create_task(self._watch(slot, worker))
        try:
            served_s = 0.0
            report = await worker.says()
            if isinstance(report, Report) and report.event is Event.DONE:
                ready_at = time.monotonic()
                self._is_ready(slot, worker)
                report = await self._answers.attend(worker)
                served_s = time.monotonic() - ready_at
            row.pid = 0
            row.phase = Phase.STARTING
            self._ready.discard(slot)
            end = await self._processes.ended(worker)
        finally:
            watching.cancel()
        return self._cannot_serve(report) if isinstance(report, Report) else end, served_s

    async def _watch(self, slot: int, worker: Process) -> None:
        """Ends a worker that hangs."""
        config, row = self._job.config, self._board.rows[slot]
        why = await until_it_hangs(row, lambda: slot in self._ready, config.hang_s, config.start_s)
        log.error("%s %s; ending it", worker.name, why)
        await worker.end(f"it {why}")

    def _is_ready(self, slot: int, worker: Process) -> None:
        self._ready.add(slot)
        log.info("%s is ready (process %d)", worker.name, worker.pid)
        if len(self._ready) == self._job.config.workers and not self._announced:
            self._announced = True
            self._on_ready()

    def _cannot_serve(self, report: Report) -> str:
        """Why a worker ended. Raised while the server itself starts: another try would not help."""
        if not self._announced and report.event is Event.REFUSED:
            raise ReleaseRefused(f"release {self._release}: {report.reason}")
        if not self._announced:
            raise WorkerFailed(report.reason)
        return report.reason

"""Verification, seen from the supervisor: once for each release and machine, in a process of its own."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

from twotower_server.errors import ReleaseRefused, TwoTowerError
from twotower_server.release.completion import Completion
from twotower_server.release.stamp import is_stamped
from twotower_server.supervisor.job import Event, Job, Report
from twotower_server.supervisor.processes import Processes
from twotower_server.supervisor.verifier_limit import killed_by

log = logging.getLogger(__name__)


class Verification:
    """Has one release verified at a time."""

    def __init__(self, job: Job, entry: str, processes: Processes, completion: Completion) -> None:
        """job: what all processes are told. entry: of the verifier."""
        self._job = job
        self._entry = entry
        self._processes = processes
        self._completion = completion
        self._lock = asyncio.Lock()

    async def verify(self, folder: Path) -> Path:
        """Has a release verified, unless this machine did so before and no file has changed since.

        Returns what to open: its folder, or that of its copy when it lacks large files. Raises ReleaseRefused with the
        reason, and TwoTowerError.
        """
        config = self._job.config
        async with self._lock:
            try:
                place = await asyncio.to_thread(self._completion.keep, folder)
            except ReleaseRefused as error:
                raise ReleaseRefused(f"release {folder.name}: {error}") from None
            if await asyncio.to_thread(is_stamped, place, config.data):
                return place
            log.info("verifying release %s, once for this machine", folder.name)
            verifier = await self._processes.start(self._entry, replace(self._job, name="verifier", release=folder))
            report = await verifier.says()
            end = await self._processes.ended(verifier)
        if not isinstance(report, Report):
            number = verifier.signal
            why = f"the verifier {end}" if number is None else killed_by(number, config)
            raise ReleaseRefused(f"release {folder.name}: {why}")
        if report.event is Event.REFUSED:
            raise ReleaseRefused(f"release {folder.name}: {report.reason}")
        if report.event is Event.FAILED:
            raise TwoTowerError(f"release {folder.name}: {report.reason}")
        return place

"""All processes of a server, to end them together."""

from __future__ import annotations

import asyncio
import logging
from signal import SIGKILL, SIGTERM

from twotower_server.supervisor.job import Job
from twotower_server.supervisor.process import Process

log = logging.getLogger(__name__)


class Processes:
    """Those that run: workers, the verifier, the compactor."""

    def __init__(self) -> None:
        self._running: set[Process] = set()

    async def start(self, entry: str, job: Job) -> Process:
        """As `Process.start`."""
        process = await Process.start(entry, job)
        self._running.add(process)
        return process

    async def ended(self, process: Process) -> str:
        """As `Process.ended`."""
        end = await process.ended()
        self._running.discard(process)
        return end

    def pids(self) -> set[int]:
        return {process.pid for process in self._running}

    def kill(self) -> None:
        """Ends all at once, whatever they do."""
        for process in self._running:
            process.send(SIGKILL)

    async def stop(self, patience_s: float) -> bool:
        """Ends all: those that serve drain first. False when one had to be killed."""
        ends = {asyncio.create_task(process.ended()): process for process in self._running}
        for process in self._running:
            process.send(SIGTERM)
        if not ends:
            return True
        _, late = await asyncio.wait(ends, timeout=patience_s)
        for end in late:
            log.warning("%s does not end; killing it", ends[end].name)
            ends[end].send(SIGKILL)
        await asyncio.wait(ends)
        return not any(process.signal == SIGKILL for process in ends.values())

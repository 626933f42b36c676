"""A process that the supervisor started, seen from the supervisor."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from signal import Signals
from typing import Self

from twotower_server.supervisor.job import MAX_LINE_BYTES, Answer, Job, Question, Report, said

# Set before libraries are loaded, which read them once; what the operator has set counts.
ENVIRONMENT = {
    # Libraries start no threads: calls are spread over workers and the engine's threads, not inside one call.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # One heap for all threads: of a release that is closed, glibc's other heaps would keep 10 MB.
    "MALLOC_ARENA_MAX": "1",
}


class Process:
    """Started afresh (never forked: gRPC and the BLAS libraries have threads), talks over a socket pair."""

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.name = name
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, entry: str, job: Job) -> Self:
        """Runs `entry` (module:function) in a new process, which gets `job`."""
        ours, theirs = socket.socketpair()
        with theirs:
            # First, so that nothing is awaited between the start of the process and its place in our hands.
            reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE_BYTES)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "twotower_server.supervisor.child",
                str(theirs.fileno()),
                str(os.getpid()),
                entry,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**ENVIRONMENT, **os.environ},
            )
        started = cls(job.name, process, reader, writer)
        writer.write(job.to_line())
        return started

    @property
    def pid(self) -> int:
        return self._process.pid

    async def says(self) -> Report | Question | None:
        """What the process says next; None when it has ended."""
        try:
            line = await self._reader.readline()
        except ConnectionError:  # it ended before it read its job
            return None
        return said(line) if line.endswith(b"\n") else None

    def answer(self, answer: Answer) -> None:
        """Answers a question, unless the process has ended."""
        if not self._writer.is_closing():
            self._writer.write(answer.to_line())

    async def ended(self) -> str:
        """Waits for the end; says how it came, such as `was killed by SIGKILL`."""
        code = await self._process.wait()
        self._writer.close()
        if code >= 0:
            return f"ended with exit code {code}"
        return f"was killed by {Signals(-code).name}"

    @property
    def signal(self) -> Signals | None:
        """The signal that ended the process, once it has ended."""
        code = self._process.returncode
        return Signals(-code) if code is not None and code < 0 else None

    def send(self, number: Signals) -> None:
        """Sends a signal, unless the process has ended."""
        if self._process.returncode is None:
            self._process.send_signal(number)

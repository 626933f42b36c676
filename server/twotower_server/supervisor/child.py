"""The first lines of every process that the supervisor starts: `python -m twotower_server.supervisor.child`.

Arguments: the descriptor of the socket to the supervisor, the supervisor's process id, and the entry
(`module:function`).
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import itertools
import os
import signal
import socket
import sys
from contextlib import closing
from typing import Any

from twotower_server.errors import Reason, Refused
from twotower_server.supervisor import log
from twotower_server.supervisor.job import MAX_LINE_BYTES, Answer, Job, Question, Report

_PR_SET_PDEATHSIG = 1


class Parent:
    """The supervisor, seen from a process of it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._writer: asyncio.StreamWriter | None = None
        self._listening = asyncio.Event()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()

    def report(self, report: Report) -> None:
        self._send(report.to_line())

    async def listen(self) -> None:
        """Takes the answers to what is asked, until the supervisor is gone. The first report comes before it."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._connection, limit=MAX_LINE_BYTES)
        self._listening.set()
        with closing(self._writer):
            while line := await reader.readline():
                answer = Answer.from_line(line)
                asked = self._asked.pop(answer.number)
                if asked.cancelled():
                    continue
                if answer.refused is None:
                    asked.set_result(answer.value)
                else:
                    asked.set_exception(answer.refused)

    async def ask(self, method: str, **arguments: Any) -> Any:
        """Calls a method of the supervisor's `Switch`. Waits for `listen`. Raises what it refused with."""
        question = Question(next(self._numbers), method, arguments)
        line = question.to_line()
        if len(line) > MAX_LINE_BYTES:
            raise Refused(Reason.LIMIT_EXCEEDED, "the names in the request are too long, or too many")
        await self._listening.wait()
        asked = self._asked[question.number] = asyncio.get_running_loop().create_future()
        self._send(line)
        return await asked

    def _send(self, line: bytes) -> None:
        if self._writer is None:
            self._connection.sendall(line)
        else:  # which never waits for the supervisor, however busy it is
            self._writer.write(line)


def end_with(supervisor: int) -> None:
    """Lets the kernel kill this process when the supervisor dies, however it dies. Linux only.

    Elsewhere a worker notices by its socket (`Parent.listen`).
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        sys.exit("the supervisor is gone")  # before the line above could count


def main() -> None:
    descriptor, supervisor, entry = sys.argv[1:]
    # Before the heavy imports, which take a second.
    end_with(int(supervisor))
    # Ctrl-C reaches every process of a terminal; the supervisor then stops the others in order, by SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=int(descriptor))
    with connection.makefile("rb") as lines:
        line = lines.readline()
    if not line:
        sys.exit("the supervisor is gone")
    job = Job.from_line(line)
    log.configure(job.config.log_level, job.config.log_format, job.name)
    module, _, function = entry.partition(":")
    getattr(importlib.import_module(module), function)(job, Parent(connection))


if __name__ == "__main__":
    main()

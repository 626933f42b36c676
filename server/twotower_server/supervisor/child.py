"""The first lines of every process that the supervisor starts: `python -m twotower_server.supervisor.child`.

Arguments: the descriptor of the socket to the supervisor, the supervisor's process id, and the entry
(`module:function`).
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import socket
import sys

from twotower_server.supervisor import log
from twotower_server.supervisor.job import Job, Report

_PR_SET_PDEATHSIG = 1


class Parent:
    """The supervisor, seen from a process of it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def fileno(self) -> int:
        """Becomes readable when the supervisor is gone: after the job it sends nothing."""
        return self._connection.fileno()

    def report(self, report: Report) -> None:
        self._connection.sendall(report.to_line())


def end_with(supervisor: int) -> None:
    """Lets the kernel kill this process when the supervisor dies, however it dies. Linux only.

    Elsewhere a worker notices by its socket (`Parent.fileno`).
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

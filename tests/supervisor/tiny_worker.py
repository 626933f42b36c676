"""Workers that serve their process id, or nothing: to see what the supervisor does, without a release."""

from __future__ import annotations

import os
import signal
import socket
import sys

from twotower_server.supervisor.child import Parent
from twotower_server.supervisor.job import Event, Job, Report


def serve(job: Job, parent: Parent) -> None:
    """Answers every connection with the process id. Ends by SIGTERM, with exit code 0."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _listener(job) as listener:
        parent.report(Report(Event.DONE))
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(f"{os.getpid()}\n".encode())


def serve_stubbornly(job: Job, parent: Parent) -> None:
    """Does not end by SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with _listener(job):
        parent.report(Report(Event.DONE))
        while True:
            signal.pause()


def serve_once(job: Job, parent: Parent) -> None:
    """Serves, but crashes at the first connection."""
    with _listener(job) as listener:
        parent.report(Report(Event.DONE))
        listener.accept()
        os.kill(os.getpid(), signal.SIGSEGV)


def crash(job: Job, parent: Parent) -> None:
    """Ends without a word."""
    os._exit(7)


def refuse(job: Job, parent: Parent) -> None:
    """Cannot open the release."""
    parent.report(Report(Event.REFUSED, "its files have changed"))


def tell_environment(job: Job, parent: Parent) -> None:
    """Ends at once; the reason is what the process sees of its surroundings."""
    parent.report(
        Report(Event.FAILED, f"threads {os.environ['OMP_NUM_THREADS']}, grace {job.config.grace_s:g}, {job.name}")
    )


def _listener(job: Job) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((job.address.host, job.address.port))
    listener.listen()
    return listener

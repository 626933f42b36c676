"""A server with nothing but a log: serve_log.py FOLDER. Two processes append changes for ever; each prints what it has.

A line is the process id, the change's position and its item. A line `start` comes first, once the log was recovered.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

from twotower_server.catalog.change import Change
from twotower_server.catalog.log import Log
from twotower_server.supervisor.child import end_with
from twotower_server.supervisor.page import Page


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # in one piece, whoever else writes


def append(folder: Path, supervisor: int) -> None:
    end_with(supervisor)
    log = Log(folder, Page(folder / "page"))
    for i in itertools.count():
        names = [f"{os.getpid()}-{i}-{part}" for part in range(1 + i % 3)]
        say(f"{os.getpid()} {log.append([Change(name) for name in names])} {','.join(names)}")


def main(folder: Path) -> None:
    Log(folder, Page(folder / "page", create=True)).recover()
    say("start")
    supervisor = os.getpid()
    for _ in range(2):
        if os.fork() == 0:
            append(folder, supervisor)
    while True:  # a worker that dies is replaced
        os.wait()
        if os.fork() == 0:
            append(folder, supervisor)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

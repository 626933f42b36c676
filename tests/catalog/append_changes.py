"""A process that appends changes: append_changes.py FOLDER PAGE NAME COUNT [END].

Prints the position of every change once it is in the log. END: `kill` = dies by SIGKILL after its last write, before
anybody can see it; `full` = may write no more than it has, from the last change on.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

from twotower_server.catalog.change import Change
from twotower_server.catalog.log import Log
from twotower_server.supervisor.page import Page


class DyingPage(Page):
    @property
    def log_end(self) -> int:
        return super().log_end

    @log_end.setter
    def log_end(self, word: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, page: Path, name: str, count: int, end: str = "") -> None:
    log = Log(folder, Page(page))
    for i in range(count):
        if i == count - 1 and end == "kill":
            log = Log(folder, DyingPage(page))
        if i == count - 1 and end == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, ((folder / "1" / "changes").stat().st_size + 10,) * 2)
        try:
            print(log.append([Change(f"{name}-{i}")]), flush=True)
        except OSError as error:
            print(type(error).__name__, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *sys.argv[5:])

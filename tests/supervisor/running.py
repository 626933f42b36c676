"""A server in processes of its own, as a test sees it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Far more than anything here takes: a test that would wait longer has failed.
PATIENCE_S = 60.0


class Server:
    """The supervisor of a server and what it says."""

    def __init__(self, command: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
        self._log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **environ},
                start_new_session=True,
            )

    def ready(self) -> dict[str, Any]:
        """Waits for the line that tells that the server is ready."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the server ended:\n{self.log()}"
        found: dict[str, Any] = json.loads(line)
        return found

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Waits for the end; the exit code."""
        return self.process.wait(PATIENCE_S)

    def log(self) -> str:
        return self._log.read_text()

    def children(self) -> list[int]:
        """Process ids of the processes that the supervisor has started."""
        return children(self.process.pid)

    def close(self) -> None:
        """Whatever a test has left of the server."""
        started = self.children()
        self.process.kill()
        self.process.wait(PATIENCE_S)
        for pid in started:
            until(lambda pid=pid: not alive(pid))  # type: ignore[misc]
        assert self.process.stdout is not None
        self.process.stdout.close()


def children(parent: int) -> list[int]:
    """Process ids of the living children of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        match = re.fullmatch(r"(\d+) \(.*\) (\S) (\d+) .*", text.strip(), re.DOTALL)
        if match and int(match[3]) == parent and match[2] != "Z":
            found.append(int(match[1]))
    return found


def alive(pid: int) -> bool:
    """False for a process that is gone, or dead but not yet waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(holds: Callable[[], object]) -> None:
    """Waits until something holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)

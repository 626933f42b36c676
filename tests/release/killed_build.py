"""`twotower release build` that kills itself at one of its steps, counted in the audit events of Python.

    python killed_build.py STEP release build --name NAME ...

A step opens, makes, renames or removes something of the unfinished release. STEP 0 kills nothing and prints the steps.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from twotower_server.cli.main import main

EVENTS = ("open", "os.mkdir", "os.remove", "os.rename")


def main_killed_at(step: int, arguments: list[str]) -> int:
    steps: list[str] = []
    unfinished = f"~building-{arguments[arguments.index('--name') + 1]}"

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event in EVENTS and unfinished in str(given[0]):
            steps.append(f"{event} {Path(given[0]).name}")
            if len(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    code = main(arguments)
    for line in steps:
        print(f"step: {line}")
    return code


if __name__ == "__main__":
    sys.exit(main_killed_at(int(sys.argv[1]), sys.argv[2:]))

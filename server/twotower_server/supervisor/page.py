"""The generation page: a few bytes of shared memory that every handler reads first (22 ns).

A generation is a whole statement of what is served (`generation.py`). Its number is all that a switch changes:

    current   what every call is served by, from the moment that it is stored
    next      what workers are to open beside it, before it becomes current

Only the supervisor writes these. Beside them stands where the log of changes ends, written by whoever holds its lock.
All are aligned 64-bit words, which a processor stores and loads in one piece. Who needs both reads `current` first:
when the log moves to another file, it is stored last.
"""

from __future__ import annotations

import mmap
from pathlib import Path

_CURRENT, _NEXT, _LOG_END, _WORDS = range(4)


class Page:
    """One process's view of the page."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """create: make the file; else it must be there."""
        with path.open("w+b" if create else "r+b") as file:
            if create:
                file.write(bytes(_WORDS * 8))  # written, for a full disk to be an error here and not a SIGBUS later
                file.flush()
            self._words = memoryview(mmap.mmap(file.fileno(), _WORDS * 8)).cast("Q")

    @property
    def current(self) -> int:
        """Number of the generation that serves; 0 = none yet."""
        return self._words[_CURRENT]

    @current.setter
    def current(self, number: int) -> None:
        self._words[_CURRENT] = number

    @property
    def next(self) -> int:
        """Number of the generation to open; equal to `current` when no switch is under way."""
        return self._words[_NEXT]

    @next.setter
    def next(self, number: int) -> None:
        self._words[_NEXT] = number

    @property
    def log_end(self) -> int:
        """Where the log of changes ends (`catalog.log.End.word`): a call that begins now sees all changes before it."""
        return self._words[_LOG_END]

    @log_end.setter
    def log_end(self, word: int) -> None:
        self._words[_LOG_END] = word

"""The board: shared memory with a row for every worker slot, written by its worker, read by everybody.

A worker that replaces a dead one goes on with the row of its slot, so counters never fall. All values are 64-bit
words. Times are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import mmap
import time
from pathlib import Path

# Releases that are counted apart. One more takes the counter that has rested longest.
COLUMNS = 1024
# Twenty missed beats: a worker that is stopped or stuck, and must not hold up the others.
HEALTHY_S = 2.0
BEAT_S = 0.1

_PID, _BEAT, _PREPARED, _REFUSED = range(4)
_COUNTERS = 8
_ROW_WORDS = _COUNTERS + COLUMNS


class Row:
    """The row of one slot.

    pid:      of the worker that serves, or is about to; 0 = none.
    prepared: the latest generation that it has opened.
    refused:  the latest generation that it could not open.
    """

    def __init__(self, words: memoryview[int]) -> None:
        self._words = words

    @property
    def pid(self) -> int:
        return self._words[_PID]

    @pid.setter
    def pid(self, pid: int) -> None:
        self._words[_PID] = pid

    @property
    def prepared(self) -> int:
        return self._words[_PREPARED]

    @prepared.setter
    def prepared(self, generation: int) -> None:
        self._words[_PREPARED] = generation

    @property
    def refused(self) -> int:
        return self._words[_REFUSED]

    @refused.setter
    def refused(self, generation: int) -> None:
        self._words[_REFUSED] = generation

    def beat(self) -> None:
        """Says that the worker is alive."""
        self._words[_BEAT] = time.monotonic_ns()

    @property
    def healthy(self) -> bool:
        """Whether there is a worker, and it has beaten lately."""
        return self.pid != 0 and time.monotonic_ns() - self._words[_BEAT] < HEALTHY_S * 1e9

    def count(self, column: int, entries: int) -> None:
        """Adds entries served to a counter. Only the worker of the slot may."""
        self._words[_COUNTERS + column] += entries

    def counted(self, column: int) -> int:
        return self._words[_COUNTERS + column]

    def forget(self, column: int) -> None:
        """Sets a counter to zero, for another release."""
        self._words[_COUNTERS + column] = 0


class Board:
    """One process's view of the board."""

    def __init__(self, path: Path, slots: int, *, create: bool = False) -> None:
        """create: make the file; else it must be there."""
        size = slots * _ROW_WORDS * 8
        with path.open("w+b" if create else "r+b") as file:
            if create:
                file.write(bytes(size))  # written, for a full disk to be an error here and not a SIGBUS later
                file.flush()
            words = memoryview(mmap.mmap(file.fileno(), size)).cast("Q")
        self.rows = [Row(words[slot * _ROW_WORDS : (slot + 1) * _ROW_WORDS]) for slot in range(slots)]

    def counted(self, column: int) -> int:
        """The sum of a counter over all workers that there were."""
        return sum(row.counted(column) for row in self.rows)

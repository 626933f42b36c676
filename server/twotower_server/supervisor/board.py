"""The board: shared memory with a row for every worker slot, written by its worker, read by everybody.

A worker that replaces a dead one goes on with the row of its slot, so counters never fall. All values are 64-bit
words. Times are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import mmap
import time
from enum import IntEnum
from pathlib import Path

from twotower_server.observe.counters import Counters
from twotower_server.observe.layout import SOURCES, WORDS

# Twenty missed beats: a worker that is stopped or stuck, and must not hold up the others.
HEALTHY_S = 2.0
BEAT_S = 0.1

_PID, _BEAT, _PREPARED, _REFUSED, _CPU, _RESIDENT, _STARTS, _DEGRADED, _PHASE = range(9)
_COUNTERS = 16
_ROW_WORDS = _COUNTERS + WORDS

_SERVER_PHASE, _CERTIFICATE_EXPIRY, _SERVER_DEGRADED, _LOG_POSITION = range(4)
_SERVER_WORDS = 8


class Phase(IntEnum):
    """How far a worker, or the server, has come."""

    STARTING = 0  # or there is no worker
    SERVING = 1
    DRAINING = 2  # it still takes calls at first, but none should be sent any more


class Row:
    """The row of one slot.

    pid:       of the worker that serves, or is about to; 0 = none.
    prepared:  the latest generation that it has opened.
    refused:   the latest generation that it could not open.
    cpu_ns:    processor time of all workers that the slot has had.
    resident_bytes: memory of the worker.
    starts:    how many workers the slot has had.
    degraded:  a bit for each of `observe.layout.PARTS` that does not work as it should.
    phase:     of the worker.
    counters:  of what it does and has done.
    """

    def __init__(self, words: memoryview[int]) -> None:
        self._words = words
        self.counters = Counters(words[_COUNTERS:])

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
    def last_beat(self) -> int:
        """When the slot's worker has last said that it is alive; nanoseconds."""
        return self._words[_BEAT]

    @property
    def healthy(self) -> bool:
        """Whether there is a worker, and it has beaten lately."""
        return self.pid != 0 and time.monotonic_ns() - self._words[_BEAT] < HEALTHY_S * 1e9

    @property
    def cpu_ns(self) -> int:
        return self._words[_CPU]

    @cpu_ns.setter
    def cpu_ns(self, value: int) -> None:
        self._words[_CPU] = value

    @property
    def resident_bytes(self) -> int:
        return self._words[_RESIDENT]

    @resident_bytes.setter
    def resident_bytes(self, value: int) -> None:
        self._words[_RESIDENT] = value

    @property
    def starts(self) -> int:
        return self._words[_STARTS]

    @starts.setter
    def starts(self, value: int) -> None:
        self._words[_STARTS] = value

    @property
    def degraded(self) -> int:
        return self._words[_DEGRADED]

    @degraded.setter
    def degraded(self, value: int) -> None:
        self._words[_DEGRADED] = value

    @property
    def phase(self) -> Phase:
        return Phase(self._words[_PHASE])

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._words[_PHASE] = phase


class Board:
    """One process's view of the board.

    phase: of the server: SERVING once all workers have served. certificate_expiry: Unix seconds; 0 = no certificate.
    degraded: as of a row, of what the supervisor does. log_position: of the last item change. Only the supervisor sets
    these.
    """

    def __init__(self, path: Path, slots: int, *, create: bool = False) -> None:
        """create: make the file; else it must be there."""
        size = (_SERVER_WORDS + slots * _ROW_WORDS) * 8
        with path.open("w+b" if create else "r+b") as file:
            if create:
                file.write(bytes(size))  # written, for a full disk to be an error here and not a SIGBUS later
                file.flush()
            self._words = memoryview(mmap.mmap(file.fileno(), size)).cast("Q")
        starts = range(_SERVER_WORDS, len(self._words), _ROW_WORDS)
        self.rows = [Row(self._words[start : start + _ROW_WORDS]) for start in starts]

    @property
    def phase(self) -> Phase:
        return Phase(self._words[_SERVER_PHASE])

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._words[_SERVER_PHASE] = phase

    @property
    def certificate_expiry(self) -> int:
        return self._words[_CERTIFICATE_EXPIRY]

    @certificate_expiry.setter
    def certificate_expiry(self, seconds: int) -> None:
        self._words[_CERTIFICATE_EXPIRY] = seconds

    @property
    def degraded(self) -> int:
        return self._words[_SERVER_DEGRADED]

    @degraded.setter
    def degraded(self, parts: int) -> None:
        self._words[_SERVER_DEGRADED] = parts

    @property
    def log_position(self) -> int:
        return self._words[_LOG_POSITION]

    @log_position.setter
    def log_position(self, position: int) -> None:
        self._words[_LOG_POSITION] = position

    @property
    def is_ready(self) -> bool:
        """Whether the server should be sent calls: it serves, and so does a healthy worker."""
        return self.phase is Phase.SERVING and any(row.healthy and row.phase is Phase.SERVING for row in self.rows)

    def served(self, column: int) -> int:
        """Entries that a release has served, by all workers that there were."""
        return sum(row.counters.served(column, source) for row in self.rows for source in range(len(SOURCES)))

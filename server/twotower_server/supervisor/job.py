"""What the supervisor and its processes say to each other: JSON lines on a socket pair.

supervisor → process   first its Job; then an Answer to every Question
process → supervisor   a Report when it is ready or cannot be; a Question when a caller wants releases changed
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from twotower_server.config import Address, Config
from twotower_server.errors import Reason, Refused

# A request of callers becomes a line, and the states of all releases do.
MAX_LINE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Job:
    """The whole task of one process.

    name:    for its log lines, such as `worker 0`.
    address: where to serve, with the real port. http: the same for HTTP; None = not.
    folder:  what the processes of the server share: page, board, generations.
    catalog: folder of the log of changes.
    slot:    a worker's row on the board.
    release: folder of the release to verify; None for workers, which look at the page.
    bases:   folders of the releases to compact, or of their bases. log_end: of the changes to compact.
    """

    name: str
    config: Config
    address: Address
    folder: Path
    catalog: Path
    slot: int = 0
    release: Path | None = None
    bases: Sequence[Path] = ()
    log_end: int = 0
    http: Address | None = None

    def to_line(self) -> bytes:
        values = {
            "name": self.name,
            "config": self.config.to_json(),
            "address": str(self.address),
            "folder": str(self.folder),
            "catalog": str(self.catalog),
            "slot": self.slot,
            "release": self.release and str(self.release),
            "bases": [str(folder) for folder in self.bases],
            "log_end": self.log_end,
            "http": self.http and str(self.http),
        }
        return _line(values)

    @classmethod
    def from_line(cls, line: bytes) -> Job:
        values = json.loads(line)
        return cls(
            values["name"],
            Config(**values["config"]),
            Address.parse(values["address"]),
            Path(values["folder"]),
            Path(values["catalog"]),
            values["slot"],
            values["release"] and Path(values["release"]),
            [Path(folder) for folder in values["bases"]],
            values["log_end"],
            values["http"] and Address.parse(values["http"]),
        )


class Event(StrEnum):
    """What a process can say."""

    DONE = "done"  # worker: it serves; verifier: the release is verified
    REFUSED = "refused"  # the release cannot be used, for a reason that another try will not change
    FAILED = "failed"  # anything else that has a reason


@dataclass(frozen=True, slots=True)
class Report:
    """One event of a process, and its reason ("" when it has none)."""

    event: Event
    reason: str = ""

    def to_line(self) -> bytes:
        return _line(asdict(self))


@dataclass(frozen=True, slots=True)
class Question:
    """A call of `Switch` that a worker passes on. number: the answer has the same."""

    number: int
    method: str
    arguments: dict[str, Any]

    def to_line(self) -> bytes:
        return _line(asdict(self))


@dataclass(frozen=True, slots=True)
class Answer:
    """value: what the method returned, as JSON; or why it refused."""

    number: int
    value: Any = None
    refused: Refused | None = field(default=None)

    def to_line(self) -> bytes:
        refused = self.refused
        why = None if refused is None else [refused.reason, refused.message, refused.field]
        return _line({"number": self.number, "value": self.value, "refused": why})

    @classmethod
    def from_line(cls, line: bytes) -> Answer:
        values = json.loads(line)
        why = values["refused"]
        return cls(values["number"], values["value"], why and Refused(Reason(why[0]), why[1], why[2]))


def said(line: bytes) -> Report | Question:
    """What a process has said in a line."""
    values = json.loads(line)
    return Report(Event(values["event"]), values["reason"]) if "event" in values else Question(**values)


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"

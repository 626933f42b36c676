"""What the supervisor tells a process that it starts, and what it hears back: JSON lines on a socket pair."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum

from twotower_server.config import Address, Config


@dataclass(frozen=True, slots=True)
class Job:
    """The whole task of one process.

    name:    for its log lines, such as `worker 0`.
    address: where to serve, with the real port.
    """

    name: str
    config: Config
    release: str
    address: Address

    def to_line(self) -> bytes:
        values = {
            "name": self.name,
            "config": self.config.to_json(),
            "release": self.release,
            "address": str(self.address),
        }
        return json.dumps(values).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Job:
        values = json.loads(line)
        return cls(values["name"], Config(**values["config"]), values["release"], Address.parse(values["address"]))


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
        return json.dumps({"event": self.event, "reason": self.reason}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Report:
        values = json.loads(line)
        return cls(Event(values["event"]), values["reason"])

"""A generation: what is served, as one statement that never changes. The page says which one counts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Loaded:
    """A release that is open in every worker.

    folder: its files on this machine, or those of it with some of the changes. column: its counter on the board.
    """

    folder: str
    column: int


@dataclass(frozen=True, slots=True)
class Generation:
    """number: rises with every switch. shares: of the traffic by release, sum 1; empty = all to the active one.

    log: number of the log of changes. log_bytes: of it that count before the switch, if it is a new one.
    """

    number: int
    active: str
    loaded: Mapping[str, Loaded]
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)
    log: int = 1
    log_bytes: int = 0

    def write(self, folder: Path) -> None:
        """Writes the generation's file. Nobody reads it before the page names it."""
        _path(folder, self.number).write_text(json.dumps(dataclasses.asdict(self)), "utf-8")

    @classmethod
    def read(cls, folder: Path, number: int) -> Generation:
        values: dict[str, Any] = json.loads(_path(folder, number).read_text("utf-8"))
        loaded = {name: Loaded(**entry) for name, entry in values["loaded"].items()}
        return cls(**{**values, "loaded": loaded})

    @staticmethod
    def remove(folder: Path, number: int) -> None:
        """Removes what belongs to a generation that no worker will open any more."""
        _path(folder, number).unlink(missing_ok=True)
        refusal_path(folder, number).unlink(missing_ok=True)


def refusal_path(folder: Path, number: int) -> Path:
    """Where a worker says why it cannot open a generation."""
    return folder / f"generation-{number}.refused"


def _path(folder: Path, number: int) -> Path:
    return folder / f"generation-{number}.json"

"""The table of what the suite did and measured, printed when it ends and kept for docs/reliability.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

# The last table of this working copy.
KEPT = Path(__file__).parents[2] / ".twotower" / "reliability.md"


@dataclass(frozen=True, slots=True)
class Row:
    """What was done to the server, the calls during it, how many of those failed at the client, and what was measured.

    calls, failed: None where nobody called.
    """

    done: str
    calls: int | None
    failed: int | None
    measured: str


@dataclass(frozen=True, slots=True)
class Figures:
    """The rows of one session of tests, in their order."""

    rows: list[Row] = field(default_factory=list)

    def add(self, done: str, *, calls: int | None = None, failed: int | None = None, measured: str = "") -> None:
        """Adds a row. done: what was done to the server. measured: such as `memory +0.4 %`."""
        self.rows.append(Row(done, calls, failed, measured))

    def table(self) -> str:
        """The rows in Markdown."""
        head = ["| what is done | calls | failed | measured |", "| --- | ---: | ---: | --- |"]
        rows = [f"| {row.done} | {_number(row.calls)} | {_number(row.failed)} | {row.measured} |" for row in self.rows]
        return "\n".join([*head, *rows])


def _number(count: int | None) -> str:
    return "" if count is None else f"{count:,}"

"""How a long build tells where it is. The command line draws bars from it; a library caller may listen or not."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Hears of stages, one after another."""

    def start(self, stage: str, total: int | None) -> None:
        """A stage begins; `total` units of work, None when unknown."""

    def advance(self, units: int) -> None:
        """Units of the current stage are done."""


class Silent:
    """Listens to nothing."""

    def start(self, stage: str, total: int | None) -> None:
        pass

    def advance(self, units: int) -> None:
        pass

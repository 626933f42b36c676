"""How far a long build is, as bars on standard error: one line a stage."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Display


class ProgressBars:
    """Draws what a build says of itself (`release.progress.Progress`). Use it as a context manager.

    Where standard error is no terminal, each stage becomes one line when it ends.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._display = Display(
            TextColumn("{task.description:<26}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._stage: TaskID | None = None

    def start(self, stage: str, total: int | None) -> None:
        self._display.start()  # no sooner: what fails before leaves no empty line
        self._end_stage()
        self._stage = self._display.add_task(stage, total=total)

    def advance(self, units: int) -> None:
        if self._stage is not None:
            self._display.advance(self._stage, units)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._end_stage()
        if self._display.live.is_started:
            self._display.stop()

    def _end_stage(self) -> None:
        """A stage whose total was a guess, or unknown, ends full all the same."""
        if self._stage is None:
            return
        done = next(task.completed for task in self._display.tasks if task.id == self._stage)
        self._display.update(self._stage, total=max(done, 1), completed=max(done, 1))
        self._stage = None

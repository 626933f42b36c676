"""How long the stages of calls take, recorded where the work is done, in any thread of a worker.

start = stage.now()
…
stage.record(Stage.TOWER, start)
"""

from __future__ import annotations

from time import perf_counter_ns as now

from twotower_server.observe.counters import Counters
from twotower_server.observe.layout import Stage

__all__ = ["Stage", "now", "record", "record_to"]

_counters = Counters.apart()


def record_to(counters: Counters) -> None:
    """Where this process records from now on; before, it records what nobody reads."""
    global _counters  # noqa: PLW0603, a worker is one process, and its threads record, too
    _counters = counters


def record(stage: Stage, start_ns: int) -> None:
    """A stage that began at a time of `now`, and ends now."""
    _counters.add_stage(stage, now() - start_ns)

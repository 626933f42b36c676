"""What Prometheus reads: of the whole server, whichever worker is asked.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class ServerState:
    """active: the release. served: entries since the start, by loaded release. workers: whether each is healthy."""

    active: str
    served: Mapping[str, int]
    workers: Sequence[bool]


def exposition(state: ServerState) -> str:
    """The state as text. Names of releases need no escapes."""
    served = sorted(state.served.items())
    return "\n".join(
        (
            *_metric(
                "entries_served_total",
                "counter",
                "Entries of calls on both ports, by the release that served them.",
                ((f'release="{release}"', count) for release, count in served),
            ),
            *_metric(
                "release_active",
                "gauge",
                "Loaded releases; 1 is the active one.",
                ((f'release="{release}"', int(release == state.active)) for release, _ in served),
            ),
            *_metric(
                "worker_healthy",
                "gauge",
                "1 while the worker of a slot lives and has beaten lately.",
                ((f'worker="{slot}"', int(healthy)) for slot, healthy in enumerate(state.workers)),
            ),
            "",
        )
    )


def _metric(name: str, kind: str, help: str, samples: Iterable[tuple[str, int]]) -> Iterable[str]:
    yield f"# HELP twotower_{name} {help}"
    yield f"# TYPE twotower_{name} {kind}"
    for labels, value in samples:
        yield f"twotower_{name}{{{labels}}} {value}"

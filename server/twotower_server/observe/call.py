"""The call that is being served: what log lines and spans tell of it, wherever they are made."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from time import perf_counter_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from twotower_server.errors import Reason
from twotower_server.observe.layout import Code

if TYPE_CHECKING:
    from opentelemetry.trace import Span  # an extra

    from twotower_server.observe.observer import Watch


class Call:
    """Entered when it begins, left when it ends.

    request_id: the caller's, or made here. trace_id: "" = the call belongs to no trace. span: None = not sampled.
    caller: the identity. release: that has served it, the last one of several; "" = none yet. entries: of it that were
    served. code, reason: how it ends.
    """

    __slots__ = (
        *("caller", "code", "entries", "reason", "release", "request_id", "rpc", "span", "trace_id"),
        *("_before", "_start_ns", "_watch"),
    )

    def __init__(self, watch: Watch, request_id: str, trace_id: str) -> None:
        self._start_ns = perf_counter_ns()
        self._watch = watch
        self.rpc = watch.rpc
        self.request_id = request_id
        self.trace_id = trace_id
        self.span: Span | None = None
        self.caller = self.release = ""
        self.entries = 0
        self.code: int = Code.OK
        self.reason = Reason.UNSPECIFIED

    def __enter__(self) -> Self:
        self._before: Token[Call | None] = current.set(self)
        self._watch.began()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        if kind is asyncio.CancelledError:  # the caller has gone, or its time is up
            self.ends(Code.CANCELLED)
        self._watch.ended(self)
        current.reset(self._before)

    @property
    def elapsed_ns(self) -> int:
        """Since it began."""
        return perf_counter_ns() - self._start_ns

    def ends(self, code: int, reason: Reason = Reason.UNSPECIFIED) -> None:
        """Says how it ends, where that is not OK."""
        self.code, self.reason = code, reason

    def fields(self) -> dict[str, Any]:
        """What is known of it, as log lines have it."""
        known = {
            "request_id": self.request_id,
            "trace_id": self.trace_id,
            "rpc": self.rpc,
            "caller": self.caller,
            "release": self.release,
        }
        return {name: value for name, value in known.items() if value}

    def part(self, name: str, attributes: dict[str, Any]) -> AbstractContextManager[None]:
        """As the function."""
        tracer = self._watch.observer.tracer
        return nullcontext() if tracer is None or self.span is None else tracer.part(self.span, name, attributes)


# Of the task, and what it starts; None where no call is served.
current: ContextVar[Call | None] = ContextVar("call", default=None)


def served(release: str, entries: int) -> None:
    """Tells the call that is being served which release has served some of its entries."""
    call = current.get()
    if call is not None:
        call.release = release
        call.entries += entries


def part(name: str, **attributes: Any) -> AbstractContextManager[None]:
    """A part of the call that is being served, such as a look at Redis: a span where the call has one."""
    call = current.get()
    return nullcontext() if call is None else call.part(name, attributes)

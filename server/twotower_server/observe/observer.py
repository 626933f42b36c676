"""Watches the calls of a worker, by whichever port they come: counts and times them, logs and traces them.

with watch.call(request_id, traceparent) as call:
    …
    call.ends(code, reason)  # when it is refused
"""

from __future__ import annotations

import itertools
import logging
import random
import re
import secrets

from twotower_server.observe.call import Call
from twotower_server.observe.counters import Counters
from twotower_server.observe.layout import RPCS, Code, outcome_of
from twotower_server.observe.trace import Tracer

# One line a call: of those that are refused at `debug`, of a share of all at `info`.
log = logging.getLogger("twotower_server.calls")

_is_sane = re.compile(r"[!-~]{1,128}").fullmatch
_parse = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?").fullmatch


class Observer:
    """One a worker."""

    def __init__(self, counters: Counters, tracer: Tracer | None = None, log_share: float = 0.0) -> None:
        """tracer: None = no traces. log_share: of all calls, 0 to 1, that get a line in the log."""
        self.counters = counters
        self.tracer = tracer
        self.log_share = log_share
        self._beginning = secrets.token_hex(8)
        self._numbers = itertools.count(1)

    @classmethod
    def apart(cls) -> Observer:
        """Of a process that is not on a board: what it counts nobody reads."""
        return cls(Counters.apart())

    def watch(self, rpc: str) -> Watch:
        """Watches one kind of call. rpc: one of `layout.RPCS`."""
        return Watch(self, rpc)

    def make_id(self) -> str:
        """A request id that no other process makes."""
        return f"{self._beginning}-{next(self._numbers):x}"


class Watch:
    """Watches one kind of call."""

    def __init__(self, observer: Observer, rpc: str) -> None:
        self.observer = observer
        self.rpc = rpc
        self._index = RPCS.index(rpc)

    def call(self, request_id: str = "", traceparent: str = "") -> Call:
        """A call that begins now. request_id, traceparent: as its caller sent them, whatever that is."""
        observer = self.observer
        if not request_id or not _is_sane(request_id):
            request_id = observer.make_id()
        parsed = _parse(traceparent) if traceparent else None
        call = Call(self, request_id, parsed[1] if parsed else "")
        if observer.tracer is not None:
            observer.tracer.begin(call, traceparent if parsed else "")
        return call

    def began(self) -> None:
        self.observer.counters.in_flight += 1

    def ended(self, call: Call) -> None:
        observer, elapsed_ns = self.observer, call.elapsed_ns
        observer.counters.in_flight -= 1
        observer.counters.add_call(self._index, outcome_of(call.code, call.reason), elapsed_ns)
        if observer.log_share and random.random() < observer.log_share:
            _log(logging.INFO, call, elapsed_ns)
        elif call.code:
            _log(logging.DEBUG, call, elapsed_ns)
        if call.span is not None and observer.tracer is not None:
            observer.tracer.end(call.span, call)


def _log(level: int, call: Call, elapsed_ns: int) -> None:
    if not log.isEnabledFor(level):
        return
    code, reason = Code(call.code).name, call.reason.name if call.reason else ""
    duration_ms = round(elapsed_ns / 1e6, 3)
    fields = {"code": code, "reason": reason, "duration_ms": duration_ms, "entries": call.entries}
    log.log(level, "%s %s in %.1f ms", call.rpc, reason or code, duration_ms, extra={"fields": fields})

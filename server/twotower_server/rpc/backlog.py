"""Calls that wait inside gRPC, before anything of ours hears of them.

grpc.aio takes one call out of gRPC's queue in a turn of the event loop. So a worker that has more calls than it can
serve hardly has any in flight: all the others wait in that queue. gRPC counts the calls that were begun and ended, and
shows it by channelz; those that are neither ended nor taken wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
from grpc_channelz.v1 import channelz_pb2
from grpc_channelz.v1.channelz import ChannelzServicer

from twotower_server.engine.admission import Admission
from twotower_server.observe.counters import Counters

# A look takes about 0.2 ms.
LOOK_S = 0.05
# Fewer calls than these, taken between two looks, are not worth the next one.
_FEW = 5
_NO_CONTEXT: Any = None  # of a call: there is none, and it is not looked at


class Backlog(grpc.GenericRpcHandler):
    """Of the server that this process has made last. As the first of its handlers, it sees what is taken."""

    def __init__(self, others: Callable[[], int]) -> None:
        """others: counts calls that were begun and that other handlers have, such as streams of health."""
        self._server = _newest_server()
        self._others = others
        self._taken = 0
        self._open = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> None:
        """A call was taken out of the queue; another handler serves it."""
        self._taken += 1
        self._open += 1

    def end(self) -> None:
        """A call that was taken is answered."""
        self._open -= 1

    async def watch(self, admission: Admission, counters: Counters) -> None:
        """Tells both what waits, until it is cancelled."""
        taken, looked = self._taken, time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            few = self._taken - taken < _FEW
            admission.look(0 if few else self._waiting(), self._taken - taken, now - looked)
            counters.waiting = admission.waiting
            taken, looked = self._taken, now

    def _waiting(self) -> int:
        request = channelz_pb2.GetServerRequest(server_id=self._server)
        found = ChannelzServicer.GetServer(request, _NO_CONTEXT).server.data
        begun = found.calls_started - found.calls_succeeded - found.calls_failed - self._others()
        # A call that was taken and cancelled before its message came never says that it ended.
        self._open = max(min(self._open, begun), 0)
        return max(begun - self._open, 0)


def _newest_server() -> int:
    start = newest = 0
    while True:
        found = ChannelzServicer.GetServers(channelz_pb2.GetServersRequest(start_server_id=start), _NO_CONTEXT)
        newest = max([newest, *(server.ref.server_id for server in found.server)])
        if found.end or not found.server:
            return newest
        start = newest + 1

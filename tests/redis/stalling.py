"""A way to a server that ends in nothing after so many bytes."""

from __future__ import annotations

import socket
import threading

from tests.redis.proxy import Proxy
from tests.supervisor.running import PATIENCE_S


class Stalling(Proxy):
    """Passes what clients send on to a port, until `after_bytes` have passed; from then on nothing moves any more."""

    def __init__(self, port: int, after_bytes: int) -> None:
        super().__init__(port)
        self._left = after_bytes
        self._stalled = threading.Event()

    def wait_stalled(self) -> None:
        assert self._stalled.wait(PATIENCE_S), "waited in vain"

    def _send(self, sink: socket.socket, data: bytes, asks: bool) -> bool:
        if not asks:
            sink.sendall(data)
            return True
        sink.sendall(data[: max(self._left, 0)])
        self._left -= len(data)
        if self._left <= 0:
            self._stalled.set()
            return False
        return True

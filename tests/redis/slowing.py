"""A way to a server that becomes slow when a test wants it."""

from __future__ import annotations

import random
import socket
import threading

from tests.redis.proxy import Proxy


class Slowing(Proxy):
    """Passes bytes on at once, or late, or a few at a time."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._least_s = self._most_s = 0.0
        self._piece_bytes = 1 << 20
        self._hurries = threading.Event()
        self._hurries.set()

    def delay(self, least_s: float, most_s: float, piece_bytes: int) -> None:
        """From now on, so much time passes before each piece."""
        self._least_s, self._most_s, self._piece_bytes = least_s, most_s, piece_bytes
        self._hurries.clear()

    def hurry(self) -> None:
        """Passes everything on at once again, what has waited first."""
        self._hurries.set()

    def _send(self, sink: socket.socket, data: bytes, asks: bool) -> bool:
        while data:
            if self._hurries.wait(random.uniform(self._least_s, self._most_s)):
                sink.sendall(data)
                return True
            sink.sendall(data[: self._piece_bytes])
            data = data[self._piece_bytes :]
        return True

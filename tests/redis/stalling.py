"""A way to a server that ends in nothing after so many bytes."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.supervisor.running import PATIENCE_S


class Stalling:
    """Passes what clients send on to a port, until `after_bytes` have passed; from then on nothing moves any more."""

    def __init__(self, port: int, after_bytes: int) -> None:
        self._port = port
        self._left = after_bytes
        self._stalled = threading.Event()
        self._sockets = [socket.create_server(("127.0.0.1", 0))]
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._sockets[0].getsockname()[1]}"

    def wait_stalled(self) -> None:
        assert self._stalled.wait(PATIENCE_S), "waited in vain"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._sockets[0].accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [client, server]
                for source, sink, counted in ((client, server, True), (server, client, False)):
                    self._threads.append(threading.Thread(target=self._pass_on, args=(source, sink, counted)))
                    self._threads[-1].start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if counted:
                    sink.sendall(data[: max(self._left, 0)])
                    self._left -= len(data)
                    if self._left <= 0:
                        self._stalled.set()
                        return
                else:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

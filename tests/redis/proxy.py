"""A way to a server on which a test has a say."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.supervisor.running import PATIENCE_S


class Proxy:
    """Passes bytes on between clients and a port, each way in a thread of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets = [socket.create_server(("127.0.0.1", 0))]
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._sockets[0].getsockname()[1]}"

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
                for source, sink, asks in ((client, server, True), (server, client, False)):
                    self._threads.append(threading.Thread(target=self._pass_on, args=(source, sink, asks)))
                    self._threads[-1].start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, asks: bool) -> None:
        """Passes on all that comes. asks: from a client to the server."""
        with suppress(OSError):
            while data := source.recv(65_536):
                if not self._send(sink, data, asks):
                    return
            sink.shutdown(socket.SHUT_WR)

    def _send(self, sink: socket.socket, data: bytes, asks: bool) -> bool:
        """Passes data on; False = nothing may follow it."""
        raise NotImplementedError

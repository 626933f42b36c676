"""The port of one server: taken by nobody else, shared by its workers.

Workers share a port by SO_REUSEPORT, which would as gladly let two unrelated servers share one, each
answering half of the calls. So, before the first worker binds: a lock for the port, a probe that fails where
anything listens, and a socket that stays bound without listening. It receives no connection, but keeps the
port and fails all other probes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from twotower_server.config import Address, ConfigError
from twotower_server.supervisor.errors import PortTaken


class Port:
    """Holds a port until it is closed. `address` has the real port, also when 0 was asked for."""

    def __init__(self, wanted: Address, option: str = "--listen") -> None:
        """option: that names the address, for messages.

        Raises PortTaken, or ConfigError when the address cannot be listened on.
        """
        self._option = option
        self._held = ExitStack()
        try:
            self.address = Address(wanted.host, self._hold(wanted))
        except OSError as error:
            self.close()
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(
                    f"port {wanted.port} is in use by another program; stop it, or choose another by {option}"
                ) from None
            raise ConfigError(f"cannot listen on {wanted}: {_advice(error, option)}") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hold(self, wanted: Address) -> int:
        port = wanted.port
        if port:
            self._held.enter_context(_lock(port, self._option))
        for reserved in _bound(wanted, probe=True):
            self._held.enter_context(reserved)
            if not port:
                port = int(reserved.getsockname()[1])
                self._held.enter_context(_lock(port, self._option))
        return port


def shared_sockets(address: Address) -> list[socket.socket]:
    """Sockets of a worker, bound beside those that a `Port` holds, ready to listen. Raises OSError."""
    return [*_bound(address, probe=False)]


def _bound(wanted: Address, *, probe: bool) -> Iterator[socket.socket]:
    """A socket for every address of the host, all on one port. probe: fail where anybody listens on a port."""
    port = wanted.port
    unavailable: OSError | None = None
    found = 0
    for family, place in _places(wanted.host):
        try:
            # The kernel gives port 0 a port that nobody has bound, shared or not: nothing to probe.
            if probe and port:
                _socket(family, place, port, socket.SO_REUSEADDR).close()
            bound = _socket(family, place, port, socket.SO_REUSEPORT)
        except OSError as error:
            # `localhost` is also ::1 on machines without IPv6.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
            unavailable = error
            continue
        found += 1
        port = port or int(bound.getsockname()[1])
        yield bound
    if not found:
        raise unavailable or OSError(errno.EADDRNOTAVAIL, "no address")


def _places(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """The addresses that gRPC binds for a host."""
    if not host:
        dual = socket.has_dualstack_ipv6()
        return [(socket.AF_INET6, "::") if dual else (socket.AF_INET, "0.0.0.0")]
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((family, str(place[0])) for family, _, _, _, place in found))


def _socket(family: socket.AddressFamily, place: str, port: int, option: int) -> socket.socket:
    """A bound socket that does not listen.

    With SO_REUSEADDR it is a probe: it passes over what lingers in TIME_WAIT after a server ended, and fails
    where somebody listens or has bound without that option, as the sockets held here are.
    """
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, option, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, place != "::")
        bound.bind((place, port))
    except BaseException:
        bound.close()
        raise
    return bound


def _lock(port: int, option: str) -> IO[str]:
    """Held while the file is open. Two servers that start at one moment both pass the probe, but not this."""
    file = _lock_path(port).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
    except BlockingIOError:
        file.seek(0)
        process = file.read(32).strip()
        file.close()
        raise PortTaken(
            f"port {port} is in use by another twotower server (process {process or 'unknown'}); stop it, or "
            f"choose another by {option}"
        ) from None
    except BaseException:
        file.close()
        raise
    return file


def _lock_path(port: int) -> Path:
    """The same for every server of this user that could meet on the port, whatever its folders."""
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"twotower-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        # Containers may share this folder, but each has ports of its own.
        network = f"{os.stat('/proc/self/ns/net').st_ino}-"
    except OSError:
        network = ""
    return folder / f"port-{network}{port}.lock"


def _advice(error: Any, option: str) -> str:
    if isinstance(error, socket.gaierror):
        return f"no such host is known; name a host or an IP address of this machine, or none: {option} :PORT"
    match error.errno:
        case errno.EACCES:
            return "ports below 1024 need privileges; choose a larger one"
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return f"it is no address of this machine; {option} :PORT takes every interface"
    return str(error.strerror or error)

"""Real servers that ask who calls."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.security.certificates import issue
from tests.supervisor.running import Server


@dataclass(frozen=True, slots=True)
class Started:
    """A server that is ready. ports: by the name of the line that tells of it, such as `http_target`."""

    server: Server
    ports: dict[str, str]

    @property
    def target(self) -> str:
        return self.ports["target"]

    def at(self, host: str, port: str = "target") -> str:
        """A port of the server by another address of this machine."""
        return f"{host}:{self.ports[port].rpartition(':')[2]}"


Start = Callable[..., Started]


def start_in(held: ExitStack, folder: Path, releases: Path, *options: str | Path) -> Started:
    """Starts a server of the release `dot` on every interface, with a HTTP port."""
    folder.mkdir(exist_ok=True)
    own = folder / "releases"
    own.mkdir()
    (own / "dot").symlink_to(releases / "dot")
    (own / "active").write_text("dot\n")
    command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(own), "--data", str(folder / "data")]
    command += ["--listen", ":0", "--http-listen", ":0", *map(str, options)]
    server = Server(command, folder / "log", {})
    held.callback(server.close)
    ports = {name: str(value) for name, value in server.ready().items() if name.endswith("target")}
    return Started(server, ports)


@pytest.fixture
def start(tmp_path: Path, releases: Path) -> Iterator[Start]:
    """Starts a server of the test's own, with options."""
    with ExitStack() as held:
        yield lambda *options: start_in(held, tmp_path / "server", releases, *options)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Signs the certificate of servers."""
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options of a server with a certificate for localhost."""
    pem = issue(authority, "localhost", "127.0.0.1")
    certificate, key = pem.write(tmp_path_factory.mktemp("tls"))
    return "--tls-certificate", str(certificate), "--tls-key", str(key)


@pytest.fixture(scope="session")
def remote() -> str:
    """An address of this machine that is not its loopback interface: a call that comes by it is a remote one's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("198.51.100.1", 9))  # sends nothing: only asks the kernel which address it would take
        except OSError:
            pytest.skip("this machine has no address but those of its loopback interface")
        return str(asking.getsockname()[0])

"""One port, one server."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress

import pytest

from twotower_server.config import Address, ConfigError
from twotower_server.supervisor.errors import PortTaken
from twotower_server.supervisor.port import Port, shared_sockets

IPV6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
HOSTS = ["127.0.0.1", "localhost", "", pytest.param("::1", marks=IPV6)]


def listener(host: str, port: int) -> socket.socket:
    """Listens as gRPC's workers do."""
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind((host, port))
    opened.listen()
    return opened


@pytest.mark.parametrize("host", HOSTS)
def test_port_0_is_a_free_one_and_workers_can_listen_on_it(host: str) -> None:
    with Port(Address(host, 0)) as port:
        assert port.address.host == host
        place = host if host not in ("", "localhost") else "127.0.0.1"
        with (
            listener(place, port.address.port),
            listener(place, port.address.port) as second,
            socket.create_connection((place, port.address.port)),
        ):
            assert second.getsockname()[1] == port.address.port


@pytest.mark.parametrize("host", HOSTS)
def test_workers_that_bring_sockets_of_their_own_share_the_port(host: str) -> None:
    with Port(Address(host, 0)) as port, ExitStack() as opened:
        workers = [[opened.enter_context(bound) for bound in shared_sockets(port.address)] for _ in range(2)]
        for bound in (*workers[0], *workers[1]):
            bound.listen()
        # The kernel spreads connections over those who listen: each hears of some.
        place = host if host not in ("", "localhost") else "127.0.0.1"
        calls = [opened.enter_context(socket.create_connection((place, port.address.port))) for _ in range(64)]
        found = [sum(map(_accepted, worker)) for worker in workers]
        assert sum(found) == len(calls)
        assert all(found)


def _accepted(bound: socket.socket) -> int:
    """How many connections wait for a socket."""
    bound.setblocking(False)
    count = 0
    with suppress(BlockingIOError):
        while True:
            bound.accept()[0].close()
            count += 1
    return count


@pytest.mark.parametrize("host", HOSTS)
def test_a_port_is_held_from_other_twotower_servers(host: str) -> None:
    held = Port(Address(host, 0))
    with held, pytest.raises(PortTaken, match=r"another twotower server \(process \d+\)"):
        Port(held.address)
    Port(held.address).close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", ""])
def test_a_port_on_which_another_program_listens_is_refused(host: str) -> None:
    # With SO_REUSEPORT, as gRPC servers of any kind have it: a bind with that option would succeed.
    with listener("127.0.0.1", 0) as other:
        number = other.getsockname()[1]
        with pytest.raises(PortTaken, match=f"port {number} is in use by another program"):
            Port(Address(host, number))


def test_the_reserved_socket_alone_fails_the_probe_of_a_server_that_shares_no_lock(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Port(Address("127.0.0.1", 0)) as port:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("other")))
        with pytest.raises(PortTaken, match="another program"):
            Port(port.address)


def test_a_refused_port_leaves_nothing_behind() -> None:
    with listener("127.0.0.1", 0) as other:
        address = Address("127.0.0.1", other.getsockname()[1])
        with pytest.raises(PortTaken):
            Port(address)
    Port(address).close()


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        (Address("192.0.2.1", 50051), "no address of this machine"),
        (Address("nowhere.invalid", 50051), "no such host"),
    ],
)
def test_an_address_that_is_not_of_this_machine(address: Address, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        Port(address)

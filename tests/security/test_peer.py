"""Where a call comes from, as gRPC writes it."""

from __future__ import annotations

import pytest

from twotower_server.access.peer import host_of, is_local


@pytest.mark.parametrize(
    ("peer", "host", "local"),
    [
        ("ipv4:127.0.0.1:4321", "127.0.0.1", True),
        ("ipv4:127.255.3.4:1", "127.255.3.4", True),
        ("ipv6:%5B::1%5D:4321", "::1", True),
        ("ipv6:[::1]:4321", "::1", True),
        ("ipv6:[::ffff:127.0.0.1]:4321", "::ffff:127.0.0.1", True),
        ("ipv6:%5B::ffff:7f00:1%5D:4321", "::ffff:7f00:1", True),
        ("unix:", "unix", True),
        ("unix:/run/twotower.sock", "unix", True),
        ("ipv4:10.0.0.7:4321", "10.0.0.7", False),
        ("ipv4:128.0.0.1:4321", "128.0.0.1", False),
        ("ipv4:0.0.0.0:4321", "0.0.0.0", False),
        ("ipv6:%5Bfd00::2%5D:4321", "fd00::2", False),
        ("ipv6:%5Bfe80::1%25eth0%5D:4321", "fe80::1%eth0", False),
        ("ipv6:[::ffff:10.0.0.7]:4321", "::ffff:10.0.0.7", False),
        ("ipv6:[::127.0.0.1]:4321", "::127.0.0.1", False),
        ("ipv4:localhost:4321", "localhost", False),
        ("ipv4:127.0.0.1", "", False),
        ("ipv4:127.0.0.1:http", "", False),
        ("dns:127.0.0.1:4321", "", False),
        ("vsock:2:4321", "", False),
        ("", "", False),
    ],
)
def test_only_the_loopback_interface_and_a_socket_file_are_this_machine(peer: str, host: str, local: bool) -> None:
    assert host_of(peer) == host
    assert is_local(host) is local

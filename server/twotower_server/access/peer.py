"""Where a call comes from."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from urllib.parse import unquote

UNIX = "unix"


def host_of(peer: str) -> str:
    """The host of a peer as gRPC writes it: `ipv4:10.0.0.7:4321`, `ipv6:%5B::1%5D:4321`, `unix:…`.

    "" for anything else, which is then nobody that is known.
    """
    family, _, place = peer.partition(":")
    if family == UNIX:
        return UNIX
    if family not in ("ipv4", "ipv6"):
        return ""
    host, _, port = unquote(place).rpartition(":")
    return host.removeprefix("[").removesuffix("]") if port.isdecimal() else ""


def is_local(host: str) -> bool:
    """Whether a host, of `host_of`, is this machine by its loopback interface or a socket file.

    Not by other addresses of this machine: a container, a proxy or a router may send others' calls from there.
    """
    if host == UNIX:
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback

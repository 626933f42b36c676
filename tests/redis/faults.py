"""What can befall Redis while servers use it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import redis

from tests.redis.running import RedisCluster, RedisServer
from tests.redis.slowing import Slowing
from tests.supervisor.running import PATIENCE_S, until

# Lines of redis.conf for a server whose client is `ADMIN`; it can keep `USER` out.
LOGINS = ("user app on >secret ~* &* +@all", "user admin on >root ~* &* +@all", "user default off")
USER, ADMIN = "app:secret", "admin:root"


@dataclass(frozen=True, slots=True)
class Fault:
    """begin, end: return when it has begun and ended, which it may do again and again.

    told: what is wrong with Redis, as the user cache of a server says it; "" = it may not notice. writable: whether
    what is written meanwhile may still be taken, be it late.
    """

    begin: Callable[[], object]
    end: Callable[[], object]
    told: str
    writable: bool = False


def _killing_connections(server: RedisServer) -> Fault:
    """All connections but that of the test break, ten times a second."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def run() -> None:
        while not stop.wait(0.1):
            with suppress(redis.ResponseError):  # there was none
                server.client.execute_command("CLIENT KILL TYPE normal SKIPME yes")

    def begin() -> None:
        stop.clear()
        threads.append(threading.Thread(target=run))
        threads[-1].start()

    def end() -> None:
        stop.set()
        threads.pop().join(PATIENCE_S)

    return Fault(begin, end, "", writable=True)


def _refusing_logins(server: RedisServer) -> Fault:
    """The password is another one, and those who are connected with the old one are not any more."""
    name, _, password = USER.partition(":")

    def begin() -> None:
        server.client.execute_command("ACL SETUSER", name, "resetpass", ">changed")
        server.client.execute_command("CLIENT KILL USER", name)

    def end() -> None:
        server.client.execute_command("ACL SETUSER", name, "resetpass", f">{password}")

    return Fault(begin, end, "refuses the login")


def _denying_commands(server: RedisServer) -> Fault:
    name = USER.partition(":")[0]
    return Fault(
        lambda: server.client.execute_command("ACL SETUSER", name, "-@all"),
        lambda: server.client.execute_command("ACL SETUSER", name, "+@all"),
        "denies this user the command",
    )


def _filling(server: RedisServer) -> Fault:
    return Fault(
        lambda: server.client.config_set("maxmemory", 1),
        lambda: server.client.config_set("maxmemory", 0),
        "is out of memory",
    )


# Of a server that was started with LOGINS for ADMIN.
FAULTS: Mapping[str, Callable[[RedisServer], Fault]] = {
    "stopped": lambda server: Fault(server.stop, server.start, "cannot be reached"),
    "killed": lambda server: Fault(server.kill, server.start, "cannot be reached"),
    "paused": lambda server: Fault(server.pause, server.resume, "does not answer in time", writable=True),
    "out of memory": _filling,
    "refusing logins": _refusing_logins,
    "denying commands": _denying_commands,
    "breaking connections": _killing_connections,
}


def _slow(way: Slowing, least_s: float, most_s: float, piece_bytes: int) -> Fault:
    return Fault(lambda: way.delay(least_s, most_s, piece_bytes), way.hurry, "does not answer in time", writable=True)


# Of a server that is reached by a proxy.
SLOWNESS: Mapping[str, Callable[[Slowing], Fault]] = {
    "late": lambda way: _slow(way, 0.05, 0.5, 1 << 20),
    "trickling": lambda way: _slow(way, 0.01, 0.03, 8),
}


def failing_over(cluster: RedisCluster, key: str) -> Fault:
    """The primary of a key is killed. Before the fault ends its replica has taken over, and each is the other then."""
    pair = cluster.pair_of(key)

    def begin() -> None:
        pair[0].kill()

    def end() -> None:
        primary, replica = pair
        until(lambda: _role(replica) == "master")
        primary.start()
        until(lambda: _role(primary) == "slave")
        pair.reverse()

    return Fault(begin, end, "cannot be reached")


def _role(server: RedisServer) -> str:
    return str(server.client.info("replication")["role"])

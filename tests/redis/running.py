"""Redis in processes of its own, as a test sees it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import redis
import trustme
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from tests.supervisor.running import PATIENCE_S, until

NO_RETRY = Retry(NoBackoff(), 0)

# Lines of redis.conf for `start_redis`.
APPEND_ALWAYS = ("appendonly yes", "appendfsync always")
LOGIN = ("user app on >secret ~* &* +@all", "user default off")

_TOOLS = Path(__file__).parents[2] / ".tools/bin/redis-server"
_PRIMARIES = 3
_SLOTS = 16_384
_BOUNDS = [_SLOTS * i // _PRIMARIES for i in range(_PRIMARIES + 1)]
_CLUSTER = (
    "cluster-enabled yes",
    # Soon enough for a test of a failover, and longer than a busy machine lets a living node be silent.
    "cluster-node-timeout 2000",
    "repl-diskless-sync-delay 0",
    # A replica counts as one only when its primary has sent it something, if only a ping.
    "repl-ping-replica-period 1",
)


class RedisServer:
    """One server. What it keeps is in `folder`; `kill` and `start` bring it back as its disk has it."""

    def __init__(self, folder: Path, *lines: str, user: str = "", tls: bool = False) -> None:
        """lines: of redis.conf. user: `name:password` that `client` and `url` have. tls: takes nothing else."""
        folder.mkdir(parents=True)
        self.folder = folder
        self.port = _free_port()
        address = f"{f'{user}@' if user else ''}127.0.0.1:{self.port}"
        if tls:
            self.url = f"rediss://{address}?ssl_ca_certs={folder / 'ca.pem'}"
            self._lines = (*lines, *_certificates(folder), "port 0", f"tls-port {self.port}")
        else:
            self.url = f"redis://{address}"
            self._lines = (*lines, f"port {self.port}")
        self._process: subprocess.Popen[bytes] | None = None
        # Without retries: a test sees at once what a client sees.
        self.client: Any = redis.Redis.from_url(self.url, protocol=2, retry=NO_RETRY)
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts it, with the port and the folder it had, and waits until it answers."""
        config = ("bind 127.0.0.1", f'dir "{self.folder}"', 'save ""', "enable-debug-command yes", *self._lines)
        (self.folder / "redis.conf").write_text("".join(f"{line}\n" for line in config))
        with (self.folder / "log").open("ab") as log:
            command = [_program(), str(self.folder / "redis.conf")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            until(self._answers)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ends it in order, as an operator does."""
        assert self._process is not None
        self.client.shutdown()
        self._process.wait(PATIENCE_S)

    def kill(self) -> None:
        """As `kill -9`."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(PATIENCE_S)

    def pause(self) -> None:
        """Stops it, as a machine that hangs: connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def close(self) -> None:
        self.client.close()
        self.kill()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"Redis ended:\n{self.log()}"
        with suppress(redis.ConnectionError, redis.TimeoutError):
            return bool(self.client.ping())
        return False


class RedisCluster:
    """3 primaries, which are `nodes[:3]`, and a replica of each, `nodes[3:]`."""

    def __init__(self, folder: Path, *lines: str) -> None:
        """lines: of redis.conf, for every node."""
        self.nodes: list[RedisServer] = []
        try:
            for number in range(2 * _PRIMARIES):
                own = (f"cluster-port {_free_port()}", *_CLUSTER, *lines)
                self.nodes.append(RedisServer(folder / str(number), *own))
            self._join()
            self.client: Any = redis.RedisCluster.from_url(self.url, protocol=2)
        except BaseException:
            self._close_nodes()
            raise

    @property
    def url(self) -> str:
        return self.nodes[0].url

    def pair_of(self, key: str) -> list[RedisServer]:
        """The primary of a key and its replica, as they were when the Cluster was made."""
        slot = key_slot(key.encode())
        number = next(i for i in range(_PRIMARIES) if slot < _BOUNDS[i + 1])
        return [self.nodes[number], self.nodes[number + _PRIMARIES]]

    def close(self) -> None:
        self.client.close()
        self._close_nodes()

    def _close_nodes(self) -> None:
        for node in self.nodes:
            node.close()

    def _join(self) -> None:
        primaries, replicas = self.nodes[:_PRIMARIES], self.nodes[_PRIMARIES:]
        for number, node in enumerate(self.nodes):
            node.client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for primary, first, end in zip(primaries, _BOUNDS, _BOUNDS[1:], strict=False):
            primary.client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
        first_node = self.nodes[0]
        for node in self.nodes[1:]:
            bus = int(node.client.config_get("cluster-port")["cluster-port"])
            first_node.client.execute_command("CLUSTER MEET", "127.0.0.1", node.port, bus)
        for primary, replica in zip(primaries, replicas, strict=True):
            name = primary.client.execute_command("CLUSTER MYID").decode()
            until(partial(_knows, replica, name))
            replica.client.execute_command("CLUSTER REPLICATE", name)
        for node in self.nodes:
            until(partial(_is_whole, node))


def _knows(node: RedisServer, name: str) -> bool:
    return any(other["node_id"] == name for other in node.client.execute_command("CLUSTER NODES").values())


def _is_whole(node: RedisServer) -> bool:
    """Whether a node has heard of all slots and all replicas, and follows its primary."""
    info = node.client.execute_command("CLUSTER INFO")
    shards = node.client.execute_command("CLUSTER SLOTS")  # of each: first slot, last slot, primary, replicas
    replication = node.client.info("replication")
    linked = replication["role"] == "master" or replication["master_link_status"] == "up"
    complete = len(shards) == _PRIMARIES and all(len(shard) == 4 for shard in shards)
    return info["cluster_state"] == "ok" and complete and linked


def _certificates(folder: Path) -> tuple[str, ...]:
    """Lines of redis.conf for TLS; `ca.pem` is what clients trust."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    pem = f'"{folder / "server.pem"}"'
    return (
        f"tls-cert-file {pem}",
        f"tls-key-file {pem}",
        f'tls-ca-cert-file "{folder / "ca.pem"}"',
        "tls-auth-clients no",
    )


def _free_port() -> int:
    """Redis takes no port 0. This is below those that connections get, so it stays free while its server is killed."""
    while True:
        port = random.randrange(10_000, 32_768)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _program() -> str:
    program = os.environ.get("REDIS_SERVER") or (str(_TOOLS) if _TOOLS.exists() else shutil.which("redis-server"))
    assert program, "no redis-server: `make redis` brings it, or REDIS_SERVER names it"
    return program

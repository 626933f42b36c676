"""Redis as a store of item vectors: everything of the commands that knows redis-py.

Keys are the contract's (CONTRACT: Redis keys), values raw float32, little-endian. Both kinds of server are served, a
standalone one and a Cluster; which it is, it says itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import numpy as np
import redis
from numpy.typing import NDArray
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from twotower_server.config import ConfigError
from twotower_server.errors import StoreRefused, StoreUnavailable

OLDEST = (7, 0)

# A command holds a standalone server up for about 4 ms then. In a Cluster a batch becomes a command for each slot.
_BATCH = 1_000
_CLUSTER_BATCH = 16_384
_SCAN = 1_000
_CONNECT_TIMEOUT_S = 5.0
_TIMEOUT_S = 10.0
# Longer than a Cluster takes for a failover with its default of 15 s.
_PATIENCE_S = 30.0
_PAUSE_S = 0.2

# What passes when a server comes back, or a replica takes its place.
_AWAY = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.ClusterError,
    redis.exceptions.TryAgainError,
    redis.exceptions.MovedError,
    redis.exceptions.AskError,
    RedisClusterException,
)

_LOGIN = (redis.AuthenticationError, redis.exceptions.AuthorizationError)

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class RedisKeys:
    """Names of the keys under one prefix."""

    prefix: str

    @property
    def active(self) -> str:
        """Holds the name of the active release."""
        return f"{self.prefix}active"

    def items(self, release: str) -> str:
        """What the keys of a release's vectors begin with; the item's id follows."""
        return f"{self.prefix}item_emb:{release}:"

    def pushed(self, release: str) -> str:
        """Holds how far `twotower items push` has come with a release, or, "", with plain keys."""
        return f"{self.prefix}item_push:{release}"


# Keys for programs written after Reckit's guide: no prefix, no release.
PLAIN = "item_emb:"


class RedisStore:
    """One connection to a Redis, for one thread. Use it as a context manager.

    Methods raise StoreUnavailable when no server answers in `patience_s`, and StoreRefused, saying what to do.
    """

    def __init__(self, url: str, ca: Path | None = None, patience_s: float = _PATIENCE_S) -> None:
        """Connects. url: redis://[[user]:password@]host[:port][/database], or rediss:// for TLS.

        ca: PEM of the authority that has signed the server's certificate; None = those that the system trusts. Raises
        ConfigError when it is no file, or the URL is not that of TLS.
        """
        address = urlsplit(url)
        if ca is not None and (address.scheme != "rediss" or not ca.is_file()):
            raise ConfigError(f"--redis-ca needs a file, and a --redis that begins with rediss://; it is {ca}")
        self._where = f"{address.hostname}:{address.port or 6379}"
        self._patience_s = 0.0
        options: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": _TIMEOUT_S,
            "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        }
        if ca is not None:
            options["ssl_ca_certs"] = str(ca)
        # The package has types, but every answer is one of several, or to be awaited.
        self._client: Any = redis.Redis.from_url(url, **options, retry=Retry(NoBackoff(), 0))
        try:
            server = self._ask(lambda: self._client.info("server"))
            check_version(str(server["redis_version"]), self._where)
            self.is_cluster = server["redis_mode"] == "cluster"
            if self.is_cluster:
                # The client of a Cluster asks this, too, and hides why it is refused.
                self._ask(lambda: self._client.execute_command("CLUSTER SLOTS"))
                self._client.close()
                self._client = self._ask(lambda: redis.RedisCluster.from_url(url, **options))
        except BaseException:
            self._client.close()
            raise
        self._patience_s = patience_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def __str__(self) -> str:
        return f"Redis at {self._where}"

    @property
    def batch(self) -> int:
        """How many keys to read or write at once, unless their values are large."""
        return _CLUSTER_BATCH if self.is_cluster else _BATCH

    @staticmethod
    def slots(keys: Sequence[str]) -> NDArray[np.int64]:
        """The slot of each key in a Cluster, int64 [n]: those that share one are read and written by one command."""
        return np.fromiter(map(key_slot, map(str.encode, keys)), np.int64, len(keys))

    def evicts(self) -> str:
        """The policy by which a full server drops keys that do not expire; "" = it never does."""
        for node in self._primaries():
            memory: dict[str, Any] = self._ask(partial(node.info, "memory"))
            policy = str(memory["maxmemory_policy"])
            if memory["maxmemory"] and policy.startswith("allkeys"):
                return policy
        return ""

    def write(self, values: Mapping[str, bytes]) -> None:
        """Writes keys, at most `batch`. What they held, and when they expired, is forgotten."""
        write = self._client.mset_nonatomic if self.is_cluster else self._client.mset
        self._ask(lambda: write(values))

    def write_for(self, values: Mapping[str, bytes], live_ms: int) -> None:
        """Writes keys, at most `batch`, that vanish after a while."""
        self._pipelined(lambda pipeline: [pipeline.set(key, value, px=live_ms) for key, value in values.items()])

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of keys, at most `batch`; None where there is no key."""
        read = self._client.mget_nonatomic if self.is_cluster else self._client.mget
        values: list[bytes | None] = self._ask(lambda: read(keys))
        return values

    def text(self, key: str) -> str | None:
        """A key's value; None where there is no key."""
        value: bytes | None = self._ask(lambda: self._client.get(key))
        return None if value is None else value.decode()

    def set_text(self, key: str, text: str) -> None:
        self._ask(lambda: self._client.set(key, text))

    def remove(self, keys: Sequence[str]) -> None:
        """Removes keys. The memory is freed in the background."""
        self._pipelined(lambda pipeline: [pipeline.unlink(key) for key in keys])

    def expire(self, keys: Sequence[str], seconds: int) -> int:
        """Lets keys vanish in a while, but for those that do so anyway; how many it has changed."""
        return sum(self._pipelined(lambda pipeline: [pipeline.expire(key, seconds, nx=True) for key in keys]))

    def scan(self, beginning: str) -> Iterator[list[str]]:
        """Keys that begin with a text, which has none of *?[]\\ in it: every one that is there all the while.

        In lists of about a thousand; a key can occur twice. Keys that are no UTF-8 are left out.
        """
        for node in self._primaries():
            cursor = 0
            while True:
                cursor, found = self._ask(partial(node.scan, cursor, f"{beginning}*", _SCAN))
                yield [key for key in map(_text, found) if key is not None]
                if not cursor:
                    break

    def _primaries(self) -> list[Any]:
        """Clients of every server that has keys of its own."""
        if not self.is_cluster:
            return [self._client]
        return [self._client.get_redis_connection(node) for node in self._client.get_primaries()]

    def _pipelined(self, commands: Callable[[Any], object]) -> list[Any]:
        def execute() -> list[Any]:
            with self._client.pipeline(transaction=False) as pipeline:
                commands(pipeline)
                answers: list[Any] = pipeline.execute()
                return answers

        return self._ask(execute)

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        """Asks again while the server is away. Everything that is asked for here may be done twice."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return call()
            except (redis.RedisError, RedisClusterException) as error:
                if isinstance(error, _LOGIN) or not isinstance(error, _AWAY):
                    raise StoreRefused(self._refusal(error)) from None
                if time.monotonic() >= deadline:
                    raise StoreUnavailable(f"no answer from {self}: {error}") from None
            time.sleep(_PAUSE_S)

    def _refusal(self, error: Exception) -> str:
        if isinstance(error, _LOGIN):
            return f"{self} refuses the login ({error}): check user and password of --redis"
        if isinstance(error, redis.exceptions.OutOfMemoryError):
            return f"{self} is full: raise its maxmemory, or let keys of old releases expire"
        if isinstance(error, redis.exceptions.NoPermissionError):
            return f"{self} does not let this user do what is needed ({error}); docs/redis.md has the rules"
        return f"{self} refuses: {error}"


def _text(key: bytes) -> str | None:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None


def check_version(version: str, where: str) -> None:
    """Raises StoreRefused for a server that is too old."""
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise StoreRefused(f"Redis at {where} is {version}; 7.0 or newer is needed")

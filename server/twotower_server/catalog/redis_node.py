"""The Redis server that has the log of changes: a standalone one, or in a Cluster the primary of the log's slot.

redis-py's client of a Cluster is not used: it repeats commands by itself. An append needs to know whether it was sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
from redis.retry import Retry

from twotower_server.errors import StoreRefused, StoreUnavailable
from twotower_server.items.redis import check_version

_CONNECT_TIMEOUT_S = 1.0
# From the node that was right before the slot moved to the one that is right now, and some more while it moves.
_TRIES = 4

_LOGIN = (redis.AuthenticationError, AuthorizationError)
# Answers that pass, and before which nothing was done.
_NOT_NOW = (BusyLoadingError, ClusterDownError, TryAgainError, ReadOnlyError)

Answer = TypeVar("Answer")


class Unanswered(StoreUnavailable):
    """A command was sent, and no answer came: it may have been executed, or not."""


class _Unreachable(StoreUnavailable):
    """There is no connection to a node; nothing was sent."""


class Script:
    """A script that Redis runs in one piece. By its first line Redis knows whether it writes, and refuses it before."""

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        self.sha1 = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class Connection:
    """A connection to the node, for one call. Answers are redis-py's for RESP2: bytes, int, None and lists of them.

    is_asking: the node is about to get the slot, and answers who knows that.
    """

    def __init__(self, connection: Any, is_asking: bool) -> None:
        self._connection = connection
        self._is_asking = is_asking

    def ask(self, *command: str | bytes | int) -> Any:
        if self._is_asking:  # holds for one command
            self._connection.send_command("ASKING")
            self._connection.read_response()
        self._connection.send_command(*command)
        return self._connection.read_response()

    def run(self, script: Script, keys: Sequence[str], *arguments: str | bytes | int) -> Any:
        try:
            return self.ask("EVALSHA", script.sha1, len(keys), *keys, *arguments)
        except NoScriptError:
            return self.ask("EVAL", script.text, len(keys), *keys, *arguments)


class _Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class RedisNode:
    """Connects when it is first called, and again whenever that is needed. For any number of threads.

    Every call has a connection of its own, from the node's pool.
    """

    def __init__(self, url: str, ca: Path | None, key: str, timeout_s: float) -> None:
        """url: as `RedisStore` takes it; of any node of a Cluster. key: all keys of the calls are in its slot.

        ca: PEM of who has signed the server's certificate; None = one that the system trusts. timeout_s: how long an
        answer may take.
        """
        options: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": _CONNECT_TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
        }
        if ca is not None:
            options["ssl_ca_certs"] = str(ca)
        self._slot = key_slot(key.encode())
        # The package has types, but not for everything that is used here.
        self._first: Any = redis.ConnectionPool.from_url(url, **options)
        given = self._first.connection_kwargs
        self._given = _Address(given.get("host", "localhost"), given.get("port", 6379))
        self._pools = {self._given: self._first}
        self._nodes = {self._given}
        self._node: _Address | None = None
        self._lost: _Address | None = None
        self._is_closed = False

    def __str__(self) -> str:
        return f"Redis at {self._node or self._given}"

    def call(self, talk: Callable[[Connection], Answer]) -> Answer:
        """Talks to the node, again only where it was the wrong one and has done nothing.

        Raises Unanswered; StoreUnavailable when it cannot be reached or cannot answer now; StoreRefused when it answers
        by an error. After these two nothing was done by the command that failed.
        """
        node = self._node or self._find()
        is_asking = False
        for _ in range(_TRIES):
            try:
                with self._connected(node, is_asking) as connection:
                    return talk(connection)
            except AskError as error:
                is_asking = not isinstance(error, MovedError)
                node = _Address(error.host or node.host, error.port)
                if not is_asking:
                    self._node = node
            except StoreUnavailable as error:
                self._lose(node)
                if not isinstance(error, _Unreachable):
                    raise
                found = self._find()
                if found == node:
                    raise
                node, is_asking = found, False
        raise StoreUnavailable(f"the Cluster of {self} is moving the log of changes to another node")

    def ask(self, *command: str | bytes | int) -> Any:
        """The answer to one command."""
        return self.call(lambda connection: connection.ask(*command))

    def run(self, script: Script, keys: Sequence[str], *arguments: str | bytes | int) -> Any:
        """The answer of a script."""
        return self.call(lambda connection: connection.run(script, keys, *arguments))

    def close(self) -> None:
        """A call that is under way ends as it would."""
        self._is_closed = True
        for pool in list(self._pools.values()):
            pool.disconnect(inuse_connections=False)

    def _lose(self, node: _Address) -> None:
        """Lets the next call look for the node anew: another may have taken its place, or its name."""
        self._node, self._lost = None, node
        self._pool(node).disconnect(inuse_connections=False)

    def _find(self) -> _Address:
        """Finds the node by way of those that are known, the one that was lost last."""
        failure: StoreUnavailable | None = None
        for asked in sorted(self._nodes, key=lambda node: node == self._lost):
            try:
                node, nodes = self._look(asked)
            except StoreUnavailable as error:
                failure = error
            else:
                self._node, self._nodes = node, nodes | {self._given}
                return node
        # Nothing was sent to the node itself, whatever happened on the way to it.
        raise _Unreachable(str(failure))

    def _look(self, asked: _Address) -> tuple[_Address, set[_Address]]:
        """The node with the log, and all nodes, as one of them knows them."""
        with self._connected(asked) as connection:
            hello = connection.ask("HELLO")
            about = dict(zip(hello[::2], hello[1::2], strict=True))
            check_version(about[b"version"].decode(), str(asked))
            if about[b"mode"] != b"cluster":
                return asked, {asked}
            shards = connection.ask("CLUSTER", "SLOTS")
        nodes, found = set(), None
        for first, last, *servers in shards:  # the primary, then its replicas; of each its host, its port, and more
            # A node that does not know its own name is where it was reached.
            addresses = [_Address((host or b"").decode() or asked.host, port) for host, port, *_ in servers]
            nodes.update(addresses)
            if first <= self._slot <= last:
                found = addresses[0]
        if found is None:
            raise StoreUnavailable(f"the Cluster of Redis at {asked} has no node for the log of changes")
        return found, nodes

    @contextmanager
    def _connected(self, node: _Address, is_asking: bool = False) -> Iterator[Connection]:
        """A connection; redirections by the node come as redis-py has them, all else as `call` says."""
        pool = self._pool(node)
        try:
            connection = pool.get_connection()
        except (redis.RedisError, OSError) as error:
            raise _store_error(error, node, is_sent=False) from None
        try:
            yield Connection(connection, is_asking)
        except BaseException as error:
            if not isinstance(error, redis.ResponseError):
                connection.disconnect()  # an answer may be on its way
            if isinstance(error, AskError) or not isinstance(error, redis.RedisError):
                raise
            raise _store_error(error, node, is_sent=True) from None
        finally:
            if self._is_closed:
                connection.disconnect()
            pool.release(connection)

    def _pool(self, node: _Address) -> Any:
        if node not in self._pools:
            options = {**self._first.connection_kwargs, "host": node.host, "port": node.port}
            # Two threads may both make one; it holds nothing yet.
            self._pools.setdefault(node, redis.ConnectionPool(self._first.connection_class, **options))
        return self._pools[node]


def _store_error(error: Exception, node: _Address, is_sent: bool) -> StoreUnavailable | StoreRefused:
    where = f"Redis at {node}"
    if isinstance(error, _NOT_NOW):
        return StoreUnavailable(f"{where} cannot do it now: {error}")
    if isinstance(error, _LOGIN):
        return StoreRefused(f"{where} refuses the login ({error}): check user and password")
    if isinstance(error, OutOfMemoryError):
        return StoreRefused(f"{where} is full: raise its maxmemory")
    if isinstance(error, NoPermissionError):
        return StoreRefused(f"{where} does not let this user do what is needed: {error}")
    if isinstance(error, redis.ResponseError):
        return StoreRefused(f"{where} refuses: {error}")
    if is_sent:
        return Unanswered(f"no answer from {where}: {error}")
    return _Unreachable(f"no connection to {where}: {error}")

"""Entries of a log in Redis: to append and to read them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from tests.redis.running import RedisCluster, RedisServer
from twotower_server.catalog.record import BEGINNING, Mark
from twotower_server.catalog.redis_log import Entry, RedisLog
from twotower_server.errors import NotAppended, OutcomeUnknown

PREFIX = "twotower:"
LOG = "twotower:{catalog}:log"
SNAPSHOT = "twotower:{catalog}:snapshot"

Redis = RedisServer | RedisCluster

# The fixture `open_log`.
OpenLog = Callable[..., RedisLog]


def append(log: RedisLog, *contents: bytes, count: int = 1, beyond: int = 0) -> list[Entry]:
    """Appends an entry for each content; what was appended."""
    entries = []
    for changes in contents:
        token = secrets.randbits(64)
        entries.append(Entry(log.append(changes, count, beyond, token), token, count, changes))
    return entries


def append_at_last(log: RedisLog) -> Entry:
    """Tries to append until it works."""
    while True:
        try:
            return append(log, b"at last")[0]
        except (NotAppended, OutcomeUnknown):
            continue


def everything(log: RedisLog, after: Mark = BEGINNING, limit: int = 64) -> list[Entry]:
    """What follows a mark, read in steps."""
    entries: list[Entry] = []
    while step := log.read(entries[-1].mark if entries else after, limit):
        assert len(step) <= limit
        entries += step
    return entries


def positions(entries: list[Entry]) -> list[int]:
    return [entry.position for entry in entries]


def keys(client: Any) -> list[str]:
    """Names of all keys, of a standalone server or a Cluster."""
    return sorted(key.decode() for key in client.scan_iter("*"))

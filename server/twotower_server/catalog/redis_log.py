"""The log of changes in Redis, which all servers share: each keeps a copy, and asks for what is new.

An entry is one append. Positions count changes and come from the log itself, never from a clock: who reads a stream by
ids of the clock misses an entry whose clock went back. What an entry follows is known by its position and its token,
which is random. A replica holds a beginning of its primary's history, so when Redis has an entry with that token at
that position, all before it is the same, too; else the histories have parted, whether by a failover, a Redis that came
back empty, or somebody who wrote to it. This takes the place of an epoch and the id of the replication.

All keys are in one slot:

    <prefix>{catalog}:log                     a stream; an entry's id is <position>-0; its fields, in this order:
                                              previous (position of the entry before; 0 = none), token, count, changes
    <prefix>{catalog}:snapshot                a hash: position, token, name, chunks, bytes, sha256
    <prefix>{catalog}:snapshot:<name>:<i>     its chunks, of 1 MiB but for the last
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import redis

from twotower_server.catalog.record import Mark
from twotower_server.catalog.redis_node import Connection, RedisNode, Script, Unanswered
from twotower_server.errors import NotAppended, OutcomeUnknown, StoreRefused, StoreUnavailable, TwoTowerError

# Lua counts in doubles, which are exact up to 2**53.
LARGEST_BEYOND = 2**53 - 2**32

_TIMEOUT_S = 2.0
# An answer to `read` holds about this much, and at most one entry more.
_READ_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 20
# What is left of an upload that was killed vanishes then.
_UPLOAD_S = 3_600

# Nothing depends on the time, and the one write is the last thing done: an error means that nothing was written.
_APPEND = Script("""
#!lua
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local previous = last and string.match(last[1], '^(%d+)-0$') or '0'
local position = math.max(tonumber(previous), tonumber(ARGV[1])) + tonumber(ARGV[2])
if position >= 2^53 then
  return redis.error_reply('ERR positions have come to their end')
end
local id = string.format('%.0f-0', position)
redis.call('XADD', KEYS[1], id, 'previous', previous, 'token', ARGV[3], 'count', ARGV[2], 'changes', ARGV[4])
return id
""")

# An entry is {id, {'previous', previous, 'token', token, 'count', count, 'changes', changes}}.
_READ = Script("""
#!lua flags=no-writes
local id = ARGV[1] .. '-0'
local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
if entry and entry[2][4] ~= ARGV[2] then return 'diverged' end
if not entry then
  local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  local is_trimmed = first and first[2][2] ~= '0'
  if is_trimmed and tonumber(string.match(first[1], '^%d+')) > tonumber(ARGV[1]) then return 'behind' end
  if ARGV[1] ~= '0' then return 'diverged' end
end
local entries, bytes = {}, 0
while #entries < tonumber(ARGV[3]) and bytes < tonumber(ARGV[4]) do
  local entry = redis.call('XRANGE', KEYS[1], '(' .. id, '+', 'COUNT', 1)[1]
  if not entry then break end
  table.insert(entries, entry)
  id = entry[1]
  bytes = bytes + #(entry[2][8] or '')
end
return entries
""")

_IS_LAST = Script("""
#!lua flags=no-writes
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1] or {'0-0', {'', '', '', '0'}}
return last[1] == ARGV[1] .. '-0' and last[2][4] == ARGV[2]
""")

# Keys of chunks are not declared: they are in the slot of those that are.
_PUBLISH = Script("""
#!lua
local function each(name, chunks, command)
  local done = 0
  for i = 0, tonumber(chunks) - 1 do
    done = done + redis.call(command, KEYS[2] .. ':' .. name .. ':' .. i)
  end
  return done
end
local function is_whole(name, chunks)
  return each(name, chunks, 'EXISTS') == tonumber(chunks)
end
local position, token, name, chunks = unpack(ARGV)
local id = position .. '-0'
local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
local old_position, old_name, old_chunks = unpack(redis.call('HMGET', KEYS[2], 'position', 'name', 'chunks'))
local is_late = old_name and tonumber(old_position) >= tonumber(position) and is_whole(old_name, old_chunks)
if not entry or entry[2][4] ~= token or is_late or not is_whole(name, chunks) then
  each(name, chunks, 'UNLINK')
  return 0
end
each(name, chunks, 'PERSIST')
redis.call('HSET', KEYS[2], 'position', position, 'token', token, 'name', name, 'chunks', chunks,
  'bytes', ARGV[5], 'sha256', ARGV[6])
redis.call('XTRIM', KEYS[1], 'MINID', id)
if old_name then each(old_name, old_chunks, 'UNLINK') end
return 1
""")


class Diverged(TwoTowerError):
    """Redis has another history than the mark."""


class Behind(TwoTowerError):
    """What follows the mark is not in the log any more; the snapshot has all, and may be of another history."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One append. position: of its last change. token: uint64. count: of changes. changes: as they were appended."""

    position: int
    token: int
    count: int
    changes: bytes

    @property
    def mark(self) -> Mark:
        return Mark(self.position, self.token)


class RedisLog:
    """The log and its snapshot. For any number of threads: every call has a connection of its own, from a pool.

    It connects when it is first called, and again whenever that is needed; nothing is asked for twice but what a
    Cluster redirects. All methods raise StoreUnavailable when Redis does not answer, StoreRefused when it answers by an
    error; their messages are for the log of the server, not for its callers.
    """

    def __init__(
        self, url: str, ca: Path | None, prefix: str, replicas: int = 0, timeout_s: float = _TIMEOUT_S
    ) -> None:
        """url: of a standalone server, or of any node of a Cluster. ca: PEM; None = what the system trusts.

        prefix: of all keys. replicas: that must have an entry before it counts as appended. timeout_s: how long an
        answer may take; a connection gets a second.
        """
        self._log = f"{prefix}{{catalog}}:log"
        self._snapshot = f"{prefix}{{catalog}}:snapshot"
        self._replicas = replicas
        # Redis may keep an answer back for so long, and then still gives it in time.
        self._block_s = timeout_s / 2
        self._node = RedisNode(url, ca, self._log, timeout_s)

    def append(self, changes: bytes, count: int, beyond: int, token: int) -> int:
        """Appends an entry of `count` changes, at least one; returns its position, which is that of its last change.

        beyond: the positions of all its changes are greater than this, too. token: uint64, random. Raises NotAppended
        or OutcomeUnknown, nothing else.
        """
        if beyond > LARGEST_BEYOND:
            raise NotAppended(f"positions end at {LARGEST_BEYOND}, and these changes should come after {beyond}")

        def talk(connection: Connection) -> tuple[int, int]:
            last = _position(connection.run(_APPEND, [self._log], beyond, count, token, changes))
            return last, self._reached(connection) if self._replicas else 0

        try:
            position, reached = self._node.call(talk)
        except OutcomeUnknown:
            raise
        except Unanswered as error:
            raise OutcomeUnknown(str(error)) from None
        except (StoreUnavailable, StoreRefused) as error:
            raise NotAppended(str(error)) from None
        if reached < self._replicas:
            raise OutcomeUnknown(f"{reached} of {self._replicas} replicas of {self._node} have the changes")
        return position

    def read(self, after: Mark, limit: int = 64) -> list[Entry]:
        """What follows a mark, in order: at most `limit` entries, or so many as make 4 MiB; [] = nothing yet.

        Raises Diverged, Behind.
        """
        arguments = (after.position, after.token, limit, _READ_BYTES)
        answer = self._node.run(_READ, [self._log], *arguments)
        if answer == b"diverged":
            raise Diverged(f"{self._node} has another history of changes than this server at position {after.position}")
        if answer == b"behind":
            raise Behind(f"{self._node} no longer has the changes after position {after.position} one by one")
        return [self._entry(entry_id, fields) for entry_id, fields in answer]

    def wait(self, after: Mark, timeout_s: float) -> bool:
        """Waits until the log's last entry is another than the mark's; whether it is.

        It may also have been replaced by one before it, or by another at the same position: `read` tells. What is
        appended wakes this at once; that the history is another is seen within the time that an answer may take.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if not self._node.run(_IS_LAST, [self._log], after.position, after.token):
                return True
            left_s = min(deadline - time.monotonic(), self._block_s)
            if left_s <= 0:
                return False
            block_ms = max(int(left_s * 1e3), 1)
            if self._node.ask("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", self._log, f"{after.position}-0"):
                return True

    def snapshot(self) -> tuple[Mark, Iterator[bytes]] | None:
        """The newest snapshot: the entry that it goes up to, and its bytes in pieces; None = there is none.

        They are those that were published only when the iterator has come to its end: it raises StoreUnavailable when
        the snapshot was replaced meanwhile; the next one can be read then.
        """
        values = self._node.ask("HGETALL", self._snapshot)
        if not values:
            return None
        about = dict(zip(values[::2], values[1::2], strict=True))
        try:
            mark = Mark(int(about[b"position"]), int(about[b"token"]))
            name, chunks, sha256 = about[b"name"].decode(), int(about[b"chunks"]), about[b"sha256"].decode()
        except (KeyError, ValueError):
            raise StoreRefused(f"{self._snapshot} of {self._node} holds something else than a snapshot") from None
        return mark, self._chunks(name, chunks, sha256)

    def publish_snapshot(self, mark: Mark, size_bytes: int, chunks: Iterable[bytes]) -> bool:
        """Makes bytes the snapshot, and drops what is before its mark from the log. False = it was not taken.

        It is taken if the log has the mark's entry, no other snapshot goes as far, and the upload takes no longer than
        an hour. The mark's entry stays in the log, so servers that have it go on from there. chunks: of any size,
        `size_bytes` together; else raises ValueError.
        """
        name = secrets.token_hex(8)
        sent, sha256 = self._upload(name, size_bytes, chunks)
        arguments = (mark.position, mark.token, name, sent, size_bytes, sha256)
        return bool(self._node.run(_PUBLISH, [self._log, self._snapshot], *arguments))

    def risks(self) -> list[str]:
        """How this Redis is told to lose the log, one sentence each."""
        memory, persistence = self._about("memory"), self._about("persistence")
        found = []
        policy = memory["maxmemory_policy"]
        if memory["maxmemory"] != "0" and policy.startswith("allkeys"):
            found.append(f"Redis drops keys when it is full ({policy}), and may drop the log of item changes")
        if persistence["aof_enabled"] != "1":
            found.append("Redis keeps no append-only file: item changes are lost when it restarts")
        return found

    def _about(self, section: str) -> dict[str, str]:
        lines = self._node.ask("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def close(self) -> None:
        """A call that is under way ends as it would."""
        self._node.close()

    def _reached(self, connection: Connection) -> int:
        """How many replicas have what this connection has written; waits for as many as are wanted, not for ever."""
        try:
            reached: int = connection.ask("WAIT", self._replicas, int(self._block_s * 1e3))
        except redis.RedisError as error:
            raise OutcomeUnknown(f"{self._node} did not say whether replicas have the changes: {error}") from None
        return reached

    def _entry(self, entry_id: bytes, fields: list[bytes]) -> Entry:
        try:
            _, _, _, token, _, count, _, changes = fields
            return Entry(_position(entry_id), int(token), int(count), changes)
        except ValueError:
            raise StoreRefused(f"{self._log} of {self._node} holds something else than changes") from None

    def _upload(self, name: str, size_bytes: int, pieces: Iterable[bytes]) -> tuple[int, str]:
        """Writes chunks that vanish in a while; how many, and their SHA-256. Removes them if that fails."""
        digest = hashlib.sha256()
        keys: list[str] = []
        uploaded_bytes = 0
        try:
            for chunk in _cut(pieces):
                digest.update(chunk)
                uploaded_bytes += len(chunk)
                keys.append(self._chunk(name, len(keys)))
                self._node.ask("SET", keys[-1], chunk, "EX", _UPLOAD_S)
            if uploaded_bytes != size_bytes:
                raise ValueError(f"the snapshot has {uploaded_bytes} bytes instead of {size_bytes}")
        except BaseException:
            if keys:
                with suppress(StoreUnavailable, StoreRefused):
                    self._node.ask("UNLINK", *keys)
            raise
        return len(keys), digest.hexdigest()

    def _chunk(self, name: str, i: int) -> str:
        return f"{self._snapshot}:{name}:{i}"

    def _chunks(self, name: str, chunks: int, sha256: str) -> Iterator[bytes]:
        digest = hashlib.sha256()
        for i in range(chunks):
            chunk: bytes | None = self._node.ask("GET", self._chunk(name, i))
            if chunk is None:
                break
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != sha256:
            raise StoreUnavailable(f"the snapshot of changes of {self._node} was replaced while it was read")


def _position(entry_id: bytes) -> int:
    """Raises ValueError for an id of somebody else."""
    return int(entry_id.removesuffix(b"-0"))


def _cut(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in chunks of one size, but for the last."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) >= _CHUNK_BYTES:
            yield bytes(waiting[:_CHUNK_BYTES])
            del waiting[:_CHUNK_BYTES]
    if waiting:
        yield bytes(waiting)

"""A table of users → their vectors → the cache in Redis, where servers find them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from twotower_server.cache.policy import CachePolicy, RealTimeFeatures
from twotower_server.cache.redis import redis_key
from twotower_server.errors import ReleaseRefused
from twotower_server.features.row import Row
from twotower_server.features.table import count_rows, feature_rows, read_batches
from twotower_server.items.redis import RedisStore
from twotower_server.release.progress import Progress
from twotower_server.release.snapshot import Snapshot
from twotower_server.release.vectors import unusable_rows

USER_ID = "user_id"
FEATURE_VERSION = "feature_version"
_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What became of the rows of a table.

    written: in Redis now. uncached: the policy keeps no vector of such a user. refused: cannot be embedded; `reason` is
    that of the first, with its row.
    """

    release: str
    written: int = 0
    uncached: int = 0
    refused: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _User(Row):
    user_id: str = ""
    feature_version: str = ""


def refresh_users(
    snapshot: Snapshot, table: Path, policy: CachePolicy, store: RedisStore, prefix: str, progress: Progress
) -> Refreshed:
    """Embeds every user of a table and writes the vectors, each to live for the policy's time.

    table: columns `user_id`, features by their full names, and `feature_version` where there is one. prefix: of keys.
    Raises ReleaseRefused for a table that cannot be read, StoreRefused and StoreUnavailable.
    """
    progress.start("embedding users", count_rows(table))
    real_time = RealTimeFeatures(policy.real_time, snapshot.schema.user)
    written = uncached = refused = first_row = 0
    reason = ""
    for batch in read_batches(table, _ROWS):
        users = list(_users(batch, snapshot, first_row))
        keys = [policy.key(snapshot.release, real_time, user) for user in users]
        encoded = snapshot.user_encoder.encode(users)
        vectors = snapshot.embed_users(encoded)
        failed = {i: error.message for i, error in encoded.refused.items()}
        failed |= {int(i): "its vector is not finite" for i in unusable_rows(vectors) if i not in failed}
        if failed and not reason:
            reason = f"row {first_row + min(failed) + 1}: {failed[min(failed)]}"
        values = {
            redis_key(prefix, key): vectors[i].astype("<f4", copy=False).tobytes()
            for i, key in enumerate(keys)
            if key is not None and i not in failed
        }
        if values:
            store.write_for(values, int(policy.ttl_s * 1e3))
        refused += len(failed)
        uncached += sum(key is None and i not in failed for i, key in enumerate(keys))
        written += sum(key is not None and i not in failed for i, key in enumerate(keys))
        first_row += len(users)
        progress.advance(len(users))
    return Refreshed(snapshot.release, written, uncached, refused, reason)


def _users(batch: pa.RecordBatch, snapshot: Snapshot, first_row: int) -> Iterator[_User]:
    ids, versions = _texts(batch, USER_ID), _texts(batch, FEATURE_VERSION)
    if ids is None:
        raise ReleaseRefused(f"the table has no column {USER_ID}: it has {', '.join(batch.schema.names)}")
    for i, row in enumerate(feature_rows(batch, snapshot.schema.user, first_row)):
        yield _User(row.features, row.string_features, user_id=ids[i], feature_version=versions[i] if versions else "")


def _texts(batch: pa.RecordBatch, name: str) -> list[str] | None:
    """A column as texts, "" where it is empty; None when there is no such column."""
    if name not in batch.schema.names:
        return None
    try:
        cells = batch.column(name).cast(pa.string()).to_pylist()
    except pa.ArrowException:
        raise ReleaseRefused(f"the column {name} holds {batch.schema.field(name).type}, not text") from None
    return ["" if cell is None else cell for cell in cells]

"""Reading what training learns from, and splitting it by user so that nobody is both learned from and
measured on.
"""

from __future__ import annotations

import datetime
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower_server.errors import ReleaseRefused
from twotower_server.features.columns import Column, ColumnMapping
from twotower_server.features.row import Row, Strings
from twotower_server.features.schema import Feature, Missing, Side, TowerSchema
from twotower_server.features.table import feature_rows, read_batches
from twotower_server.train.config import DataConfig
from twotower_server.train.feature import FeatureConfig

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Entities:
    """The users or the items: ids and raw features, in the order of their table."""

    ids: Sequence[str]
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Interactions:
    """Interactions by user, each user's oldest first.

    users:   int64 [n], items: int64 [n]: indices into the ids; users are ascending.
    offsets: int64 [users + 1]: user u has the interactions offsets[u] to offsets[u + 1].
    skipped: rows left out because their item is not in the table of items.
    """

    users: Indices
    items: Indices
    offsets: Indices
    skipped: int

    def before(self, interaction: int, limit: int | None = None) -> Indices:
        """Items of the same user before an interaction, oldest first, without the interaction's own item.

        limit: at most so many, the latest ones.
        """
        earlier: Indices = self.items[self.offsets[self.users[interaction]] : interaction]
        earlier = earlier[earlier != self.items[interaction]]
        return earlier if limit is None else earlier[-limit:]


@dataclass(frozen=True, slots=True)
class Split:
    """Interactions to learn from, and of held-back users the last one each: int64 indices of interactions."""

    train: Indices
    validation: Indices
    test: Indices


def column_mapping(features: Sequence[FeatureConfig], id_column: str) -> ColumnMapping:
    """Which columns of a table hold the features; `model.json` keeps the items'."""
    columns = {
        f.name: Column(f.column, f.separator)
        for f in features
        if not f.history and (f.column != f.name or f.separator is not None)
    }
    return ColumnMapping(id_column, columns)


def read_entities(path: Path, side: Side, features: Sequence[FeatureConfig], mapping: ColumnMapping) -> Entities:
    """Reads a feature table. Raises ReleaseRefused for a missing column, a bad cell or an id that occurs
    twice.
    """
    features = [f for f in features if not f.history]
    reader = TowerSchema(side, "graph", tuple(_unmeasured(f) for f in features))
    ids: list[str] = []
    rows: list[Row] = []
    for batch in read_batches(path):
        if not ids:
            _check_columns(path, features, mapping, batch.schema.names)
        ids += mapping.ids(batch, len(rows))
        rows += feature_rows(mapping.apply(batch), reader, len(rows)) if features else [Row()] * batch.num_rows
    if not ids:
        raise ReleaseRefused(f"{path} has no rows")
    most_frequent, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise ReleaseRefused(f"{path.name} has the {mapping.id_column} {most_frequent!r} twice; ids must be unique")
    return Entities(ids, rows)


def read_interactions(data: DataConfig, items: Entities, users: Entities | None) -> tuple[Interactions, Entities]:
    """Reads the interactions, and the users: those of the table, or all that occur.

    Raises ReleaseRefused when a column or a value is missing, or a user is not in the table of users.
    """
    names = [data.user_id, data.item_id, *([data.timestamp] if data.timestamp else [])]
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for batch in read_batches(data.interactions):
        for name in names:
            if name not in batch.schema.names:
                raise ReleaseRefused(
                    f"{data.interactions.name} has no column {name}; it has {', '.join(batch.schema.names)}. "
                    "Name its columns in [data]: user_id, item_id, timestamp"
                )
            columns[name] += batch.column(name).to_pylist()
    for name, cells in columns.items():
        if None in cells or "" in cells:
            row = next(i for i, cell in enumerate(cells) if cell in (None, "")) + 1
            raise ReleaseRefused(f"{data.interactions.name} row {row} has no {name}")
    user_ids, item_ids = [str(v) for v in columns[data.user_id]], [str(v) for v in columns[data.item_id]]
    if users is None:
        known = list(dict.fromkeys(user_ids))
        users = Entities(known, [Row()] * len(known))
    who = _indices(user_ids, users.ids)
    if (who < 0).any():
        unknown = user_ids[int(np.flatnonzero(who < 0)[0])]
        raise ReleaseRefused(f"{data.interactions.name} names the user {unknown!r}, who is not in the table of users")
    what = _indices(item_ids, items.ids)
    order = np.lexsort((np.arange(len(who)), _times(data, columns), who))
    kept = order[what[order] >= 0]
    if not kept.size:
        raise ReleaseRefused(
            f"no item of {data.interactions.name} is in {data.items.name}; do data.item_id and the ids agree?"
        )
    counts = np.bincount(who[kept], minlength=len(users.ids))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Interactions(who[kept], what[kept], offsets, len(who) - len(kept)), users


def split_by_user(interactions: Interactions, validation_share: float, test_share: float, seed: int) -> Split:
    """Holds back a share of the users who have at least two interactions; their last one is what is measured
    on.

    Raises ReleaseRefused when there are too few such users.
    """
    counts = np.diff(interactions.offsets)
    able = np.random.default_rng(seed).permutation(np.flatnonzero(counts >= 2))
    validation, test = round(len(able) * validation_share), round(len(able) * test_share)
    if min(validation, test) < 1 or validation + test >= len(able):
        raise ReleaseRefused(
            f"only {len(able)} users have two or more interactions: too few to hold some back for validation and test"
        )
    held_back = np.zeros(len(counts), np.bool_)
    held_back[able[: validation + test]] = True
    last = interactions.offsets[1:] - 1
    return Split(
        np.flatnonzero(~held_back[interactions.users]),
        np.sort(last[able[:validation]]),
        np.sort(last[able[validation : validation + test]]),
    )


def user_rows(
    interactions: Interactions,
    users: Entities,
    item_ids: Sequence[str],
    features: Sequence[FeatureConfig],
    which: Indices,
) -> list[Row]:
    """Raw features of the user of each interaction, as they were before it: its item is in no history."""
    limits = {f.name: f.max_length for f in features if f.history}
    rows = []
    for interaction in which.tolist():
        row = users.rows[interactions.users[interaction]]
        strings: dict[str, Any] = dict(row.string_features)
        for name, limit in limits.items():
            earlier = interactions.before(interaction, limit)
            if earlier.size:
                strings[name] = Strings([item_ids[item] for item in earlier.tolist()])
        rows.append(Row(row.features, strings))
    return rows


def _unmeasured(feature: FeatureConfig) -> Feature:
    """Enough of a schema to read cells by kind, before anything is measured."""
    return Feature(feature.name, feature.kind, Missing("marker"), buckets=1, max_length=feature.max_length)


def _check_columns(path: Path, features: Sequence[FeatureConfig], mapping: ColumnMapping, names: Sequence[str]) -> None:
    for feature in features:
        source = mapping.features.get(feature.name)
        column = feature.name if source is None else source.column
        stem = column[:-1]
        if column in names or (feature.kind == "weighted_bag" and any(n.startswith(stem) for n in names)):
            continue
        raise ReleaseRefused(
            f"{path.name} has no column {column} for features.{feature.name}; it has {', '.join(names)}. "
            "Set the feature's `column`"
        )


def _indices(values: Sequence[str], ids: Sequence[str]) -> Indices:
    places: Mapping[str, int] = {id: i for i, id in enumerate(ids)}
    return np.fromiter((places.get(value, -1) for value in values), np.int64, len(values))


def _times(data: DataConfig, columns: Mapping[str, Sequence[Any]]) -> NDArray[np.float64]:
    """What interactions are ordered by, in any unit; all equal when rows are in order already."""
    if data.timestamp is None:
        return np.zeros(len(columns[data.user_id]))
    cells = columns[data.timestamp]
    times = np.empty(len(cells))
    for row, cell in enumerate(cells):
        times[row] = _time(cell)
    if np.isnan(times).any():
        row = int(np.flatnonzero(np.isnan(times))[0])
        raise ReleaseRefused(
            f"{data.interactions.name} row {row + 1}: the {data.timestamp} {str(cells[row])!r} is neither a number nor "
            "ISO 8601, such as 2024-02-29 or 2024-02-29T12:30:00Z"
        )
    return times


def _time(cell: object) -> float:
    """A number as it is, a date or time in epoch seconds (UTC where no zone is given), NaN for anything else."""
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        pass
    try:
        time = datetime.datetime.fromisoformat(str(cell))
    except ValueError:
        return math.nan
    return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp()

"""Tables → what the loop learns from: read, split by user, measured and encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twotower_server.config import ConfigError
from twotower_server.errors import Reason, ReleaseRefused
from twotower_server.features.columns import ColumnMapping
from twotower_server.features.row import Row
from twotower_server.features.schema import Schema
from twotower_server.train.config import TrainConfig
from twotower_server.train.data import (
    Entities,
    Indices,
    Interactions,
    column_mapping,
    read_entities,
    read_interactions,
    split_by_user,
    user_rows,
)
from twotower_server.train.errors import TrainingFailed
from twotower_server.train.inputs import Inputs
from twotower_server.train.loop import Examples, Report
from twotower_server.train.statistics import measure_schema

_NOTHING_KNOWN = (Reason.FIELD_REQUIRED, Reason.NO_KNOWN_FEATURE)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that was read, measured and encoded.

    mapping: which column of the items' table is which feature. test_rows, test_user_ids: raw features and ids of the
    test examples. item_counts: int64 [items], in the interactions to learn from.
    """

    items: Entities
    interactions: Interactions
    schema: Schema
    mapping: ColumnMapping
    item_inputs: Inputs
    train: Examples
    validation: Examples
    test: Examples
    test_rows: Sequence[Row]
    test_user_ids: Sequence[str]
    item_counts: NDArray[np.int64]


def prepare(config: TrainConfig, report: Report) -> Prepared:
    """Reads the tables, splits the users, measures the schema and encodes. report: hears what was found.

    Raises ConfigError and ReleaseRefused for what is wrong with the data, TrainingFailed when nothing can be learned.
    """
    user_features, item_features = config.side("user"), config.side("item")
    mapping = column_mapping(item_features, config.data.item_id)
    items = read_entities(config.data.items, "item", item_features, mapping)
    users = None
    if config.data.users is not None:
        user_mapping = column_mapping(user_features, config.data.user_id)
        users = read_entities(config.data.users, "user", user_features, user_mapping)
    if config.training.stopping_k >= len(items.ids):
        raise ConfigError(
            f"training.stopping_k is {config.training.stopping_k}, but {config.data.items.name} has {len(items.ids):,} "
            "items: every model finds everything among so many. Choose a tenth of the items, or fewer"
        )
    interactions, users = read_interactions(config.data, items, users)
    skipped = f"; {interactions.skipped:,} skipped, their items are not in the table" if interactions.skipped else ""
    report(
        f"read {len(interactions.items):,} interactions, {len(items.ids):,} items, {len(users.ids):,} users{skipped}"
    )
    training = config.training
    split = split_by_user(interactions, training.validation_share, training.test_share, training.seed)
    counts = np.bincount(interactions.items[split.train], minlength=len(items.ids))
    trained_on = np.unique(interactions.users[split.train])
    schema = measure_schema(
        config, [users.rows[i] for i in trained_on.tolist()], items.rows, counts.tolist(), items.ids
    )

    def examples(which: Indices) -> tuple[Examples, list[Row]]:
        """Examples whose user has at least one feature; nothing can be learned of the others, nor served to
        them.
        """
        rows = user_rows(interactions, users, items.ids, user_features, which)
        inputs = Inputs(schema.user, rows)
        if not inputs.refused:
            return Examples(which, inputs), rows
        for i, error in inputs.refused.items():
            if error.reason not in _NOTHING_KNOWN:
                raise ReleaseRefused(f"user {users.ids[interactions.users[which[i]]]!r}: {error.message}")
        kept = np.setdiff1d(np.arange(len(which)), list(inputs.refused))
        rows = [rows[i] for i in kept.tolist()]
        if not rows:
            raise TrainingFailed("no user has a single feature before an interaction; is there a history?")
        return Examples(which[kept], Inputs(schema.user, rows)), rows

    (train_examples, _), (validation, _), (test, test_rows) = map(examples, (split.train, split.validation, split.test))
    report(
        f"{len(train_examples.which):,} examples to learn from; held back: {len(validation.which):,} users "
        f"for validation, {len(test.which):,} for the test"
    )
    item_inputs = Inputs(schema.item, items.rows)
    for i, refusal in item_inputs.refused.items():
        raise ReleaseRefused(f"{config.data.items.name} row {i + 1}, item {items.ids[i]!r}: {refusal.message}")
    return Prepared(
        items,
        interactions,
        schema,
        mapping,
        item_inputs,
        train_examples,
        validation,
        test,
        test_rows,
        [users.ids[i] for i in interactions.users[test.which].tolist()],
        counts,
    )

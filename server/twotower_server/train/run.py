"""`twotower train` from beginning to end: configuration → data → towers → model folder."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet
import torch
from numpy.typing import NDArray

from twotower_server.config import ConfigError
from twotower_server.errors import Reason, ReleaseRefused
from twotower_server.features.columns import ColumnMapping
from twotower_server.features.row import Row
from twotower_server.features.schema import Schema, TowerSchema
from twotower_server.release import durable
from twotower_server.release.calibration import Calibration
from twotower_server.release.format import ITEM_TOWER, SCHEMA, USER_TOWER
from twotower_server.release.model import MODEL, MODEL_FORMAT, USERS
from twotower_server.train.calibrate import fit_calibration
from twotower_server.train.config import TrainConfig
from twotower_server.train.content import ContentEmbedding, content_ids
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
from twotower_server.train.evaluate import popularity_ranks
from twotower_server.train.export import check_parity, export_tower
from twotower_server.train.inputs import Inputs
from twotower_server.train.loop import Examples, Report, embed, ranks, train_towers
from twotower_server.train.model import Tower, make_tables
from twotower_server.train.statistics import measure_schema

RECALL_KS = (10, 100)
# Held-back users that go into the model folder: golden samples and the index are measured on them.
MAX_SAMPLE_USERS = 500
_NEGATIVES_PER_POSITIVE = 50
_NOTHING_KNOWN = (Reason.FIELD_REQUIRED, Reason.NO_KNOWN_FEATURE)


@dataclass(frozen=True, slots=True)
class Metrics:
    """Measured on the test users, whom neither the weights nor the stopping have seen.

    recall, popularity_recall: by K, of the model and of showing everybody the most popular items.
    validation_recall: of the validation users, at training.stopping_k.
    parity: the largest difference of an element between PyTorch and ONNX, see check_parity.
    """

    test_users: int
    recall: Mapping[str, float]
    popularity_recall: Mapping[str, float]
    validation_recall: float
    parity: float


@dataclass(frozen=True, slots=True)
class _Data:
    """Everything that was read and encoded."""

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


def train(config: TrainConfig, out: Path, report: Report = print) -> Metrics:
    """Trains a model and writes its folder, whole or not at all. report: hears a line a step.

    Raises ConfigError and ReleaseRefused for what is wrong with configuration and data, TrainingFailed when
    no model worth writing comes of it.
    """
    if out.exists():
        raise _exists(out)
    torch.set_num_threads(config.training.threads)
    torch.manual_seed(config.training.seed)
    torch.use_deterministic_algorithms(True)
    data = _read(config, report)
    user_tower, item_tower = _towers(config, data)
    report(
        f"towers: {_parameters(user_tower):,} and {_parameters(item_tower):,} parameters, "
        f"{config.model.dimension} dimensions, {config.model.similarity}"
    )
    trained = train_towers(
        user_tower,
        item_tower,
        data.interactions,
        data.train,
        data.validation,
        data.item_inputs,
        (config.model, config.training),
        report,
    )
    user_tower.bake()
    item_tower.bake()
    found = ranks(user_tower, item_tower, data.interactions, data.test, data.item_inputs)
    popular = popularity_ranks(data.interactions, data.test.which, data.item_counts)
    report(f"best epoch {trained.best_epoch}; on {len(data.test.which):,} test users:")
    for k in RECALL_KS:
        report(f"  recall@{k:<4} {found.recall(k):.4f}   most popular items: {popular.recall(k):.4f}")
    calibration = _calibrate(config, data, user_tower, item_tower)
    report(f"calibration: sigmoid({calibration.scale:.3f} * similarity {calibration.bias:+.3f})")
    try:
        with durable.new_folder(out) as folder:
            parity = 0.0
            for tower, inputs, name in (
                (user_tower, data.train.inputs, USER_TOWER),
                (item_tower, data.item_inputs, ITEM_TOWER),
            ):
                export_tower(tower, inputs.take(np.arange(min(4, len(inputs)))), folder / name)
                parity = max(parity, check_parity(tower, folder / name, inputs, config.training.seed))
            report(f"PyTorch and ONNX differ by at most {parity:.1e}")
            metrics = Metrics(
                len(data.test.which),
                {str(k): found.recall(k) for k in RECALL_KS},
                {str(k): popular.recall(k) for k in RECALL_KS},
                trained.recall,
                parity,
            )
            data.schema.dump(folder / SCHEMA)
            _write_users(data, folder / USERS)
            _write_model(config, data, calibration, metrics, (trained.epochs, trained.best_epoch), folder / MODEL)
    except FileExistsError:
        raise _exists(out) from None
    report(f"wrote {out}")
    return metrics


def _exists(out: Path) -> ReleaseRefused:
    return ReleaseRefused(f"{out} exists already; name another folder with --out, or remove it first")


def _read(config: TrainConfig, report: Report) -> _Data:
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
    return _Data(
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


def _towers(config: TrainConfig, data: _Data) -> tuple[Tower, Tower]:
    with_ids = [f for f in config.features if f.kind != "numeric"]
    tables: dict[str, torch.nn.Module] = make_tables(
        (data.schema.user, data.schema.item),
        {f.name: f.table for f in with_ids},
        {f.name: f.embedding for f in with_ids},
    )
    item_features = {f.name: f for f in data.schema.item.features}
    for feature in (f for f in with_ids if f.content):
        in_schema = next(f for f in data.schema.user.features if f.name == feature.name)
        items = list(zip(data.items.ids, data.items.rows, strict=True))
        content = [
            (content_ids(in_schema, data.schema.item, item_features[name], items), tables[name])
            for name in feature.content
        ]
        table = ContentEmbedding(in_schema.table_rows, feature.embedding, content)
        tables |= {f.name: table for f in with_ids if f.table == feature.table}
    return (
        Tower(data.schema.user, tables, data.train.inputs.numeric(), config.model),
        Tower(data.schema.item, tables, data.item_inputs.numeric(), config.model),
    )


def _calibrate(config: TrainConfig, data: _Data, user_tower: Tower, item_tower: Tower) -> Calibration:
    users, items = embed(user_tower, data.validation.inputs), embed(item_tower, data.item_inputs)
    which = data.validation.which
    positives = (users * items[data.interactions.items[which]]).sum(1)
    random = np.random.default_rng(config.training.seed)
    drawn = random.integers(len(items), size=(len(users), _NEGATIVES_PER_POSITIVE))
    similarities = np.einsum("ud,und->un", users, items[drawn])
    taken = np.array(
        [
            np.isin(row, data.interactions.before(interaction)) | (row == data.interactions.items[interaction])
            for row, interaction in zip(drawn, which.tolist(), strict=True)
        ]
    )
    return fit_calibration(positives, similarities[~taken])


def _write_users(data: _Data, path: Path) -> None:
    """A feature table of test users, as they were before the interaction that was held back."""
    count = min(MAX_SAMPLE_USERS, len(data.test_rows))
    targets = data.interactions.items[data.test.which[:count]].tolist()
    columns = {
        "user_id": pa.array(data.test_user_ids[:count], pa.string()),
        **feature_columns(data.schema.user, data.test_rows[:count]),
        "held_back_item_id": pa.array([data.items.ids[i] for i in targets], pa.string()),
    }
    pyarrow.parquet.write_table(pa.table(columns), path)


def feature_columns(schema: TowerSchema, rows: Sequence[Row]) -> dict[str, pa.Array]:
    """Rows as the columns of a feature table (features/table.py), by feature name."""
    numeric = {f.name for f in schema.numeric}
    columns: dict[str, pa.Array] = {}
    for feature in schema.features:
        name = feature.name
        if feature.kind == "numeric":
            columns[name] = pa.array([row.features.get(name) for row in rows], pa.float64())
        elif feature.wildcard:
            stem = name[:-1]
            bags = [
                [(k[len(stem) :], v) for k, v in row.features.items() if k.startswith(stem) and k not in numeric]
                for row in rows
            ]
            columns[name] = pa.array([bag or None for bag in bags], pa.map_(pa.string(), pa.float64()))
        else:
            found = [row.string_features.get(name) for row in rows]
            if feature.kind == "categorical":
                columns[name] = pa.array([None if s is None else s.values[0] for s in found], pa.string())
            else:
                columns[name] = pa.array([None if s is None else list(s.values) for s in found], pa.list_(pa.string()))
    return columns


def _write_model(
    config: TrainConfig,
    data: _Data,
    calibration: Calibration,
    metrics: Metrics,
    epochs: tuple[int, int],
    path: Path,
) -> None:
    body: dict[str, Any] = {
        "format": MODEL_FORMAT,
        "dimension": config.model.dimension,
        "similarity": config.model.similarity,
        "calibration": calibration.to_json(),
        **data.mapping.to_json(),
        "training": {
            "data": {
                "interactions": config.data.interactions.name,
                "items": config.data.items.name,
                "users": None if config.data.users is None else config.data.users.name,
                "interactions_count": len(data.interactions.items),
                "items_count": len(data.items.ids),
                "users_count": len(data.interactions.offsets) - 1,
                "examples_count": len(data.train.which),
            },
            "model": asdict(config.model),
            "training": asdict(config.training),
            "epochs": epochs[0],
            "best_epoch": epochs[1],
            "metrics": asdict(metrics),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "onnx": onnx.__version__,
                "numpy": np.__version__,
            },
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    }
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _parameters(tower: Tower) -> int:
    return sum(parameter.numel() for parameter in tower.parameters())

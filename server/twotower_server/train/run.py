"""`twotower train` from beginning to end: configuration → data → towers → model folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from twotower_server import durable
from twotower_server.errors import ReleaseRefused
from twotower_server.release.calibration import Calibration
from twotower_server.release.format import ITEM_TOWER, SCHEMA, USER_TOWER
from twotower_server.release.model import MODEL, USERS
from twotower_server.train.calibrate import fit_calibration
from twotower_server.train.config import TrainConfig
from twotower_server.train.content import ContentEmbedding, content_ids
from twotower_server.train.errors import TrainingFailed
from twotower_server.train.evaluate import popularity_ranks
from twotower_server.train.export import check_parity, export_tower
from twotower_server.train.folder import Metrics, write_model, write_users
from twotower_server.train.loop import Report, embed, ranks, train_towers
from twotower_server.train.model import Tower, make_tables
from twotower_server.train.prepare import Prepared, prepare

RECALL_KS = (10, 100)
_NEGATIVES_PER_POSITIVE = 50


def train(config: TrainConfig, out: Path, report: Report = print) -> Metrics:
    """Trains a model and writes its folder, whole or not at all. report: hears a line a step.

    Raises ConfigError and ReleaseRefused for what is wrong with configuration, data and `out`, TrainingFailed when
    no model worth writing comes of it.
    """
    try:
        # Begun before anything is learned: a folder that cannot be written should not cost a training.
        with durable.new_folder(out) as folder:
            metrics = _train(config, folder, report)
    except durable.BeingWritten:
        raise ReleaseRefused(f"another process is writing {out}; wait for it, or name another folder") from None
    except FileExistsError:
        raise ReleaseRefused(f"{out} exists already; name another folder with --out, or remove it first") from None
    except OSError as error:
        raise TrainingFailed(f"{out} cannot be written: {error.strerror or error}; nothing of it was kept") from error
    report(f"wrote {out}")
    return metrics


def _train(config: TrainConfig, folder: Path, report: Report) -> Metrics:
    torch.set_num_threads(config.training.threads)
    torch.manual_seed(config.training.seed)
    torch.use_deterministic_algorithms(True)
    data = prepare(config, report)
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
    write_users(data, folder / USERS)
    write_model(config, data, calibration, metrics, (trained.epochs, trained.best_epoch), folder / MODEL)
    return metrics


def _towers(config: TrainConfig, data: Prepared) -> tuple[Tower, Tower]:
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


def _calibrate(config: TrainConfig, data: Prepared, user_tower: Tower, item_tower: Tower) -> Calibration:
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


def _parameters(tower: Tower) -> int:
    return sum(parameter.numel() for parameter in tower.parameters())

"""The training loop: batches, early stopping on the recall of held-back users, the best weights kept."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from twotower_server.train.config import ModelConfig, TrainingConfig
from twotower_server.train.data import Indices, Interactions
from twotower_server.train.errors import TrainingFailed
from twotower_server.train.evaluate import Ranks, held_back_ranks
from twotower_server.train.inputs import Inputs
from twotower_server.train.loss import AccidentalHits, in_batch_softmax, log_expected_draws
from twotower_server.train.model import Tower, similarity_matrix

Report = Callable[[str], None]


class EarlyStopping:
    """Remembers the best epoch; says when `patience` epochs have passed without a better one."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self.best = -np.inf
        self.best_epoch = 0
        self._epoch = 0

    def better(self, value: float) -> bool:
        """Takes the value of the next epoch; True when it is the best so far."""
        self._epoch += 1
        if not value > self.best:
            return False
        self.best, self.best_epoch = value, self._epoch
        return True

    @property
    def done(self) -> bool:
        return self._epoch - self.best_epoch >= self._patience


@dataclass(frozen=True, slots=True)
class Examples:
    """Interactions with the encoded features of their users: row i belongs to interaction `which[i]`."""

    which: Indices
    inputs: Inputs


@dataclass(frozen=True, slots=True)
class Trained:
    """What the loop tells. epochs: those run. recall: on the validation users, of the weights kept."""

    epochs: int
    best_epoch: int
    recall: float


def train_towers(
    user_tower: Tower,
    item_tower: Tower,
    interactions: Interactions,
    train: Examples,
    validation: Examples,
    items: Inputs,
    config: tuple[ModelConfig, TrainingConfig],
    report: Report,
) -> Trained:
    """Trains both towers in place and leaves them with the best weights, in evaluation mode.

    Raises TrainingFailed when the loss is no longer finite.
    """
    model, training = config
    counts = np.bincount(interactions.items[train.which], minlength=len(items))
    log_draws = torch.from_numpy(log_expected_draws(counts, training.batch_size, training.uniform_negatives))
    in_training = np.sort(train.which)
    hits = AccidentalHits(
        interactions.users[in_training],
        interactions.items[in_training],
        len(interactions.offsets) - 1,
        len(items),
    )
    random = np.random.default_rng(training.seed)
    drops = torch.Generator().manual_seed(training.seed)
    towers = torch.nn.ModuleList([user_tower, item_tower])
    optimizer = torch.optim.AdamW(towers.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    stopping = EarlyStopping(training.patience)
    best = copy.deepcopy(towers.state_dict())
    epoch = 0
    while epoch < training.epochs and not stopping.done:
        epoch += 1
        started = time.monotonic()
        towers.train()
        losses = []
        for rows in _batches(random.permutation(len(train.which)), training.batch_size):
            which = train.which[rows]
            positives = interactions.items[which]
            drawn = random.integers(len(items), size=training.uniform_negatives)
            candidates = np.concatenate([positives, drawn])
            # Each item goes through its tower once, however often it stands among the candidates.
            unique, inverse = np.unique(candidates, return_inverse=True)
            user_batch, item_batch = train.inputs.take(rows), items.take(unique)
            if training.feature_dropout:
                user_batch = train.inputs.drop_features(user_batch, training.feature_dropout, drops)
                item_batch = items.drop_features(item_batch, training.feature_dropout, drops)
            vectors = item_tower(item_batch)[torch.from_numpy(inverse)]
            loss = in_batch_softmax(
                similarity_matrix(user_tower(user_batch), vectors),
                log_draws[torch.from_numpy(candidates)],
                torch.from_numpy(hits.find(interactions.users[which], candidates)),
                temperature=model.temperature,
                correction=training.popularity_correction,
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if not np.isfinite(losses).all():
            raise TrainingFailed(f"the loss is not finite in epoch {epoch}; lower training.learning_rate")
        recall = ranks(user_tower, item_tower, interactions, validation, items).recall(training.stopping_k)
        better = stopping.better(recall)
        if better:
            best = copy.deepcopy(towers.state_dict())
        report(
            f"epoch {epoch:>3}/{training.epochs}  loss {np.mean(losses):.4f}  "
            f"validation recall@{training.stopping_k} {recall:.4f}{' *' if better else '  '}  "
            f"{time.monotonic() - started:.1f} s"
        )
    towers.load_state_dict(best)
    towers.eval()
    return Trained(epoch, stopping.best_epoch, float(stopping.best))


def embed(tower: Tower, inputs: Inputs) -> NDArray[np.float32]:
    """Vectors of all rows, as serving computes them: float32 [n, dimension]."""
    tower.eval()
    with torch.no_grad():
        return np.concatenate([tower(chunk).numpy() for chunk in inputs.chunks()])


def ranks(user_tower: Tower, item_tower: Tower, interactions: Interactions, examples: Examples, items: Inputs) -> Ranks:
    """How well both towers find the items of held-back users."""
    users, catalog = embed(user_tower, examples.inputs), embed(item_tower, items)
    return held_back_ranks(interactions, examples.which, lambda part: np.asarray(users[part] @ catalog.T))


def _batches(rows: Indices, size: int) -> list[Indices]:
    """Whole batches, and the rest where it is large enough to hold negatives."""
    return [rows[start : start + size] for start in range(0, len(rows), size) if start + 1 < len(rows)]

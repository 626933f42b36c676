"""In-batch softmax with correction for popularity.

Each user of a batch is to find the own item among the items of all of them, and some drawn evenly from the
catalog (mixed negative sampling, Yang et al. 2020: without those, items that nobody chose are never told
apart). A popular item stands in the batch often, and would be pushed away for it; subtracting the logarithm
of how often it is drawn undoes that (Yi et al. 2019, "Sampling-bias-corrected neural modeling for large
corpus item recommendations").
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twotower_server.train.data import Indices


def log_expected_draws(item_counts: NDArray[np.int64], batch_size: int, uniform_negatives: int) -> NDArray[np.float32]:
    """Logarithm of how often each item is expected among the candidates of one batch: float32 [items].

    item_counts: int64 [items], in the training interactions. An item that cannot be drawn has 0.
    """
    drawn = batch_size * item_counts / max(int(item_counts.sum()), 1) + uniform_negatives / len(item_counts)
    return np.asarray(np.log(np.where(drawn > 0, drawn, 1.0)), np.float32)


def in_batch_softmax(
    similarities: Tensor, log_draws: Tensor, accidental: Tensor, *, temperature: float, correction: float
) -> Tensor:
    """Mean cross-entropy of each row's own candidate.

    similarities: float32 [n, m], m >= n; the candidate of row i is column i. log_draws: float32 [m].
    accidental: bool [n, m], candidates that are no negatives of a row; its own column is ignored.
    """
    rows = torch.arange(similarities.shape[0])
    logits = similarities / temperature - correction * log_draws
    accidental = accidental.clone()
    accidental[rows, rows] = False
    return torch.nn.functional.cross_entropy(logits.masked_fill(accidental, -1e9), rows)


class AccidentalHits:
    """Finds candidates that a user did choose, now or at another time, and that are therefore no negatives of
    hers.
    """

    def __init__(self, users: Indices, items: Indices, n_users: int, n_items: int) -> None:
        """users, items: int64 [n], the interactions to look at, users ascending."""
        self._items = items
        self._offsets = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=n_users))])
        self._column = np.full(n_items, -1, np.int64)

    def find(self, users: Indices, candidates: Indices) -> NDArray[np.bool_]:
        """users: int64 [n], candidates: int64 [m] → bool [n, m]."""
        unique, inverse = np.unique(candidates, return_inverse=True)
        self._column[unique] = np.arange(len(unique))
        starts, ends = self._offsets[users], self._offsets[users + 1]
        counts = ends - starts
        rows = np.repeat(np.arange(len(users)), counts)
        # Places of each user's interactions, one user after the other.
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        columns = self._column[self._items[np.repeat(starts, counts) + within]]
        self._column[unique] = -1
        hits = np.zeros((len(users), len(unique)), np.bool_)
        hits[rows[columns >= 0], columns[columns >= 0]] = True
        return np.asarray(hits[:, inverse], np.bool_)

"""Recall on held-back users: is the item they took last among the first K that the model would have shown?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twotower_server.train.data import Indices, Interactions

_CHUNK_ROWS = 256


@dataclass(frozen=True, slots=True)
class Ranks:
    """The place of each held-back item among all items but those the user had already; 0 is the best.

    ranks: int64 [n]; of items that are as similar, the earlier one in the table counts as better.
    """

    ranks: Indices

    def recall(self, k: int) -> float:
        return float(np.mean(self.ranks < k))


def held_back_ranks(
    interactions: Interactions, which: Indices, similarities: Callable[[slice], NDArray[np.float32]]
) -> Ranks:
    """Ranks the item of each interaction in `which`.

    similarities: gives float32 [rows, items] for a slice of `which`; its array is overwritten.
    """
    ranks = []
    for start in range(0, len(which), _CHUNK_ROWS):
        part = slice(start, min(start + _CHUNK_ROWS, len(which)))
        table = similarities(part)
        for row, interaction in zip(table, which[part].tolist(), strict=True):
            row[interactions.before(interaction)] = -np.inf
            target = int(interactions.items[interaction])
            own = row[target]
            ranks.append(int((row > own).sum() + (row[:target] == own).sum()))
    return Ranks(np.array(ranks, np.int64))


def popularity_ranks(interactions: Interactions, which: Indices, item_counts: NDArray[np.int64]) -> Ranks:
    """The same for showing everybody the items that were taken most in training: what a model has to beat."""
    popularity = item_counts.astype(np.float32)

    def similarities(part: slice) -> NDArray[np.float32]:
        return np.tile(popularity, (part.stop - part.start, 1))

    return held_back_ranks(interactions, which, similarities)

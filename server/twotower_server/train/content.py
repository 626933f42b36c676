"""Embeddings of item ids that also hold what is known of the items.

A history is a list of ids, and most items are in few of them. Here an id's embedding is its own part plus a
projection of the item's categories, so that a shelf of books nobody else has still says who wrote them. Which
item has which categories is known at training, so the sum is worked out once (`baked`) and the exported graph
holds one table.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twotower_server.features.encode import Encoder
from twotower_server.features.row import Row
from twotower_server.features.schema import FIRST_ID, Feature, IdTable, TowerSchema


class ContentEmbedding(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """An embedding table of item ids, each row its own vector plus what the item's categories give.

    own:     int64 ids → float32 [..., width]; begins at zero, so an item never seen is its categories alone.
    content: int64 [rows, columns] for each of the item's features, 0 = padding, as the item tower reads them.
    """

    def __init__(self, rows: int, width: int, content: Sequence[tuple[NDArray[np.int64], nn.Embedding]]) -> None:
        super().__init__()
        self.embedding_dim = width
        self.own = nn.Embedding(rows, width, padding_idx=0)
        nn.init.zeros_(self.own.weight)
        self.embeddings = nn.ModuleList([embedding for _, embedding in content])
        self.projections = nn.ModuleList([nn.Linear(e.embedding_dim, width, bias=False) for _, e in content])
        for i, (ids, _) in enumerate(content):
            self.register_buffer(f"content_{i}", torch.from_numpy(ids))

    def forward(self, ids: Tensor) -> Tensor:
        unique, inverse = torch.unique(ids, return_inverse=True)
        return self._rows(unique)[inverse]

    def baked(self) -> nn.Embedding:
        """A plain table of the same vectors."""
        with torch.no_grad():
            return nn.Embedding.from_pretrained(self._rows(torch.arange(self.own.num_embeddings)))

    def _rows(self, ids: Tensor) -> Tensor:
        total = self.own(ids)
        for i, (embedding, projection) in enumerate(zip(self.embeddings, self.projections, strict=True)):
            content = getattr(self, f"content_{i}")[ids]
            present = (content != 0).to(torch.float32).unsqueeze(2)
            pooled = (embedding(content) * present).sum(1) / present.sum(1).clamp(min=1.0)
            total = total + projection(pooled)
        return total


def content_ids(
    ids_feature: Feature, schema: TowerSchema, feature: Feature, items: Sequence[tuple[str, Row]]
) -> NDArray[np.int64]:
    """Ids of one item feature for every row of a table of item ids: int64 [rows, columns], 0 where there is
    none.

    ids_feature: the feature whose values are item ids. schema: of the item tower. items: ids and raw
    features.
    """
    encoded = Encoder(TowerSchema("item", schema.transforms, (feature,))).encode([row for _, row in items]).ids
    assert encoded is not None
    table = IdTable(ids_feature)
    rows = np.zeros((ids_feature.table_rows, encoded.shape[1]), np.int64)
    for (item_id, _), ids in zip(items, encoded, strict=True):
        row = table.id(item_id)
        if row >= FIRST_ID:  # not in the vocabulary: it shares the row of all that are unknown
            rows[row] = ids
    return rows

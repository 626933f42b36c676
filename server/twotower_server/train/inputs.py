"""Encoded rows as tensors: all of a tower's inputs, kept in memory, from which batches are taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twotower_server.errors import Refused
from twotower_server.features.encode import Encoder
from twotower_server.features.row import Row
from twotower_server.features.schema import TowerSchema
from twotower_server.train.data import Indices

_CHUNK_ROWS = 8192
Batch = dict[str, Tensor]


class Inputs:
    """n encoded rows of one tower.

    refused: by row, why one could not be encoded; its inputs are as if every feature were missing.
    """

    def __init__(self, schema: TowerSchema, rows: Sequence[Row]) -> None:
        encoder = Encoder(schema)
        self._schema = schema
        arrays: dict[str, list[NDArray[np.float32] | NDArray[np.int64]]] = {}
        self.refused: dict[int, Refused] = {}
        for start in range(0, len(rows), _CHUNK_ROWS):
            encoded = encoder.encode(rows[start : start + _CHUNK_ROWS])
            self.refused |= {start + i: error for i, error in encoded.refused.items()}
            for name, array in encoded.inputs().items():
                arrays.setdefault(name, []).append(array)
        self._tensors: Batch = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in arrays.items()}
        missing = encoder.encode([Row()]).inputs()
        self._missing: Batch = {name: torch.from_numpy(array) for name, array in missing.items()}
        self._rows = len(rows)

    def __len__(self) -> int:
        return self._rows

    def numeric(self) -> NDArray[np.float32] | None:
        """Raw numbers, float32 [n, N]; None when there is no numeric feature."""
        tensor = self._tensors.get("numeric")
        return None if tensor is None else tensor.numpy()

    def take(self, rows: Indices) -> Batch:
        places = torch.from_numpy(rows)
        return {name: tensor[places] for name, tensor in self._tensors.items()}

    def chunks(self) -> Iterator[Batch]:
        for start in range(0, self._rows, _CHUNK_ROWS):
            yield {name: tensor[start : start + _CHUNK_ROWS] for name, tensor in self._tensors.items()}

    def drop_features(self, batch: Batch, share: float, random: torch.Generator) -> Batch:
        """The batch with each feature of each row made missing by that chance."""
        n = next(iter(batch.values())).shape[0]

        def dropped(width: int) -> Tensor:
            return (torch.rand((n, 1), generator=random) < share).expand(n, width)

        masks: dict[str, list[Tensor]] = {
            "numeric": [dropped(1) for _ in self._schema.numeric],
            "ids": [],
            "weights": [],
        }
        for feature in self._schema.categorical:
            mask = dropped(feature.width)
            masks["ids"].append(mask)
            if feature.wildcard:
                masks["weights"].append(mask)
        return {
            name: torch.where(torch.cat(masks[name], 1), self._missing[name], tensor) for name, tensor in batch.items()
        }

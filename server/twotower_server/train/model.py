"""The towers in PyTorch. Their forward pass is what is exported, transforms and all."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twotower_server.features.schema import Feature, TowerSchema
from twotower_server.features.transform import NumericTransform
from twotower_server.train.config import ModelConfig
from twotower_server.train.content import ContentEmbedding

# Keeps the division by a length finite for a zero vector.
_EPSILON = 1e-12


class NumericInput(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Raw numbers, NaN = missing → the inputs of the first layer.

    float32 [n, N] → float32 [n, N + markers]: missing → clip → transform, as `NumericTransform` does it in
    numpy, then scaled by constants to mean 0 and deviation 1 on training data, so that no feature is louder
    by its unit.
    """

    def __init__(self, schema: TowerSchema, training_rows: NDArray[np.float32]) -> None:
        """training_rows: float32 [rows, N], raw."""
        super().__init__()
        features = schema.numeric
        marked = [i for i, f in enumerate(features) if f.missing.rule == "marker"]
        logarithmic = [f.transform.type == "log1p" for f in features]
        self.any_log = any(logarithmic)
        self.any_marked = bool(marked)
        self.any_clip = any(f.clip != (None, None) for f in features)
        fill = [0.0 if f.missing.rule == "marker" else float(f.missing.value) for f in features]  # type: ignore[arg-type]
        largest = float(np.finfo(np.float32).max)
        self._constant("fill", fill)
        self._constant("low", [-largest if f.clip[0] is None else f.clip[0] for f in features])
        self._constant("high", [largest if f.clip[1] is None else f.clip[1] for f in features])
        self._constant("shift", [f.transform.shift for f in features])
        self._constant("divisor", [f.transform.divisor for f in features])
        self.register_buffer("log", torch.tensor(logarithmic))
        self.register_buffer("is_marked", torch.tensor([f.missing.rule == "marker" for f in features]))
        self.register_buffer("marked", torch.tensor(marked, dtype=torch.int64))
        transformed = NumericTransform(schema)(training_rows.astype(np.float64))
        deviation = transformed.std(0)
        self._constant("center", transformed.mean(0).tolist())
        self._constant("spread", np.where(deviation > 1e-6, deviation, 1.0).tolist())

    def _constant(self, name: str, values: list[float]) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def forward(self, raw: Tensor) -> Tensor:
        missing = torch.isnan(raw)
        values = torch.where(missing, self.fill, raw)
        if self.any_clip:
            values = torch.minimum(torch.maximum(values, self.low), self.high)
        if self.any_log:
            values = torch.where(self.log, torch.log(1.0 + torch.relu(values)), values)
        values = (values - self.shift) / self.divisor
        if self.any_marked:
            values = torch.where(missing & self.is_marked, torch.zeros_like(values), values)
            markers = torch.index_select(missing, 1, self.marked).to(torch.float32)
            values = torch.cat([values, markers], 1)
        return (values - self.center) / self.spread


class Tower(nn.Module):  # type: ignore[misc]
    """One tower. Inputs as `Encoded.inputs()` has them; output float32 [n, dimension], unit length when
    cosine.
    """

    def __init__(
        self,
        schema: TowerSchema,
        tables: Mapping[str, nn.Module],
        numeric: NDArray[np.float32] | None,
        config: ModelConfig,
    ) -> None:
        """tables: the embedding of each feature that has ids, by the feature's name; towers may share one.

        numeric: raw training rows, float32 [rows, N]; None when the schema has no numeric feature.
        """
        super().__init__()
        self.schema = schema
        self.cosine = config.similarity == "cosine"
        # The keys of a ModuleDict may not hold a dot, which names may.
        self.embeddings = nn.ModuleList([tables[f.name] for f in schema.categorical])
        self.numeric = None if numeric is None else NumericInput(schema, numeric)
        width = sum(embedding.embedding_dim for embedding in self.embeddings)
        width += 0 if self.numeric is None else len(self.numeric.center)
        layers: list[nn.Module] = []
        for hidden in config.hidden:
            layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(config.dropout)]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, config.dimension))

    def bake(self) -> None:
        """Replaces embeddings that are sums by plain ones of the same vectors; training ends with it."""
        for i, embedding in enumerate(self.embeddings):
            if isinstance(embedding, ContentEmbedding):
                self.embeddings[i] = embedding.baked()

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        parts = [] if self.numeric is None else [self.numeric(inputs["numeric"])]
        column = weight_column = 0
        for feature, embedding in zip(self.schema.categorical, self.embeddings, strict=True):
            ids = inputs["ids"][:, column : column + feature.width]
            column += feature.width
            weights = None
            if feature.wildcard:
                weights = inputs["weights"][:, weight_column : weight_column + feature.width]
                weight_column += feature.width
            parts.append(_pool(feature, embedding(ids), ids, weights))
        vectors = self.layers(torch.cat(parts, 1))
        if self.cosine:
            vectors = vectors / torch.sqrt((vectors * vectors).sum(1, keepdim=True) + _EPSILON)
        return vectors


def make_tables(
    schemas: tuple[TowerSchema, TowerSchema], table_of: Mapping[str, str], width: Mapping[str, int]
) -> dict[str, nn.Module]:
    """An embedding a feature with ids, by its name; features of one table get the same. Row 0, padding, is
    zero.

    table_of: the table of each feature. width: columns of each feature's embedding.
    """
    tables: dict[str, nn.Module] = {}
    for schema in schemas:
        for feature in schema.categorical:
            table = table_of[feature.name]
            if table not in tables:
                embedding = nn.Embedding(feature.table_rows, width[feature.name], padding_idx=0)
                nn.init.normal_(embedding.weight, std=1.0 / math.sqrt(width[feature.name]))
                with torch.no_grad():
                    embedding.weight[0].zero_()
                tables[table] = embedding
    return {f.name: tables[table_of[f.name]] for schema in schemas for f in schema.categorical}


def similarity_matrix(users: Tensor, items: Tensor) -> Tensor:
    """float32 [n, D], [m, D] → [n, m]. Cosine towers give unit vectors: both similarities are a product."""
    return users @ items.T


def _pool(feature: Feature, vectors: Tensor, ids: Tensor, weights: Tensor | None) -> Tensor:
    """Embeddings of one feature, [n, width, E] → [n, E]: the mean over what is not padding, or the weighted
    mean.
    """
    if feature.kind == "categorical":
        return vectors[:, 0]
    if weights is not None:
        # Divided by the length of the weights, not their sum: five strong tastes say more than one weak one.
        length = torch.sqrt((weights * weights).sum(1, keepdim=True) + 1.0)
        return (vectors * weights.unsqueeze(2)).sum(1) / length
    present = (ids != 0).to(torch.float32)
    return (vectors * present.unsqueeze(2)).sum(1) / present.sum(1, keepdim=True).clamp(min=1.0)

"""What goes into the engine and what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from twotower_server.errors import Refused
from twotower_server.features.encode import FeatureUse
from twotower_server.features.row import FeatureRow
from twotower_server.items.catalog import AttributeValue
from twotower_server.items.filter import FilterLike


class Source(IntEnum):
    """Where a vector came from. Numbers equal `twotower.v1.Source`."""

    UNSPECIFIED = 0  # the caller sent it
    COMPUTED = 1
    CACHE = 2
    STORED = 3


class CacheMode(IntEnum):
    """What a call does with the cache of user vectors; numbers equal `twotower.v1.CacheMode`, others count as 0."""

    UNSPECIFIED = 0  # as the policy says
    BYPASS = 1
    REFRESH = 2  # not read, but written


class UserRow(FeatureRow, Protocol):
    """A user: raw features, an id, and what routes and caches it. `twotower.v1.User` is one."""

    @property
    def user_id(self) -> str: ...
    @property
    def feature_version(self) -> str: ...
    @property
    def routing_key(self) -> str: ...


class ItemRow(FeatureRow, Protocol):
    """An item: raw features and an id. `twotower.v1.Item` is one."""

    @property
    def item_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class GivenEmbedding:
    """A vector that the caller sends back, with the release that it came from. float32 [dimension]."""

    values: NDArray[np.float32]
    release: str


@dataclass(frozen=True, slots=True)
class Candidates:
    """Items to score: exactly one of the three is set. keys: uint64 [n]."""

    ids: Sequence[str] | None = None
    keys: NDArray[np.uint64] | None = None
    items: Sequence[ItemRow] | None = None

    def __len__(self) -> int:
        chosen = self.ids if self.ids is not None else self.keys if self.keys is not None else self.items
        return 0 if chosen is None else len(chosen)

    @property
    def field(self) -> str:
        """The field of the request that holds them."""
        return "item_ids" if self.ids is not None else "item_keys" if self.keys is not None else "items"


@dataclass(frozen=True, slots=True)
class Selection:
    """What a search may return, and what of it. exclude_keys: uint64 [n]."""

    k: int
    filter: FilterLike | None
    exclude_ids: Sequence[str]
    exclude_keys: NDArray[np.uint64]
    embeddings: bool
    attributes: Sequence[str]


@dataclass(frozen=True, slots=True)
class UserVector:
    """One user's vector: float32 [dimension].

    use: None when the caller sent the vector, or the cache had it. age_ms: of one from the cache.
    """

    values: NDArray[np.float32]
    release: str
    source: Source = Source.COMPUTED
    use: FeatureUse | None = None
    age_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ItemVector:
    values: NDArray[np.float32]
    release: str
    source: Source


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors of a batch: float32 [n, dimension], rows of failed entries zero.

    ages_ms: of those from the cache, by index.
    """

    values: NDArray[np.float32]
    release: str
    refused: Mapping[int, Refused] = field(default_factory=dict)
    missing: Sequence[int] = ()
    ages_ms: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Arm:
    """The part of a batch that one release serves. places: of its entries in the batch, in the order of `vectors`."""

    places: Sequence[int]
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of one user's candidates: float32 [n] each, 0 where missing or failed."""

    scores: NDArray[np.float32]
    similarities: NDArray[np.float32]
    missing: Sequence[int]
    user: UserVector
    refused: Mapping[int, Refused] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """Items of a search, similarity falling, ties by item id. embeddings: float32 [n, dimension] when asked for."""

    item_ids: Sequence[str]
    scores: NDArray[np.float32]
    similarities: NDArray[np.float32]
    release: str
    embeddings: NDArray[np.float32] | None = None
    attributes: Sequence[Mapping[str, AttributeValue]] | None = None
    user: UserVector | None = None

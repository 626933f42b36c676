"""What the calls return: small frozen records around numpy arrays, which are read-only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import grpc
import numpy as np
import numpy.typing as npt

from twotower._errors import ErrorReason, TwoTowerError, error_of

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.uint32]
AttributeValue = str | float | bool | tuple[str, ...]


class Source(IntEnum):
    """Where a vector came from. Numbers equal `v1.Source`."""

    UNSPECIFIED = 0
    COMPUTED = 1
    CACHE = 2
    STORED = 3

    @classmethod
    def _missing_(cls, value: object) -> Source:
        return cls.UNSPECIFIED


class CacheMode(IntEnum):
    """How a call uses the user cache. Numbers equal `v1.CacheMode`."""

    DEFAULT = 0
    """The release's policy."""
    BYPASS = 1
    """Compute; neither read nor write."""
    REFRESH = 2
    """Compute and write."""


class Similarity(IntEnum):
    """How a release compares vectors. Numbers equal `v1.Similarity`."""

    UNSPECIFIED = 0
    DOT = 1
    COSINE = 2

    @classmethod
    def _missing_(cls, value: object) -> Similarity:
        return cls.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class FeatureUse:
    """How many of the sent features the release used, did not get, and does not know."""

    used: int
    missing: int
    unknown: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One entry of a batch that failed alone.

    index: its position in the call. message: one sentence, without the leading reason. field: such as
    `users[3].features[user_age]`.
    """

    index: int
    code: grpc.StatusCode
    reason: ErrorReason
    message: str
    field: str

    def error(self) -> TwoTowerError:
        """The same as the error that a call of its own would raise."""
        return error_of(f"{self.field}: {self.message}" if self.field else self.message, self.reason, self.code)


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """A vector and the release whose towers made it. Given to a call, it routes the call to that release.

    values: float32 [dimension]; norm 1 when the release is a cosine one.
    """

    values: FloatArray
    release: str


@dataclass(frozen=True, slots=True, eq=False)
class UserEmbedding(Embedding):
    """age_ms: milliseconds since a cached vector was computed; None for one computed now.
    feature_use: None in batches, which do not count; so for calls that an `AsyncClient` sent together."""

    source: Source
    age_ms: int | None
    feature_use: FeatureUse | None


@dataclass(frozen=True, slots=True, eq=False)
class ItemEmbedding(Embedding):
    """source: STORED for a candidate of the catalog, COMPUTED for features sent along."""

    source: Source


class _Batch:
    """What both kinds of batches share."""

    __slots__ = ()
    rows: FloatArray | tuple[FloatArray, ...]
    problems: tuple[Problem, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def matrix(self) -> FloatArray:
        """float32 [entries, dimension]; rows that failed are zero.

        Raises ValueError when a traffic split mixes releases of different dimensions: use `rows`, or pin.
        """
        if isinstance(self.rows, np.ndarray):
            return self.rows
        raise ValueError("the releases of this batch differ in dimension: use rows, or pin one release")

    def raise_for_problems(self) -> None:
        """Raise the first problem's error, when there is one."""
        _raise_first(self.problems)


@dataclass(frozen=True, slots=True, eq=False)
class UserEmbeddings(_Batch):
    """The vectors of a batch of users, aligned with it.

    rows:            float32 [users, dimension]; a tuple of vectors when a traffic split mixes dimensions.
    releases:        the distinct releases; one unless traffic is split.
    release_indices: uint32 [users], positions in `releases`.
    sources:         one for each user.
    ages_ms:         uint64 [users], milliseconds; meaningful where the source is CACHE.
    problems:        the entries that failed; their rows are zero, or empty.
    """

    rows: FloatArray | tuple[FloatArray, ...]
    releases: tuple[str, ...]
    release_indices: IndexArray
    sources: tuple[Source, ...]
    ages_ms: npt.NDArray[np.uint64]
    problems: tuple[Problem, ...]

    def __getitem__(self, index: int) -> UserEmbedding | None:
        """The embedding of one user, None where it failed."""
        position = range(len(self))[index]
        if any(problem.index == position for problem in self.problems):
            return None
        source = self.sources[position]
        return UserEmbedding(
            values=self.rows[position],
            release=self.releases[self.release_indices[position]],
            source=source,
            age_ms=int(self.ages_ms[position]) if source is Source.CACHE else None,
            feature_use=None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class ItemEmbeddings(_Batch):
    """The vectors of a batch of items, aligned with it; all of one release.

    rows:            float32 [items, dimension].
    missing_indices: uint32, ascending: the candidates that the catalog lacks; their rows are zero.
    missing_ids:     the same by id, when the call named ids; keys and sent items have none.
    problems:        the entries that failed; their rows are zero.
    """

    rows: FloatArray | tuple[FloatArray, ...]
    release: str
    missing_indices: IndexArray
    missing_ids: tuple[str, ...]
    problems: tuple[Problem, ...]

    def __getitem__(self, index: int) -> Embedding | None:
        """The embedding of one item, None where it is missing or failed."""
        position = range(len(self))[index]
        if position in self.missing_indices or any(problem.index == position for problem in self.problems):
            return None
        return Embedding(self.rows[position], self.release)


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The scores of the candidates, aligned with them.

    scores:          float32 [candidates] in (0, 1]; exactly 0 = missing or failed.
    similarities:    float32 [candidates]; order by these, because scores saturate at 1. 0 and meaningless
                     where
                     the score is 0.
    item_ids:        the ids of the call; those of the sent items; empty when it named keys.
    missing_indices: uint32, ascending: the candidates that the catalog lacks.
    missing_ids:     the same by id, when the call named ids.
    source, age_ms:  where the user's vector came from, and its age in milliseconds when cached.
    problems:        sent items that failed.
    """

    scores: FloatArray
    similarities: FloatArray
    item_ids: tuple[str, ...]
    missing_indices: IndexArray
    missing_ids: tuple[str, ...]
    release: str
    source: Source
    age_ms: int | None
    feature_use: FeatureUse
    problems: tuple[Problem, ...]

    def __len__(self) -> int:
        return len(self.scores)

    def order(self) -> npt.NDArray[np.intp]:
        """Positions of the candidates, best first, as the server orders: similarity falling, ties by item id,
        missing and failed ones last."""
        ids: Sequence[str | int] = self.item_ids or range(len(self))
        absent, distances = (self.scores == 0).tolist(), (-self.similarities).tolist()
        positions = sorted(range(len(self)), key=lambda i: (absent[i], distances[i], ids[i]))
        return np.array(positions, dtype=np.intp)

    def raise_for_problems(self) -> None:
        """Raise the first problem's error, when there is one."""
        _raise_first(self.problems)


@dataclass(frozen=True, slots=True)
class BatchScores:
    """One `Scores` for each request, None where it failed; its problem says why."""

    responses: tuple[Scores | None, ...]
    problems: tuple[Problem, ...]

    def __len__(self) -> int:
        return len(self.responses)

    def __getitem__(self, index: int) -> Scores | None:
        return self.responses[index]

    def raise_for_problems(self) -> None:
        """Raise the first problem's error, when there is one."""
        _raise_first(self.problems)


@dataclass(frozen=True, slots=True, eq=False)
class ScoredItem:
    """One result. embedding and attributes: those that were asked for."""

    item_id: str
    score: float
    similarity: float
    embedding: Embedding | None
    attributes: Mapping[str, AttributeValue]


class _Ranking:
    """What both kinds of results share: columns over the items."""

    __slots__ = ()
    items: tuple[ScoredItem, ...]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def item_ids(self) -> tuple[str, ...]:
        """The ids, best first."""
        return tuple(item.item_id for item in self.items)

    @property
    def scores(self) -> FloatArray:
        """float32 [items] in (0, 1]."""
        return np.array([item.score for item in self.items], dtype=np.float32)

    @property
    def similarities(self) -> FloatArray:
        """float32 [items], falling."""
        return np.array([item.similarity for item in self.items], dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Recommendations(_Ranking):
    """The best items for a user: similarity falling, ties by item id.

    source, age_ms: where the user's vector came from, and its age in milliseconds when cached.
    user_embedding: when embeddings were asked for.
    """

    items: tuple[ScoredItem, ...]
    release: str
    source: Source
    age_ms: int | None
    user_embedding: Embedding | None
    feature_use: FeatureUse


@dataclass(frozen=True, slots=True, eq=False)
class SearchResults(_Ranking):
    """The items nearest to an item or a vector: similarity falling, ties by item id."""

    items: tuple[ScoredItem, ...]
    release: str


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One feature of a tower. wildcard: the name ends with a star and stands for many, such as
    `user_interest_*`."""

    name: str
    kind: str
    wildcard: bool


@dataclass(frozen=True, slots=True)
class TowerSchema:
    """What a tower reads. dense_order: the numeric features in the order of `dense_features`."""

    fingerprint: int
    features: tuple[FeatureSpec, ...]
    dense_order: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReleaseInfo:
    """One loaded release. score = sigmoid(scale · similarity + bias).

    items: how many the catalog has. index_recall: measured when the release was built. traffic_share: 0 to 1.
    """

    release: str
    dimension: int
    similarity: Similarity
    scale: float
    bias: float
    user_schema: TowerSchema
    item_schema: TowerSchema
    items: int
    index_kind: str
    index_recall: float
    traffic_share: float
    active: bool


class ReleaseState(IntEnum):
    """Where a release is in its life on a server. Numbers equal `v1.ReleaseState`."""

    UNSPECIFIED = 0
    AVAILABLE = 1
    """On disk, not loaded."""
    VERIFYING = 2
    """Being checked and opened."""
    LOADED = 3
    """Ready to serve; calls may pin it."""
    ACTIVE = 4
    """Loaded, and serving what is not pinned."""
    REFUSED = 5
    """Disagrees with itself; the reason is beside."""

    @classmethod
    def _missing_(cls, value: object) -> ReleaseState:
        return cls.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class ReleaseStatus:
    """A release and where it is in its life on the server.

    reason:  why it was refused; else "".
    served:  entries of requests that the server has served by it since it started.
    servers: of the same releases folder, that have it loaded.
    info:    None while it is not loaded.
    """

    release: str
    state: ReleaseState
    reason: str
    served: int
    servers: tuple[str, ...]
    info: ReleaseInfo | None


@dataclass(frozen=True, slots=True)
class Limits:
    """The server's limits per call, `features` per entry; ids and messages in bytes."""

    users: int
    items: int
    k: int
    exclusions: int
    features: int
    id_bytes: int
    request_bytes: int
    response_bytes: int


@dataclass(frozen=True, slots=True)
class ServingInfo:
    """What the server serves. degraded: the parts that do not work now."""

    active_release: str
    releases: tuple[ReleaseInfo, ...]
    limits: Limits
    server_version: str
    capabilities: tuple[str, ...]
    degraded: tuple[str, ...]


def _raise_first(problems: tuple[Problem, ...]) -> None:
    for problem in problems:
        raise problem.error()

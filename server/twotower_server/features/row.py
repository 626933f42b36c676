"""What the encoder reads: the raw features of one user or item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class Values(Protocol):
    """The values of one string feature; `twotower.v1.StringList` is one."""

    @property
    def values(self) -> Sequence[str]: ...


class FeatureRow(Protocol):
    """Raw features of one user or item.

    `twotower.v1.User` and `Item` satisfy it as they are, so a request is encoded without being copied first.
    """

    @property
    def features(self) -> Mapping[str, float]: ...
    @property
    def string_features(self) -> Mapping[str, Values]: ...
    @property
    def vector_features(self) -> Mapping[str, object]: ...
    @property
    def dense_features(self) -> Sequence[float]: ...
    @property
    def schema_fingerprint(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Strings:
    """The values of one string feature, outside a message."""

    values: Sequence[str]


@dataclass(frozen=True, slots=True)
class Row:
    """Raw features read from a table or a golden sample."""

    features: Mapping[str, float] = field(default_factory=dict)
    string_features: Mapping[str, Strings] = field(default_factory=dict)
    vector_features: Mapping[str, object] = field(default_factory=dict)
    dense_features: Sequence[float] = ()
    schema_fingerprint: int = 0

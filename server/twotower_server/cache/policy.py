"""Which users may be cached, and under what key."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from twotower_server.features.row import FeatureRow
from twotower_server.features.schema import TowerSchema

log = logging.getLogger(__name__)

# Stands for "no version" in keys, also in those of Redis (CONTRACT: Redis keys).
NO_VERSION = "-"
# Names with these prefixes are never another name of a user's feature (CONTRACT rule 3).
_OTHERS = ("item_", "scene_", "cross_")


class CacheKey(NamedTuple):
    """What a cached vector is found by: a switch of releases changes it, and so does a new feature version."""

    release: str
    feature_version: str
    user_id: str


class CachedUser(FeatureRow, Protocol):
    """What the cache looks at. `twotower.v1.User` is one."""

    @property
    def user_id(self) -> str: ...
    @property
    def feature_version(self) -> str: ...


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """What may be cached. It is the server's, and the same for all of its releases.

    ttl_s:      how old a vector may become.
    by_version: cache only users who send a feature_version.
    real_time:  names of features, such as `user_hour`: who sends one of them is not cached.
    """

    ttl_s: float = 600.0
    by_version: bool = False
    real_time: tuple[str, ...] = ()

    def key(self, release: str, real_time: RealTimeFeatures, user: CachedUser) -> CacheKey | None:
        """The key of a user; None = this user is not cached."""
        version = user.feature_version
        if not user.user_id or (self.by_version and not version):
            return None
        # Redis keys cannot tell such a version from another one, or from none.
        if version and (version == NO_VERSION or ":" in version):
            return None
        # Without features the request is wrong, whether or not there is a vector.
        if not (user.features or user.string_features or user.dense_features) or real_time.sent_by(user):
            return None
        return CacheKey(release, version or NO_VERSION, user.user_id)


class RealTimeFeatures:
    """Those features of one release's users that change too fast for a cache."""

    def __init__(self, names: tuple[str, ...], schema: TowerSchema) -> None:
        """names: in full (`user_hour`); one that ends in `*` is a weighted bag."""
        known = {feature.name for feature in schema.features}
        for name in names:
            if name not in known:
                log.warning("user_cache_real_time names %s, which no feature of the user schema is called", name)
        written = {form for name in names for form in _forms(name)}
        self._names = tuple(form for form in written if not form.endswith("*"))
        self._stems = tuple(form[:-1] for form in written if form.endswith("*"))
        self._fingerprint, self._dense_length = schema.fingerprint, len(schema.numeric)
        self._dense = [i for i, feature in enumerate(schema.numeric) if feature.name in names]

    def sent_by(self, user: FeatureRow) -> bool:
        """Whether the user has a value for one of them, or dense features of which that cannot be told."""
        features, strings, dense = user.features, user.string_features, user.dense_features
        if any(name in features or name in strings for name in self._names):
            return True
        if dense:
            # In another order, or too few: refused when the vector is computed.
            if user.schema_fingerprint != self._fingerprint or len(dense) != self._dense_length:
                return True
            if any(not math.isnan(dense[i]) for i in self._dense):
                return True
        return bool(self._stems) and any(name.startswith(self._stems) for name in features)


def _forms(name: str) -> list[str]:
    """All names that a feature goes by, as the encoder reads them."""
    if not name.startswith("user_"):
        return [name]
    bare = name.removeprefix("user_")
    return [name, "user_" + name] if bare.startswith(_OTHERS) else [name, bare, "user_" + name]

"""What differs between two releases, and how far it moves what users are shown."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower_server.errors import ReleaseRefused
from twotower_server.features.row import Row
from twotower_server.features.schema import Feature, Side, TowerSchema
from twotower_server.index.exact import ExactIndex
from twotower_server.items.catalog import Catalog
from twotower_server.release.format import GOLDEN, ITEM_TOWER, USER_TOWER, Manifest
from twotower_server.release.golden import Golden
from twotower_server.release.snapshot import Snapshot

_EXAMPLES = 5
_VOCABULARY = "vocabulary"


@dataclass(frozen=True, slots=True)
class Change:
    """One value of the two releases, as JSON; None = absent. They may be equal where a reader wants to know both."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class SetChange:
    """How two sets differ: counts, and a few of each."""

    common: int
    added: int
    removed: int
    added_examples: Sequence[str]
    removed_examples: Sequence[str]


@dataclass(frozen=True, slots=True)
class FeatureChange:
    """A feature of both releases that is read in another way. vocabulary: None = the same, or there is none."""

    feature: str
    changes: Sequence[Change]
    vocabulary: SetChange | None


@dataclass(frozen=True, slots=True)
class TowerDiff:
    """same_graph: byte for byte. same_schema: of one fingerprint. added, removed: features."""

    side: Side
    same_graph: bool
    same_schema: bool
    transforms: Change
    added: Sequence[str]
    removed: Sequence[str]
    changed: Sequence[FeatureChange]


@dataclass(frozen=True, slots=True)
class Moves:
    """How far top-k lists move, of the golden users of both releases, on the items that both have.

    users: that both releases can embed. overlap: share of the k best that both lists hold, the mean and the least.
    best_changed: share of users whose best item is another.
    """

    users: int
    items: int
    k: int
    overlap_mean: float
    overlap_min: float
    best_changed: float


@dataclass(frozen=True, slots=True)
class ReleaseDiff:
    """facts: of both releases, whether they differ or not. attributes, training: what differs. moves: None where no
    user or no item is common."""

    before: str
    after: str
    facts: Sequence[Change]
    user: TowerDiff
    item: TowerDiff
    catalog: SetChange
    attributes: Sequence[Change]
    training: Sequence[Change]
    moves: Moves | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def diff_releases(before: Path, after: Path, k: int = 100) -> ReleaseDiff:
    """Compares two release folders. Lists are made by exact search, so that an index moves nothing.

    k: length of the lists. Raises ReleaseRefused, naming the release that cannot be opened.
    """
    old, old_golden = _open(before)
    new, new_golden = _open(after)
    return ReleaseDiff(
        old.release,
        new.release,
        list(_facts(old.manifest, new.manifest)),
        _tower(old.schema.user, new.schema.user, same_graph=_same_file(old.manifest, new.manifest, USER_TOWER)),
        _tower(old.schema.item, new.schema.item, same_graph=_same_file(old.manifest, new.manifest, ITEM_TOWER)),
        _catalog(old.catalog, new.catalog),
        _changes(old.catalog.attribute_kinds, new.catalog.attribute_kinds),
        _changes(dict(_flat(old.manifest.training)), dict(_flat(new.manifest.training))),
        _moves(old, new, [*old_golden.users, *new_golden.users], k),
    )


def _open(folder: Path) -> tuple[Snapshot, Golden]:
    try:
        return Snapshot.open(folder), Golden.load(folder / GOLDEN)
    except ReleaseRefused as error:
        raise ReleaseRefused(f"release {folder.name}: {error}") from None


def _facts(old: Manifest, new: Manifest) -> Iterator[Change]:
    def facts(manifest: Manifest) -> dict[str, Any]:
        return {
            "created": manifest.created,
            "items": manifest.items,
            "dimension": manifest.dimension,
            "similarity": manifest.similarity,
            "scale": manifest.calibration.scale,
            "bias": manifest.calibration.bias,
            "index": manifest.index.kind,
            **{f"index {name}": value for name, value in manifest.index.parameters.items()},
            "recall@100": manifest.index.recall,
            "log position": manifest.log_position,
        }

    before, after = facts(old), facts(new)
    for name in before | after:
        yield Change(name, before.get(name), after.get(name))


def _tower(old: TowerSchema, new: TowerSchema, *, same_graph: bool) -> TowerDiff:
    before = {feature.name: feature for feature in old.features}
    after = {feature.name: feature for feature in new.features}
    return TowerDiff(
        old.side,
        same_graph,
        old.fingerprint == new.fingerprint,
        Change("transforms", old.transforms, new.transforms),
        [name for name in after if name not in before],
        [name for name in before if name not in after],
        [_feature(before[name], after[name]) for name in before if name in after and before[name] != after[name]],
    )


def _feature(old: Feature, new: Feature) -> FeatureChange:
    before, after = old.to_json(), new.to_json()
    vocabulary = None
    if old.vocabulary is not None and new.vocabulary is not None and old.vocabulary != new.vocabulary:
        vocabulary = _sets(old.vocabulary, new.vocabulary)
    # A vocabulary can be long: that there is one now, or no more, is enough.
    for side in (before, after):
        if _VOCABULARY in side:
            side[_VOCABULARY] = f"{len(side[_VOCABULARY])} values"
    changes = [change for change in _changes(before, after) if vocabulary is None or change.name != _VOCABULARY]
    return FeatureChange(old.name, changes, vocabulary)


def _sets(old: Collection[str], new: Collection[str]) -> SetChange:
    before, after = set(old), set(new)
    added = [value for value in new if value not in before]
    removed = [value for value in old if value not in after]
    return SetChange(len(before & after), len(added), len(removed), added[:_EXAMPLES], removed[:_EXAMPLES])


def _catalog(old: Catalog, new: Catalog) -> SetChange:
    def only(one: Catalog, other: Catalog) -> tuple[int, list[str]]:
        rows = np.flatnonzero(~np.isin(one.keys, other.keys, assume_unique=True))
        return len(rows), one.item_ids(rows[:_EXAMPLES])

    added, added_examples = only(new, old)
    removed, removed_examples = only(old, new)
    return SetChange(len(new) - added, added, removed, added_examples, removed_examples)


def _moves(old: Snapshot, new: Snapshot, users: Sequence[Row], k: int) -> Moves | None:
    common = np.intersect1d(old.catalog.keys, new.catalog.keys, assume_unique=True)
    users = [user for position, user in enumerate(users) if user not in users[:position]]
    for snapshot in (old, new):
        refused = snapshot.user_encoder.encode(users).refused
        users = [user for position, user in enumerate(users) if position not in refused]
    k = min(k, len(common))
    if not users or not k:
        return None
    lists = zip(_best(old, users, common, k), _best(new, users, common, k), strict=True)
    overlaps, best_changed = zip(
        *((len(np.intersect1d(one, other)) / k, one[0] != other[0]) for one, other in lists), strict=True
    )
    return Moves(
        len(users), len(common), k, float(np.mean(overlaps)), float(np.min(overlaps)), float(np.mean(best_changed))
    )


def _best(snapshot: Snapshot, users: Sequence[Row], common: NDArray[np.uint64], k: int) -> Iterator[NDArray[np.uint64]]:
    """The keys of the k best common items of each user, the best first: uint64 [k]."""
    eligible = np.zeros(len(snapshot.catalog), np.bool_)
    eligible[snapshot.keys.rows(common)] = True
    index = ExactIndex(snapshot.vectors, snapshot.catalog.item_ids)
    for vector in snapshot.embed_users(snapshot.user_encoder.encode(users)):
        rows, _ = index.search(vector, k, eligible=eligible)
        yield snapshot.catalog.keys[rows]


def _same_file(old: Manifest, new: Manifest, name: str) -> bool:
    return old.files[name].sha256 == new.files[name].sha256


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """What differs, in the order of `before`, then of what `after` adds."""
    names = dict.fromkeys([*before, *after])
    return [Change(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

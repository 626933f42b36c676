"""Raw features → the arrays of a tower's graph. Training, building and serving all go through here.

Names (CONTRACT rule 3): the exact name wins, then the name without its prefix (`age`), then the doubled one
(`user_user_age`). Names of the other prefix are ignored, so that a pipeline can send its merged map as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twotower_server.errors import Reason, Refused
from twotower_server.features.row import FeatureRow
from twotower_server.features.schema import (
    MISSING_ID,
    PADDING_ID,
    Feature,
    IdTable,
    TowerSchema,
)
from twotower_server.features.transform import NumericTransform

_NAN = float("nan")
_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_MAX_INTEGRAL = 2.0**53  # above it a double no longer tells neighbouring integers apart


class FeatureUse(NamedTuple):
    """How many features of the schema had a value, how many had none, and how many names the schema lacks."""

    used: int
    missing: int
    unknown: int


@dataclass(slots=True)
class Encoded:
    """Input of one tower for n rows; an input that the schema leaves empty is None.

    numeric: float32 [n, numeric_width]. ids: int64 [n, ids_width]. weights: float32 [n, weights_width].
    use:     one a row. refused: rows that cannot be served, by index; theirs are as if every feature were missing.
    """

    numeric: NDArray[np.float32] | None
    ids: NDArray[np.int64] | None
    weights: NDArray[np.float32] | None
    use: list[FeatureUse]
    refused: dict[int, Refused] = field(default_factory=dict)

    def inputs(self) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
        """By input name, as the graph wants them."""
        named = {"numeric": self.numeric, "ids": self.ids, "weights": self.weights}
        return {name: array for name, array in named.items() if array is not None}


class _Target(NamedTuple):
    """Where a name leads: a feature, and how exact the name is (0 exact, 1 without prefix, 2 doubled)."""

    feature: int
    rank: int


class Encoder:
    """Encodes rows for one tower. Immutable, so threads may share it."""

    def __init__(self, schema: TowerSchema, *, strict: bool = False) -> None:
        """strict: refuse unknown names (FEATURE_UNKNOWN) instead of counting them."""
        self.schema = schema
        self._strict = strict
        self._numeric_slots = {f.name: i for i, f in enumerate(schema.numeric)}
        self._numeric_missing = [_NAN] * len(schema.numeric)
        self._all_used = FeatureUse(len(schema.features), 0, 0)
        # Of one name it would give the bare number.
        self._get_all = itemgetter(*self._numeric_slots) if len(self._numeric_slots) > 1 else None
        self._transform = NumericTransform(schema) if schema.transforms == "server" and schema.numeric else None
        self._columns = _columns(schema)
        self._ignored = ("item_" if schema.side == "user" else "user_", "scene_", "cross_")
        self._names = _names(schema, self._ignored)
        stems = [(stem, i) for i, f in enumerate(schema.features) if f.wildcard for stem in _bag_stems(schema, f)]
        self._bags = sorted(stems, key=lambda stem: -len(stem[0]))  # the longest stem owns a name
        self._ids_missing = [id for c in self._columns if c is not None for id in c.missing_ids]
        self._weights_missing = [w for c in self._columns if c is not None for w in c.missing_weights]

    def knows(self, name: str) -> bool:
        """Whether a value under this name is read."""
        return name in self._names or self._bag_of(name) is not None

    def encode(self, rows: Sequence[FeatureRow]) -> Encoded:
        """Encodes rows; one that cannot be encoded is named in `refused` and does not harm the others."""
        numeric: list[float] = []
        ids: list[int] = []
        weights: list[float] = []
        use: list[FeatureUse] = []
        refused: dict[int, Refused] = {}
        for i, row in enumerate(rows):
            row_numeric = self._numeric_missing.copy()
            row_ids = self._ids_missing.copy()
            row_weights = self._weights_missing.copy()
            try:
                use.append(self._row(row, row_numeric, row_ids, row_weights))
            except Refused as error:
                refused[i] = error
                use.append(FeatureUse(0, len(self.schema.features), 0))
                row_numeric, row_ids = self._numeric_missing, self._ids_missing
                row_weights = self._weights_missing
            numeric += row_numeric
            ids += row_ids
            weights += row_weights
        return self._encoded(numeric, ids, weights, use, refused)

    def encode_one(self, row: FeatureRow) -> Encoded:
        """Encodes one row, or raises why it cannot be."""
        numeric, ids, weights = self._numeric_missing.copy(), self._ids_missing.copy(), self._weights_missing.copy()
        use = self._row(row, numeric, ids, weights)
        return self._encoded(numeric, ids, weights, [use], {})

    def _encoded(
        self,
        numeric: list[float],
        ids: list[int],
        weights: list[float],
        use: list[FeatureUse],
        refused: dict[int, Refused],
    ) -> Encoded:
        """Lists of all rows, one after another, as arrays."""
        n = len(use)
        return Encoded(
            self._numeric_array(numeric, n) if self._numeric_slots else None,
            np.array(ids, np.int64).reshape(n, -1) if ids else None,
            np.array(weights, np.float32).reshape(n, -1) if weights else None,
            use,
            refused,
        )

    def _numeric_array(self, numeric: list[float], n: int) -> NDArray[np.float32]:
        if self._transform is not None:
            return self._transform(np.array(numeric, np.float64).reshape(n, -1))
        return np.array(numeric, np.float32).reshape(n, -1)

    def _row(self, row: FeatureRow, numeric: list[float], ids: list[int], weights: list[float]) -> FeatureUse:
        """Fills one row in place. The loop over numeric features with exact names is the hot path."""
        features, strings = row.features, row.string_features
        dense = row.dense_features
        used = 0
        if dense:
            used = self._dense(row, numeric)
        rest: list[tuple[str, float]] = []
        slots = self._numeric_slots
        if self._get_all is not None and all(map(features.__contains__, slots)):
            # Every number is there: fetched in one call, which takes a third of the loop below.
            numeric[:] = self._get_all(features)
            total = sum(map(abs, numeric))
            used += len(numeric)
            if len(features) > len(numeric):
                rest = [(name, features[name]) for name in features if name not in slots]
        else:
            total = 0.0
            for name in features:  # on a map of protobuf faster than items()
                value = features[name]
                slot = slots.get(name)
                if slot is None:
                    rest.append((name, value))
                    continue
                numeric[slot] = value
                total += abs(value)
                used += 1
        # One comparison for all values: false for NaN, an infinity, or a sum that may hide either.
        if not total <= _MAX_FLOAT32:
            _check_finite(features)
        if dense and len(rest) != len(features):
            raise _dense_conflict(next(name for name in features if name in slots))
        unknown = 0
        if rest or strings or row.vector_features:
            more, unknown = self._others(row, rest, numeric, ids, weights, bool(dense))
            used += more
        # A known name without a value, such as an empty list of clicks, is missing, not a mistake.
        if not used and not dense and not any(name in self._names for name in strings):
            raise self._nothing(row)
        if used == len(self.schema.features) and not unknown:
            return self._all_used
        return FeatureUse(used, len(self.schema.features) - used, unknown)

    def _others(
        self,
        row: FeatureRow,
        rest: list[tuple[str, float]],
        numeric: list[float],
        ids: list[int],
        weights: list[float],
        dense: bool,
    ) -> tuple[int, int]:
        """Everything but exactly named numbers. Returns the features used and the unknown names."""
        chosen: dict[int, tuple[int, str, float | Sequence[str]]] = {}
        bags: dict[int, dict[str, tuple[int, float]]] = {}
        unknown = 0
        features, strings, vectors = row.features, row.string_features, row.vector_features
        for name in strings:
            if name in features:
                raise _conflict(name, "features", "string_features")
        for name in vectors:
            if name in features or name in strings:
                raise _conflict(name, "features" if name in features else "string_features", "vector_features")
            raise Refused(
                Reason.FEATURE_TYPE,
                f"{name} is a vector; no schema kind takes vector_features yet",
                f"vector_features[{name}]",
            )
        _check_finite(rest)
        for name, value in rest:
            target = self._names.get(name)
            if target is not None:
                self._choose(chosen, target, name, value)
            elif not self._into_bag(bags, name, value):
                unknown += self._unknown(name, "features")
        for name, listed in strings.items():
            target = self._names.get(name)
            if target is not None:
                self._choose(chosen, target, name, listed.values)
            elif self._bag_of(name) is not None:
                raise Refused(
                    Reason.FEATURE_TYPE,
                    f"{name} belongs to a weighted bag; send its weight in features",
                    f"string_features[{name}]",
                )
            else:
                unknown += self._unknown(name, "string_features")
        used = 0
        for index, (_, name, given) in chosen.items():
            used += self._place(index, name, given, numeric, ids, dense)
        for index, entries in bags.items():
            self._place_bag(index, entries, ids, weights)
            used += 1
        return used, unknown

    def _choose(
        self,
        chosen: dict[int, tuple[int, str, float | Sequence[str]]],
        target: _Target,
        name: str,
        value: float | Sequence[str],
    ) -> None:
        held = chosen.get(target.feature)
        if held is None or target.rank < held[0]:
            chosen[target.feature] = (target.rank, name, value)

    def _into_bag(self, bags: dict[int, dict[str, tuple[int, float]]], name: str, value: float) -> bool:
        """Adds an entry of a weighted bag, if the name is one."""
        found = self._bag_of(name)
        if found is None:
            return False
        index, entry, rank = found
        held = bags.setdefault(index, {}).get(entry)
        if held is None or rank < held[0]:
            bags[index][entry] = (rank, value)
        return True

    def _bag_of(self, name: str) -> tuple[int, str, int] | None:
        """The bag that a name belongs to, the entry it names, and how exact it is; the longest stem wins."""
        ignored = name.startswith(self._ignored)
        for stem, index in self._bags:
            if name.startswith(stem) and len(name) > len(stem):
                rank = 0 if stem == self.schema.features[index].name[:-1] else 1
                if not (rank and ignored):  # without its prefix, `user_*` would take every name
                    return index, name[len(stem) :], rank
        return None

    def _unknown(self, name: str, where: str) -> int:
        """1 for a name that counts as unknown, 0 for one that belongs to somebody else."""
        if name.startswith(self._ignored):
            return 0
        if self._strict:
            raise Refused(
                Reason.FEATURE_UNKNOWN,
                f"the {self.schema.side} schema has no feature {name}; GetServingInfo lists those it has",
                f"{where}[{name}]",
            )
        return 1

    def _place(
        self,
        index: int,
        name: str,
        value: float | Sequence[str],
        numeric: list[float],
        ids: list[int],
        dense: bool,
    ) -> int:
        """Writes one value into its columns. Returns 1 when the feature is used by it, else 0."""
        feature = self.schema.features[index]
        column = self._columns[index]
        if column is None:
            slot = self._numeric_slots[feature.name]
            if not isinstance(value, float | int):
                raise Refused(
                    Reason.FEATURE_TYPE,
                    f"{feature.name} is numeric; send it in features",
                    f"string_features[{name}]",
                )
            if dense:
                raise _dense_conflict(name)
            if not math.isnan(numeric[slot]):  # the exact name was there: it wins
                return 0
            numeric[slot] = value
            return 1
        if isinstance(value, float | int):
            texts: Sequence[str] = (_category(feature, name, value),)
        else:
            texts = [text for text in value if text]
            if not texts:
                return 0
        if feature.kind == "categorical":
            if len(texts) != 1:
                raise Refused(
                    Reason.FEATURE_TYPE,
                    f"{feature.name} is categorical and takes one value, not {len(texts)}",
                    f"string_features[{name}]",
                )
            ids[column.start] = column.table.id(texts[0])
            return 1
        found = column.ids(texts)
        ids[column.start : column.start + feature.width] = found + [PADDING_ID] * (feature.width - len(found))
        return 1

    def _place_bag(
        self, index: int, entries: dict[str, tuple[int, float]], ids: list[int], weights: list[float]
    ) -> None:
        column = self._columns[index]
        assert column is not None
        width = column.feature.width
        found, found_weights = column.bag({name: value for name, (_, value) in entries.items()})
        padding = width - len(found)
        ids[column.start : column.start + width] = found + [PADDING_ID] * padding
        weights[column.weights_start : column.weights_start + width] = found_weights + [0.0] * padding

    def _dense(self, row: FeatureRow, numeric: list[float]) -> int:
        """Fills all numbers from `dense_features` (CONTRACT rule 4)."""
        schema = self.schema
        if not row.schema_fingerprint:
            raise Refused(
                Reason.FIELD_REQUIRED,
                "dense_features needs the schema_fingerprint that GetServingInfo names",
                "schema_fingerprint",
            )
        if row.schema_fingerprint != schema.fingerprint:
            raise Refused(
                Reason.SCHEMA_MISMATCH,
                f"schema_fingerprint {row.schema_fingerprint:016x} is not this release's {schema.side} schema "
                f"{schema.fingerprint:016x}; fetch the schema again and order the features by it",
                "schema_fingerprint",
            )
        values = list(row.dense_features)
        if len(values) != len(numeric):
            raise Refused(
                Reason.DIMENSION_MISMATCH,
                f"dense_features has {len(values)} values, the {schema.side} schema has {len(numeric)}",
                "dense_features",
            )
        if any(map(math.isinf, values)):
            i = next(i for i, value in enumerate(values) if math.isinf(value))
            raise Refused(Reason.VALUE_NOT_FINITE, f"dense_features[{i}] is infinite", f"dense_features[{i}]")
        numeric[:] = values
        return len(values) - sum(map(math.isnan, values))

    def _nothing(self, row: FeatureRow) -> Refused:
        side = self.schema.side
        if row.features or row.string_features:
            names = sorted([*row.features, *row.string_features])[:3]
            return Refused(
                Reason.NO_KNOWN_FEATURE,
                f"none of the {len(row.features) + len(row.string_features)} features ({', '.join(names)}, …) is in "
                f"the {side} schema; GetServingInfo lists the names",
                "features",
            )
        return Refused(Reason.FIELD_REQUIRED, f"the {side} has no features; send at least one", "features")


@dataclass(frozen=True, slots=True)
class _Column:
    """Where the ids (and weights) of one feature stand in a row."""

    feature: Feature
    table: IdTable
    start: int
    weights_start: int
    missing_ids: tuple[int, ...]
    missing_weights: tuple[float, ...]

    def ids(self, texts: Sequence[str]) -> list[int]:
        length = self.feature.width
        kept = texts[-length:] if self.feature.kind == "sequence" else texts[:length]
        return [self.table.id(text) for text in kept]

    def bag(self, entries: dict[str, float]) -> tuple[list[int], list[float]]:
        length = self.feature.width
        kept: Iterable[tuple[str, float]] = entries.items()
        if len(entries) > length:
            kept = sorted(kept, key=lambda entry: (-abs(entry[1]), entry[0]))[:length]
        ordered = sorted(kept)
        return [self.table.id(name) for name, _ in ordered], [weight for _, weight in ordered]


def _columns(schema: TowerSchema) -> list[_Column | None]:
    """One a feature, None for numeric ones; with the ids and weights of a missing value worked out."""
    columns: list[_Column | None] = []
    start = weights_start = 0
    for feature in schema.features:
        if feature.kind == "numeric":
            columns.append(None)
            continue
        table, width = IdTable(feature), feature.width
        bare = _Column(feature, table, start, weights_start, (), ())
        ids, weights = _missing(bare)
        padding = width - len(ids)
        bag_padding = width - len(weights) if feature.wildcard else 0
        columns.append(
            _Column(
                feature,
                table,
                start,
                weights_start,
                tuple(ids) + (PADDING_ID,) * padding,
                tuple(weights) + (0.0,) * bag_padding,
            )
        )
        start += width
        weights_start += width if feature.wildcard else 0
    return columns


def _missing(column: _Column) -> tuple[list[int], list[float]]:
    missing = column.feature.missing
    bag = column.feature.wildcard
    if missing.rule == "marker":
        return [MISSING_ID], [1.0] if bag else []
    if bag:
        return column.bag(dict(missing.value))  # type: ignore[arg-type]
    if isinstance(missing.value, str):
        return [column.table.id(missing.value)], []
    return column.ids(missing.value), []  # type: ignore[arg-type]


def _aliases(schema: TowerSchema, name: str) -> tuple[str, ...]:
    """Other names of a feature, best first; `scene_*` features have none."""
    prefix = f"{schema.side}_"
    return (name.removeprefix(prefix), prefix + name) if name.startswith(prefix) else ()


def _names(schema: TowerSchema, ignored: tuple[str, ...]) -> dict[str, _Target]:
    """Every name of every feature but bags; `item_count` stays the item's, even if there is `user_item_count`."""
    names: dict[str, _Target] = {}
    for rank in range(3):
        for index, feature in enumerate(schema.features):
            forms = (feature.name, *_aliases(schema, feature.name))
            if not feature.wildcard and rank < len(forms) and not (rank and forms[rank].startswith(ignored)):
                names.setdefault(forms[rank], _Target(index, rank))
    return names


def _bag_stems(schema: TowerSchema, feature: Feature) -> tuple[str, ...]:
    stem = feature.name[:-1]
    return (stem, *_aliases(schema, stem))


def _category(feature: Feature, name: str, value: float) -> str:
    """A double that stands for a category: 1.0 is "1"."""
    if value != int(value) or abs(value) > _MAX_INTEGRAL:
        raise Refused(
            Reason.FEATURE_TYPE,
            f"{feature.name} is {feature.kind}; {value!r} is not a whole number that could name a category, "
            "send it in string_features",
            f"features[{name}]",
        )
    return str(int(value))


def _check_finite(features: Iterable[tuple[str, float]] | object) -> None:
    entries = features if isinstance(features, list) else features.items()  # type: ignore[attr-defined]
    for name, value in entries:
        if not abs(value) <= _MAX_FLOAT32:
            raise Refused(
                Reason.VALUE_NOT_FINITE,
                f"{name} is {value!r}; leave a missing value out, and keep numbers within float32",
                f"features[{name}]",
            )


def _conflict(name: str, one: str, other: str) -> Refused:
    return Refused(Reason.FIELD_CONFLICT, f"{name} is in both {one} and {other}; send it in one", f"{other}[{name}]")


def _dense_conflict(name: str) -> Refused:
    return Refused(
        Reason.FIELD_CONFLICT,
        f"{name} is numeric and dense_features holds every numeric feature; send it in one",
        f"features[{name}]",
    )

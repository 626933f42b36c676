"""Users and items from plain Python values."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower import v1

# An object that is none of these is refused with a TypeError; None means missing.
FeatureValue = (
    str | float | bool | np.generic | Sequence[str] | Sequence[int] | npt.NDArray[Any] | Mapping[str, float] | None
)

_NUMBERS = (numbers.Real, np.bool_)  # numpy registers its other real scalars as numbers.Real
_EXACT_INTEGERS = 2**53  # beyond it a double no longer holds every integer, and an id would silently change


def user(
    user_id: str = "",
    features: Mapping[str, FeatureValue] | None = None,
    *,
    feature_version: str = "",
    routing_key: str = "",
    **more_features: FeatureValue,
) -> v1.User:
    """A user from plain values.

        user("u1", age=34, gender="f", recent_clicks=["i7", "i9"], interest={"sport": 0.8})
        user("u1", {"user_age": 34, "user_interest_*": {"sport": 0.8}})

    user_id:         "" = anonymous, which is never cached.
    features:        name to value; the server reads `age` as `user_age`. Names that are no identifiers, or
                     that equal a parameter here, go this way; the others may be keyword arguments.
    feature_version: opaque part of the cache key.
    routing_key:     decides a traffic split; "" = user_id.

    Values, which go out raw (scaling belongs to the release):
      number, bool, numpy scalar   a number (True = 1); integers beyond ±2^53 are refused: send an id as text
      text                         a category
      list of texts or integers    tags, or a sequence with the oldest first; integers become decimal text
      mapping name to number       a weighted bag: `interest={"sport": 0.8}` is the feature `interest_sport`,
                                   under a wildcard's own name (`user_interest_*`) the star is replaced
      None                         missing: the release's rule applies

    Raises TypeError for any other value, ValueError for a name given twice. Whether a number is finite and a
    name is known is for the server to say.
    """
    numbers_by_name, texts_by_name = _sorted_features(features, more_features)
    return v1.User(
        user_id=user_id,
        features=numbers_by_name,
        string_features=texts_by_name,
        feature_version=feature_version,
        routing_key=routing_key,
    )


def item(
    item_id: str = "", features: Mapping[str, FeatureValue] | None = None, **more_features: FeatureValue
) -> v1.Item:
    """An item from plain values, to be computed now; the values are those of `user`."""
    numbers_by_name, texts_by_name = _sorted_features(features, more_features)
    return v1.Item(item_id=item_id, features=numbers_by_name, string_features=texts_by_name)


def _sorted_features(
    features: Mapping[str, FeatureValue] | None, more_features: Mapping[str, FeatureValue]
) -> tuple[dict[str, float], dict[str, v1.StringList]]:
    numbers_by_name: dict[str, float] = {}
    texts_by_name: dict[str, v1.StringList] = {}
    for source in (features or {}), more_features:
        for name, value in _flat(source):
            if name in numbers_by_name or name in texts_by_name:
                raise ValueError(f"feature {name!r} is given twice")
            if isinstance(value, float):  # the most frequent kind, told apart fastest
                numbers_by_name[name] = value
            elif isinstance(value, _NUMBERS):
                numbers_by_name[name] = _number(name, value)
            else:
                texts_by_name[name] = v1.StringList(values=_texts(name, value))
    return numbers_by_name, texts_by_name


def _flat(features: Mapping[str, FeatureValue]) -> list[tuple[str, Any]]:
    """Name and value of each feature: bags opened, missing ones left out."""
    flat: list[tuple[str, Any]] = []
    for name, value in features.items():
        if isinstance(value, Mapping):
            prefix = name[:-1] if name.endswith("*") else f"{name}_"
            for key, weight in value.items():
                if not isinstance(weight, _NUMBERS):
                    raise TypeError(f"feature {name!r} is a bag of names to numbers; {key!r} is {_kind(weight)}")
                flat.append((f"{prefix}{key}", weight))
        elif value is not None:
            flat.append((name, value))
    return flat


def _number(name: str, value: Any) -> float:
    if isinstance(value, (int, np.integer)) and not -_EXACT_INTEGERS <= int(value) <= _EXACT_INTEGERS:
        raise TypeError(f"feature {name!r}: a double does not hold the integer {value} exactly; send it as text")
    return float(value)


def _texts(name: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"feature {name!r} is {_kind(value)}; features are numbers, texts, lists of texts")
    return [_text(name, entry) for entry in value]


def _text(name: str, entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, (int, np.integer)) and not isinstance(entry, bool):
        return str(int(entry))
    raise TypeError(f"feature {name!r} is a list with {_kind(entry)} in it; lists hold texts or integers")


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"

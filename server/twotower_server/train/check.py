"""Checks of the values of a configuration.

`known`, `table`, `whole` and `real` raise ConfigError, which begins with `where`, the setting's name; `is_…` only tell.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

from twotower_server.config import ConfigError


def known(body: Mapping[str, Any], allowed: Collection[str], where: str) -> None:
    """Refuses a key that is not allowed, and suggests the nearest that is."""
    for key in body:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; it takes {', '.join(sorted(allowed))}"
            raise ConfigError(f"{where} has no setting {key}{hint}")


def table(data: object, where: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise ConfigError(f"{where} must be a table, not {data!r}")
    return data


def is_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(text, str) and text for text in value)


def is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    return is_number(value) and math.isfinite(value)


def whole(value: object, low: int, high: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{where} must be a whole number from {low} to {high}, not {value!r}")
    return value


def real(value: object, low: float, high: float, where: str) -> float:
    if not is_number(value) or not low <= value <= high:
        raise ConfigError(f"{where} must be a number from {low:g} to {high:g}, not {value!r}")
    return float(value)

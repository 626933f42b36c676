"""A change of the catalog: an upsert or a delete of one item, as the log keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from twotower_server.features.row import Row, Strings
from twotower_server.items.attribute import AttributeValue


@dataclass(frozen=True, slots=True)
class Change:
    """position: in the log, from 1; 0 = not yet in it.

    row:        features of an upsert that applies to every release; None for a ready vector, or a delete.
    vector:     a ready vector instead, for `release` alone.
    attributes: all that the item has then.
    sequence:   the caller's own number: a change older than the last one of the item is ignored; 0 = none.
    partial:    some release could not take it, which has the item as it was before.
    """

    item_id: str
    position: int = 0
    row: Row | None = None
    vector: Sequence[float] | None = None
    release: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    sequence: int = 0
    partial: bool = False

    @property
    def deletes(self) -> bool:
        return self.row is None and self.vector is None

    def to_json(self) -> dict[str, Any]:
        """For the log; without the position, which the log keeps itself."""
        values: dict[str, Any] = {"item_id": self.item_id}
        if self.row is not None:
            values["features"] = dict(self.row.features)
            values["string_features"] = {name: list(v.values) for name, v in self.row.string_features.items()}
        if self.vector is not None:
            values |= {"vector": list(self.vector), "release": self.release}
        if self.attributes:
            values["attributes"] = dict(self.attributes)
        if self.sequence:
            values["sequence"] = self.sequence
        if self.partial:
            values["partial"] = True
        return values

    @classmethod
    def from_json(cls, position: int, values: Mapping[str, Any]) -> Change:
        """Reads what `to_json` gave. Raises KeyError, TypeError or AttributeError for something else."""
        row = None
        if "features" in values:
            strings = {name: Strings(listed) for name, listed in values["string_features"].items()}
            row = Row(values["features"], strings)
        return cls(
            values["item_id"],
            position,
            row,
            values.get("vector"),
            values.get("release", ""),
            values.get("attributes", {}),
            values.get("sequence", 0),
            values.get("partial", False),
        )

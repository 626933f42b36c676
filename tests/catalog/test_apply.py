"""Changes → a snapshot: the same whether they come one by one, as live, or many at once, as when a server starts."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from tests.items.test_catalog import colliding_id
from tests.rpc.messages import ITEM
from twotower_server.catalog.change import Change
from twotower_server.errors import Reason, Refused
from twotower_server.features.row import Row, Strings
from twotower_server.items.attribute import AttributeValue
from twotower_server.items.ids import item_keys
from twotower_server.release.apply import apply, evaluate
from twotower_server.release.snapshot import Snapshot

ONE, OTHER = colliding_id("a", "b"), colliding_id("b", "a")
IDS = [ONE, OTHER, "i0", "i1", "new"]


@pytest.fixture(scope="module")
def snapshot(releases: Path) -> Snapshot:
    return Snapshot.open(releases / "dot")


def upsert(item_id: str, number: float = 1.0, **attributes: AttributeValue) -> Change:
    strings = {name: Strings([value]) for name, value in ITEM.items() if isinstance(value, str)}
    return Change(item_id, row=Row({"item_price": number}, strings), attributes=attributes)


def unfit(item_id: str) -> Change:
    """No release can take it."""
    return Change(item_id, vector=[1.0], release="dot")


def content(snapshot: Snapshot) -> dict[str, tuple[list[float], dict[str, object]]]:
    held = [item_id for item_id, held in zip(IDS, snapshot.items.holds(IDS), strict=True) if held]
    rows = snapshot.items.find(item_keys(held))
    vectors = snapshot.items.vectors(rows).round(4).tolist()
    attributes = snapshot.items.attributes(rows, ["title"])
    return dict(zip(held, zip(vectors, attributes, strict=True), strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ([upsert(ONE), Change(ONE), upsert(OTHER)], [OTHER]),
        ([upsert(ONE), upsert(OTHER), Change(ONE)], []),
        ([upsert(ONE), Change(OTHER)], [ONE]),
        ([unfit(ONE), upsert(OTHER)], [OTHER]),
        ([upsert(ONE), unfit(ONE)], [ONE]),
        ([upsert(ONE), Change(ONE), upsert(OTHER), Change(OTHER), upsert(ONE)], [ONE]),
        ([upsert(ONE), Change(ONE), upsert(OTHER), Change(ONE)], [OTHER]),
    ],
)
def test_an_item_has_its_key_until_it_is_deleted(snapshot: Snapshot, changes: list[Change], held: list[str]) -> None:
    at_once, one_by_one = apply(snapshot, changes), snapshot
    for change in changes:
        one_by_one = apply(one_by_one, [change])
    for found in (at_once, one_by_one):
        assert [item_id for item_id in (ONE, OTHER) if found.items.holds([item_id])[0]] == held
        assert len(found.items) == len(snapshot.items) + len(held)


@pytest.mark.parametrize("seed", range(40))
def test_it_is_all_the_same_how_many_changes_are_applied_at_once(snapshot: Snapshot, seed: int) -> None:
    order = random.Random(seed)
    changes = []
    for _ in range(24):
        item_id = order.choice(IDS)
        made = (upsert(item_id, order.choice((1.0, 50.0, 900.0)), title=f"T{order.randrange(9)}"),)
        changes.append(order.choice((*made, Change(item_id), unfit(item_id))))
    found = []
    for step in (1, 5, len(changes)):
        changed = snapshot
        for start in range(0, len(changes), step):
            changed = apply(changed, changes[start : start + step])
        found.append((content(changed), len(changed.items)))
    assert found[0] == found[1] == found[2]


def test_what_does_not_fit_leaves_the_item_as_it_was(snapshot: Snapshot) -> None:
    before = snapshot.items.vectors(snapshot.items.find(item_keys(["i0"])))
    changed = apply(snapshot, [unfit("i0"), upsert("i0", float("nan")), upsert("i0", price="dear")])
    assert changed is snapshot
    np.testing.assert_array_equal(changed.items.vectors(changed.items.find(item_keys(["i0"]))), before)


def test_a_refusal_names_the_field_as_the_request_has_it(snapshot: Snapshot) -> None:
    (found,) = evaluate(snapshot, [upsert("i0", float("nan"))])
    assert isinstance(found, Refused)
    assert (found.reason, found.field) == (Reason.VALUE_NOT_FINITE, "item.features[item_price]")

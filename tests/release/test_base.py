"""Bases: a release with changes, written as a release, answers as the release with the changes over it does."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ITEMS
from tests.items.test_live import condition
from tests.rpc.messages import ITEM
from twotower_server.catalog.change import Change
from twotower_server.features.row import Row, Strings
from twotower_server.items.ids import item_keys
from twotower_server.release.apply import apply
from twotower_server.release.base import base_folder, write_base
from twotower_server.release.format import FILES, Manifest
from twotower_server.release.snapshot import Snapshot
from twotower_server.release.verify import verify_release

POSITION = 77


def upsert(item_id: str, feature: float, **attributes: object) -> Change:
    strings = {name: Strings([value]) for name, value in ITEM.items() if isinstance(value, str)}
    return Change(item_id, row=Row({"item_price": feature}, strings), attributes=attributes)  # type: ignore[arg-type]


CHANGES = [
    *(
        upsert(f"new-{i}", float(i), price=float(i), title=f"New {i}", in_stock=True, tags=["a", "b"])
        for i in range(50)
    ),
    *(upsert(f"i{i}", 500.0 + i, price=3.0) for i in range(0, 40, 2)),
    *(Change(f"i{i}") for i in range(1, 60, 3)),
    upsert("i1", 9.0, title="Back again"),
    Change("new-3"),
]
NAMES = ["title", "in_stock", "category", "price", "tags"]
FILTERS = [
    None,
    condition("price", any_number=[3.0]),
    condition("tags", any_text=["b"]),
    condition("in_stock", flag=True),
]


def based(source: Path, changes: list[Change], catalog: Path) -> tuple[Snapshot, Snapshot, Path]:
    """A release with changes, and the base that was made of it."""
    changed = apply(Snapshot.open(source), changes)
    folder = base_folder(catalog, 2, source)
    assert write_base(changed, source, folder, POSITION)
    verify_release(folder, golden_items=False)
    return changed, Snapshot.open(folder), folder


def check_same(one: Snapshot, other: Snapshot) -> None:
    ids = [*(f"i{i}" for i in range(ITEMS)), *(f"new-{i}" for i in range(50)), "never"]
    assert one.items.holds(ids) == other.items.holds(ids)
    held = [item_id for item_id, held in zip(ids, one.items.holds(ids), strict=True) if held]
    rows, others = one.items.find(item_keys(held)), other.items.find(item_keys(held))
    np.testing.assert_array_equal(one.items.vectors(rows), other.items.vectors(others))
    assert one.items.attributes(rows, NAMES) == other.items.attributes(others, NAMES)
    assert len(one.items) == len(other.items)


@pytest.mark.parametrize("release", ["dot", "cosine"])
def test_a_base_answers_as_the_release_with_its_changes(releases: Path, tmp_path: Path, release: str) -> None:
    changed, base, _ = based(releases / release, CHANGES, tmp_path)
    check_same(changed, base)
    assert base.items.is_unchanged
    assert (base.manifest.release, base.manifest.log_position) == (release, POSITION)
    for row in range(0, len(base.catalog), 17):
        for filter in FILTERS:
            found, values = changed.items.search(base.vectors[row], 20, None, filter)
            others, same = base.items.search(base.vectors[row], 20, None, filter)
            assert changed.items.item_ids(found) == base.items.item_ids(others)
            np.testing.assert_allclose(values, same, rtol=1e-6)


def test_lists_are_filled_again_and_find_what_was_changed(ivf_releases: Path, tmp_path: Path) -> None:
    _, base, _ = based(ivf_releases / "one", CHANGES, tmp_path)
    manifest = Manifest.load(ivf_releases / "one")
    assert base.manifest.index == manifest.index
    for item_id in ("new-7", "i2", "i1"):
        row = int(base.items.find(item_keys([item_id]))[0])
        found, _ = base.items.search(base.vectors[row], 5, None, None)
        best = base.vectors @ base.vectors[row]
        assert best[found[0]] == pytest.approx(best.max(), rel=1e-5)


def test_what_has_not_changed_is_the_same_files(releases: Path, tmp_path: Path) -> None:
    changed, _, folder = based(releases / "dot", [Change("never-there")], tmp_path)
    assert changed.items.is_unchanged
    assert Manifest.load(folder).log_position == POSITION
    assert all(os.path.samefile(folder / name, releases / "dot" / name) for name in FILES)


def test_a_base_becomes_another_of_the_same_release(releases: Path, tmp_path: Path) -> None:
    _, first, folder = based(releases / "dot", CHANGES[:60], tmp_path)
    second = apply(first, CHANGES[60:])
    place = base_folder(tmp_path, 3, folder)
    assert place.relative_to(tmp_path / "3") == folder.relative_to(tmp_path / "2")
    assert write_base(second, folder, place, POSITION + 1)
    verify_release(place, golden_items=False)
    check_same(apply(Snapshot.open(releases / "dot"), CHANGES), Snapshot.open(place))


def test_of_a_catalog_without_items_no_base_is_made(releases: Path, tmp_path: Path) -> None:
    empty = apply(Snapshot.open(releases / "dot"), [Change(f"i{i}") for i in range(ITEMS)])
    assert not write_base(empty, releases / "dot", tmp_path / "2" / "x" / "dot", POSITION)
    assert not (tmp_path / "2").exists()

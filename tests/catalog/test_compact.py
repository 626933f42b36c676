"""Compaction of the log: less to read, the same to be served."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.catalog.conftest import Catalog, ids, recovered
from twotower_server.catalog.change import Change
from twotower_server.catalog.compact import compact_log
from twotower_server.catalog.log import Prefix
from twotower_server.catalog.reader import Reader
from twotower_server.catalog.record import LogDamaged
from twotower_server.features.row import Row


def read(catalog: Catalog, number: int) -> list[Change]:
    return [change for changes in Reader(catalog.folder, number).read(catalog.size) for change in changes]


def compacted(catalog: Catalog) -> Prefix:
    """Compacts the whole log, and takes the result over."""
    end = catalog.log.end
    (catalog.folder / str(end.number + 1)).mkdir()
    prefix = compact_log(catalog.folder, end, end.number + 1)
    take_over(catalog, end.number + 1)
    return prefix


def take_over(catalog: Catalog, number: int) -> None:
    with catalog.log.locked():
        catalog.log.take_over(number)
    catalog.log.remove_others(number)


def upsert(item_id: str, sequence: int = 0, *, price: float = 1.0, partial: bool = False) -> Change:
    return Change(item_id, row=Row({"item_price": price}), sequence=sequence, partial=partial)


def test_the_last_change_of_every_item_stays_at_its_position(catalog: Catalog) -> None:
    catalog.log.append([upsert("a"), upsert("b"), upsert("a", price=2.0)])
    catalog.log.append([Change("b"), upsert("c")])
    before = read(catalog, 1)
    prefix = compacted(catalog)
    assert read(catalog, 2) == [before[2], before[3], before[4]]
    assert (prefix.mark, prefix.size_bytes) == (catalog.log.mark, catalog.size)
    assert not (catalog.folder / "1").exists()


def test_a_ready_vector_replaces_one_of_its_release_alone(catalog: Catalog) -> None:
    def vector(item_id: str, release: str, value: float) -> Change:
        return Change(item_id, vector=[value], release=release)

    catalog.log.append([upsert("a"), vector("a", "r1", 1.0), vector("a", "r2", 2.0), vector("a", "r1", 3.0)])
    catalog.log.append([vector("b", "r1", 1.0), upsert("b"), vector("c", "r1", 1.0), Change("c")])
    compacted(catalog)
    assert [change.position for change in read(catalog, 2)] == [1, 3, 4, 6, 8]


def test_a_change_that_some_release_could_not_take_replaces_nothing(catalog: Catalog) -> None:
    catalog.log.append([upsert("a"), upsert("a", partial=True), upsert("b", partial=True), upsert("b")])
    compacted(catalog)
    assert [(change.position, change.partial) for change in read(catalog, 2)] == [(1, False), (2, True), (4, False)]


def test_sequences_are_remembered_whoever_had_them(catalog: Catalog) -> None:
    catalog.log.append([upsert("a", 5), Change("a"), upsert("b", 7), upsert("b", 3), upsert("c", 4), upsert("c")])
    compacted(catalog)
    catalog.log.append([upsert("a", 4), upsert("b", 6), upsert("c", 3), upsert("a", 5), upsert("b", 8)])
    assert [change.position for change in read(catalog, 2)] == [2, 3, 6, 10, 11]
    tail = Reader(catalog.folder, 2, prefix=False)
    assert [change.position for changes in tail.read(catalog.size) for change in changes] == [10, 11]
    compacted(catalog)
    assert [change.position for change in read(catalog, 3)] == [6, 10, 11]


def test_what_comes_meanwhile_follows(catalog: Catalog) -> None:
    catalog.append("a", "b")
    end = catalog.log.end
    (catalog.folder / "2").mkdir()
    prefix = compact_log(catalog.folder, end, 2)
    source = Reader.of_source(catalog.folder, 2)
    follower = Reader(catalog.folder, 1)
    catalog.append("a", "c")
    assert [ids(changes) for changes in source.read(catalog.size)] == [["a", "c"]]
    assert [ids(changes) for changes in follower.read(catalog.size)] == [["a", "b", "a", "c"]]
    take_over(catalog, 2)
    follower.take_over(2)
    assert catalog.append("d") == 5
    assert [ids(changes) for changes in follower.read(catalog.size)] == [["d"]]
    assert ids(read(catalog, 2)) == ["a", "b", "a", "c", "d"]
    assert (prefix.source, prefix.source_bytes) == (1, end.size_bytes)


def test_a_server_that_starts_again_goes_on_with_the_compacted_log(catalog: Catalog) -> None:
    catalog.append("a", "b", "a")
    compacted(catalog)
    again = recovered(catalog.folder)
    assert again.log.end == catalog.log.end
    assert again.append("c") == 4
    assert ids(read(again, 2)) == ["b", "a", "c"]


def test_a_compaction_that_was_not_taken_over_counts_for_nothing(catalog: Catalog) -> None:
    catalog.append("a", "a")
    (catalog.folder / "2").mkdir()
    compact_log(catalog.folder, catalog.log.end, 2)
    catalog.append("b")
    again = recovered(catalog.folder)
    assert again.log.end.number == 1 and again.ids() == ["a", "a", "b"]
    assert not (catalog.folder / "2").exists()


def test_who_was_not_told_of_the_new_log_cannot_append_to_the_old_one(catalog: Catalog) -> None:
    # The supervisor was killed between the new log's name and the page.
    catalog.append("a")
    before = catalog.end.log_end
    compacted(catalog)
    (catalog.folder / "1").mkdir()
    (catalog.folder / "1" / "changes").write_bytes((catalog.folder / "2" / "changes").read_bytes())
    catalog.end.log_end = before
    with pytest.raises(OSError, match="the log 1 counts no more"):
        catalog.append("lost")


def test_a_disk_that_is_full_at_the_switch_leaves_the_current_log(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.append("a", "a")
    (catalog.folder / "2").mkdir()
    compact_log(catalog.folder, catalog.log.end, 2)
    catalog.append("b")

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr("twotower_server.durable.fsync", full)
        take_over(catalog, 2)
    assert catalog.append("c") == 4
    assert recovered(catalog.folder).ids() == ["a", "a", "b", "c"]


def test_damage_in_the_compacted_beginning_is_refused(catalog: Catalog) -> None:
    catalog.append("a", "b")
    compacted(catalog)
    path = catalog.folder / "2" / "changes"
    content = path.read_bytes()
    for size in range(19, len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(Exception, match="is damaged at byte"):
            recovered(catalog.folder)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"mark": 7}', '{"mark": {"position": 1}}', '{"mark": {"position": 1, "token": 2}, "x": 1}'],
)
def test_a_damaged_statement_of_the_compacted_beginning_is_refused(catalog: Catalog, content: str) -> None:
    catalog.append("a", "b")
    compacted(catalog)
    (catalog.folder / "2" / "prefix.json").write_text(content)
    with pytest.raises(LogDamaged, match=r"prefix\.json is damaged; put back a copy of it"):
        recovered(catalog.folder)


@pytest.mark.parametrize("content", ["", "[]", "7"])
def test_damaged_sequences_of_the_compacted_beginning_are_refused(catalog: Catalog, content: str) -> None:
    catalog.append("a", "b")
    compacted(catalog)
    (catalog.folder / "2" / "sequences.json").write_text(content)
    with pytest.raises(LogDamaged, match=r"sequences\.json is damaged; put back a copy of it"):
        read(catalog, 2)


def final_state(changes: Sequence[Change], release: str) -> dict[str, object]:
    """What a release makes of changes; it cannot take those that are partial."""
    items: dict[str, object] = {}
    for change in changes:
        if change.deletes:
            items.pop(change.item_id, None)
        elif change.row is not None and not change.partial:
            items[change.item_id] = change.row.features
        elif change.vector is not None and change.release == release:
            items[change.item_id] = change.vector
    return items


@pytest.mark.parametrize("seed", range(8))
def test_any_history_compacted_at_any_moments_ends_in_the_same_items(tmp_path: Path, seed: int) -> None:
    order = random.Random(seed)
    for name in ("plain", "compacted"):
        (tmp_path / name).mkdir()
    one, two = recovered(tmp_path / "plain"), recovered(tmp_path / "compacted")
    for step in range(120):
        kind = order.random()
        item_id = order.choice("abcdef")
        if kind < 0.2:
            change = Change(item_id)
        elif kind < 0.5:
            change = Change(
                item_id, vector=[float(step)], release=order.choice(["r1", "r2"]), sequence=order.choice([0, step])
            )
        else:
            change = upsert(
                item_id, order.choice([0, 0, order.randint(1, 120)]), price=step, partial=order.random() < 0.2
            )
        one.log.append([change])
        two.log.append([change])
        if order.random() < 0.1:
            compacted(two)
    number = two.log.end.number
    assert number > 3
    for release in ("r1", "r2"):
        assert final_state(read(two, number), release) == final_state(read(one, 1), release)
    assert len(read(two, number)) < len(read(one, 1))

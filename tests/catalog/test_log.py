"""The log of changes: what was acknowledged is read again, whatever ended the writer or happened to the file."""

from __future__ import annotations

import json
import logging
import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.catalog.conftest import Catalog, ids, recovered
from twotower_server.catalog.change import Change
from twotower_server.catalog.log import End, Log
from twotower_server.catalog.reader import Reader
from twotower_server.catalog.record import LogDamaged
from twotower_server.errors import TwoTowerError
from twotower_server.features.row import Row, Strings
from twotower_server.supervisor.page import Page

APPEND = Path(__file__).with_name("append_changes.py")


def record(content: bytes) -> bytes:
    return struct.pack("<II", len(content), zlib.crc32(content)) + content


def append_elsewhere(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(APPEND), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def positions(process: subprocess.Popen[str]) -> list[int]:
    return [int(line) for line in process.communicate()[0].split()]


# ---- what goes in comes out


@pytest.mark.parametrize(
    "change",
    [
        Change("é本🎬\0\n", row=Row({"item_price": 9.5, "item_ctr": float("nan")}, {"item_tags": Strings(["a", ""])})),
        Change("empty", row=Row()),
        Change("i", vector=[0.1, -0.0, 1e-45, 3.4028234663852886e38], release="r1"),
        Change("i", vector=[], release="r1"),
        Change("i", row=Row(), attributes={"t": "x", "n": 5.0, "f": False, "l": ["a", "b"], "none": []}),
        Change("i", row=Row(), sequence=2**64 - 1),
        Change("gone"),
    ],
)
def test_a_change_is_read_as_it_was_written(catalog: Catalog, change: Change) -> None:
    assert catalog.log.append([change]) == 1
    (found,) = catalog.all()
    assert repr(found) == repr(replace(change, position=1))  # NaN equals nothing
    assert found.deletes == (change.item_id == "gone")
    assert [type(value) for value in found.attributes.values()] == [type(v) for v in change.attributes.values()]


def test_changes_are_numbered_from_one_in_their_order(catalog: Catalog) -> None:
    assert catalog.append() == 0
    assert catalog.append("a") == 1
    assert catalog.append("b", "c", "d") == 4
    assert catalog.append() == 4
    assert catalog.append("e") == 5
    assert [(change.position, change.item_id) for change in catalog.all()] == list(enumerate("abcde", 1))


def test_positions_can_be_asked_to_lie_beyond_another_log(catalog: Catalog) -> None:
    catalog.append("a")
    assert catalog.log.append([Change("b"), Change("c")], 100) == 102
    assert catalog.log.append([Change("d")], 100) == 103
    catalog = recovered(catalog.folder)
    assert catalog.log.append([Change("e")]) == 104
    assert [change.position for change in catalog.all()] == [1, 101, 102, 103, 104]


def test_a_reader_goes_on_where_it_was(catalog: Catalog) -> None:
    reader = Reader(catalog.folder, 1)
    assert list(reader.read(0)) == []
    catalog.append("a")
    first = catalog.size
    catalog.append("b", "c")
    assert [ids(changes) for changes in reader.read(first)] == [["a"]]
    assert list(reader.read(first)) == []
    assert [ids(changes) for changes in reader.read(catalog.size)] == [["b", "c"]]


def test_what_a_caller_could_not_use_is_given_again(catalog: Catalog) -> None:
    reader = Reader(catalog.folder, 1)
    for name, sequence in (("a", 2), ("a", 3), ("b", 0)):
        catalog.log.append([Change(name, row=Row(), sequence=sequence)])
    assert ids(next(reader.read(catalog.size))) == ["a", "a", "b"]
    assert [ids(changes) for changes in reader.read(catalog.size)] == [["a", "a", "b"]]
    assert list(reader.read(catalog.size)) == []


def test_many_changes_are_given_in_lists(catalog: Catalog) -> None:
    for start in range(0, 5000, 500):
        catalog.append(*(f"i{start + i}" for i in range(500)))
    lists = list(Reader(catalog.folder, 1).read(catalog.size))
    assert [change.item_id for changes in lists for change in changes] == [f"i{i}" for i in range(5000)]
    assert max(map(len, lists)) <= 1500 and len(lists) > 2


def test_a_change_older_than_the_last_one_of_its_item_is_left_out(catalog: Catalog) -> None:
    numbered = [("a", 5), ("a", 4), ("b", 1), ("a", 5), ("a", 0), ("a", 4), ("a", 6), ("b", 0), ("b", 2), ("a", 5)]
    catalog.log.append([Change(name, row=Row(), sequence=sequence) for name, sequence in numbered])
    assert [change.position for change in catalog.all()] == [1, 3, 4, 5, 7, 8, 9]


def test_a_delete_always_applies_and_forgets_no_sequence(catalog: Catalog) -> None:
    for sequence, deletes in ((5, False), (0, True), (4, False), (5, False), (0, True), (6, False)):
        catalog.log.append([Change("a") if deletes else Change("a", row=Row(), sequence=sequence)])
    assert [(change.sequence, change.deletes) for change in catalog.all()] == [
        (5, False),
        (0, True),
        (5, False),
        (0, True),
        (6, False),
    ]


def test_sequences_count_over_several_readings(catalog: Catalog) -> None:
    reader = Reader(catalog.folder, 1)
    for sequence, found in ((5, 1), (4, 0), (6, 1)):
        catalog.log.append([Change("a", row=Row(), sequence=sequence)])
        assert sum(map(len, reader.read(catalog.size))) == found


# ---- a server that starts again


def test_a_server_that_starts_again_goes_on(catalog: Catalog) -> None:
    catalog.append("a", "b")
    again = recovered(catalog.folder)
    assert again.end == catalog.end
    assert again.append("c") == 3
    assert recovered(catalog.folder).ids() == ["a", "b", "c"]


def test_a_torn_tail_is_cut_wherever_it_is_torn(catalog: Catalog, caplog: pytest.LogCaptureFixture) -> None:
    catalog.append("a")
    whole = catalog.size
    catalog.append("b", "c")
    content = catalog.path.read_bytes()
    for size in range(whole, len(content)):
        catalog.path.write_bytes(content[:size])
        caplog.clear()
        again = recovered(catalog.folder)
        assert (again.ids(), again.size) == (["a"], whole)
        assert ("do not count" in caplog.text) == (size > whole)
        assert again.append("d") == 2
        assert recovered(catalog.folder).ids() == ["a", "d"]


def test_an_end_that_reached_the_disk_as_zeros_or_garbage_is_cut(catalog: Catalog) -> None:
    catalog.append("a")
    whole = catalog.path.read_bytes()
    for tail in (b"\0", bytes(8), bytes(5000), b"\xff" * 100, os.urandom(3000), record(b""), record(b"[]")[:-1]):
        catalog.path.write_bytes(whole + tail)
        assert recovered(catalog.folder).ids() == ["a"]


def test_every_flipped_bit_of_the_last_record_makes_it_one_that_does_not_count(catalog: Catalog) -> None:
    catalog.append("a")
    whole = catalog.size
    catalog.append("b")
    content = bytearray(catalog.path.read_bytes())
    for at in range(whole, len(content)):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        catalog.path.write_bytes(flipped)
        assert recovered(catalog.folder).ids() == ["a"]


def test_damage_before_the_end_is_refused_and_loses_nothing_silently(catalog: Catalog) -> None:
    catalog.append("a")
    first = catalog.size
    catalog.append("b")
    second = catalog.size
    catalog.append("c")
    content = catalog.path.read_bytes()
    for at in range(first, second):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        catalog.path.write_bytes(flipped)
        with pytest.raises(LogDamaged, match=f"damaged at byte {first}, and holds changes behind that"):
            recovered(catalog.folder)
        assert catalog.path.read_bytes() == bytes(flipped)
    catalog.path.write_bytes(content[:first] + content[second - 5 :])
    with pytest.raises(LogDamaged):
        recovered(catalog.folder)


@pytest.mark.parametrize(
    "values", [b"7", b"[7]", b'["a"]', b"[{}]", b'[{"item_id":"a","features":{}}]', b"[", b"\xff", b"null"]
)
def test_a_record_that_is_no_list_of_changes_is_refused(catalog: Catalog, values: bytes) -> None:
    catalog.append("a")
    with catalog.path.open("ab") as file:
        file.write(record(values + struct.pack("<QQ", 2, 7)))
    with pytest.raises(LogDamaged, match="holds no changes that can be read"):
        recovered(catalog.folder)


@pytest.mark.parametrize("content", [b"twotower changes 1\n" + bytes(40), b"\0" * 19, b"x", json.dumps({}).encode()])
def test_a_file_of_another_format_is_refused_and_left_alone(catalog: Catalog, content: bytes) -> None:
    catalog.path.write_bytes(content)
    with pytest.raises(LogDamaged, match="no log of item changes that this version can read"):
        recovered(catalog.folder)
    assert catalog.path.read_bytes() == content


def test_a_file_that_was_only_begun_is_a_new_one(catalog: Catalog) -> None:
    begin = catalog.path.read_bytes()
    for size in range(len(begin) + 1):
        catalog.path.write_bytes(begin[:size])
        assert recovered(catalog.folder).ids() == []
        assert recovered(catalog.folder).append("a") == 1


def test_a_log_that_cannot_be_opened_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "1" / "changes").mkdir(parents=True)
    with pytest.raises(TwoTowerError, match=r"the log of item changes in .* cannot be used: Is a directory"):
        recovered(tmp_path)


# ---- while it runs


def test_a_log_that_somebody_cut_takes_no_changes(catalog: Catalog) -> None:
    catalog.append("a")
    os.truncate(catalog.path, catalog.size - 1)
    with pytest.raises(OSError, match="was cut"):
        catalog.append("b")
    with pytest.raises(LogDamaged, match="cannot be read from byte"):
        catalog.all()


@pytest.fixture
def page(tmp_path: Path) -> Page:
    page = Page(tmp_path / "page", create=True)
    Log(tmp_path, page).recover()
    return page


def read(folder: Path, page: Page) -> Sequence[Change]:
    return [change for changes in Reader(folder, 1).read(End.of(page.log_end).size_bytes) for change in changes]


def test_what_a_writer_wrote_but_did_not_publish_is_cut_by_the_next(tmp_path: Path, page: Page) -> None:
    with append_elsewhere(tmp_path, tmp_path / "page", "a", 3, "kill") as process:
        assert positions(process) == [1, 2]
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "1" / "changes").stat().st_size > End.of(page.log_end).size_bytes
    assert ids(read(tmp_path, page)) == ["a-0", "a-1"]
    assert Log(tmp_path, page).append([Change("b")]) == 3
    assert ids(read(tmp_path, page)) == ids(recovered(tmp_path).all()) == ["a-0", "a-1", "b"]


def test_what_was_not_published_may_count_after_a_restart_but_never_by_halves(tmp_path: Path, page: Page) -> None:
    with append_elsewhere(tmp_path, tmp_path / "page", "a", 2, "kill") as process:
        assert positions(process) == [1]
    again = recovered(tmp_path)
    assert again.ids() == ["a-0", "a-1"]
    assert again.append("b") == 3


def test_two_processes_append_at_once(tmp_path: Path, page: Page) -> None:
    started = [append_elsewhere(tmp_path, tmp_path / "page", name, 200) for name in "ab"]
    with started[0] as one, started[1] as other:
        mine = [Log(tmp_path, page).append([Change(f"c-{i}"), Change(f"d-{i}")]) for i in range(100)]
        found = {"a": positions(one), "b": positions(other), "c": [p - 1 for p in mine], "d": mine}
    assert sorted(number for numbers in found.values() for number in numbers) == list(range(1, 601))
    by_position = {change.position: change.item_id for change in read(tmp_path, page)}
    assert len(by_position) == 600
    for name, numbers in found.items():
        assert [by_position[number] for number in numbers] == [f"{name}-{i}" for i in range(len(numbers))]


def test_a_disk_that_is_full_loses_nothing(tmp_path: Path, page: Page) -> None:
    with append_elsewhere(tmp_path, tmp_path / "page", "a", 3, "full") as process:
        assert process.communicate()[0].split() == ["1", "2", "OSError"]
    assert (tmp_path / "1" / "changes").stat().st_size == End.of(page.log_end).size_bytes + 10, "some of it was written"
    assert ids(read(tmp_path, page)) == ["a-0", "a-1"]
    assert Log(tmp_path, page).append([Change("b")]) == 3
    assert ids(recovered(tmp_path).all()) == ["a-0", "a-1", "b"]


def test_a_cut_tail_is_told_to_the_operator(catalog: Catalog, caplog: pytest.LogCaptureFixture) -> None:
    catalog.append("a")
    with catalog.path.open("ab") as file:
        file.write(bytes(12))
    with caplog.at_level(logging.WARNING):
        recovered(catalog.folder)
    assert "the log's last 12 bytes were never written to their end" in caplog.text

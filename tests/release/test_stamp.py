"""Stamps: what this machine has verified is not verified again, until a file of it changes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.release.conftest import manifest_of, write_manifest
from twotower_server.errors import TwoTowerError
from twotower_server.release.format import FILES, MANIFEST
from twotower_server.release.stamp import is_stamped, write_stamp


@pytest.fixture
def data(dot: Path, tmp_path: Path) -> Path:
    """A machine's own folder, in which `dot` is stamped."""
    write_stamp(dot, tmp_path / "data")
    assert is_stamped(dot, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("name", FILES)
def test_a_touched_file_is_verified_again(dot: Path, data: Path, name: str) -> None:
    status = (dot / name).stat()
    os.utime(dot / name, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert not is_stamped(dot, data)


@pytest.mark.parametrize("name", FILES)
def test_a_replaced_file_is_verified_again(dot: Path, data: Path, name: str) -> None:
    copy = shutil.copy2(dot / name, dot / "copy")
    os.replace(copy, dot / name)
    assert not is_stamped(dot, data)


@pytest.mark.parametrize("name", [MANIFEST, *FILES])
def test_without_a_file_it_is_not_verified(dot: Path, data: Path, name: str) -> None:
    (dot / name).unlink()
    assert not is_stamped(dot, data)


def test_a_manifest_is_known_by_its_content(dot: Path, data: Path) -> None:
    os.utime(dot / MANIFEST)
    assert is_stamped(dot, data)
    write_manifest(dot, {**manifest_of(dot), "log_position": 1})
    assert not is_stamped(dot, data)


def test_reading_changes_nothing(dot: Path, data: Path) -> None:
    for name in (MANIFEST, *FILES):
        (dot / name).read_bytes()
    assert is_stamped(dot, data)


def test_a_stamp_is_of_one_folder_on_one_machine(dot: Path, cosine: Path, data: Path, tmp_path: Path) -> None:
    assert not is_stamped(dot, tmp_path / "another machine")
    assert not is_stamped(cosine, data)
    assert not is_stamped(Path(shutil.copytree(dot, tmp_path / "elsewhere" / "dot")), data)


def test_by_a_link_it_is_the_same_folder(dot: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "dot").symlink_to(dot)
    assert is_stamped(tmp_path / "links" / "dot", data)


@pytest.mark.parametrize("text", ["", "{", "{}", "null", "\0"])
def test_a_stamp_that_cannot_be_read_is_none(dot: Path, data: Path, text: str) -> None:
    (stamp,) = (data / "verified").iterdir()
    stamp.write_text(text)
    assert not is_stamped(dot, data)


def test_a_folder_that_cannot_be_written_is_said(dot: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TwoTowerError, match=r"cannot write to .*file: .*; name another folder by --data"):
        write_stamp(dot, tmp_path / "file")

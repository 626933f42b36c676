"""`active`: the file that names the release to serve."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from twotower_server.errors import ReleaseRefused, TwoTowerError
from twotower_server.release.active import active_release, release_names, set_active_release


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of releases that have nothing but a manifest, and of what is no release."""
    for name in ("b", "a", "~building-c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "release.json").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    return tmp_path


def test_names_are_those_of_whole_releases(folder: Path) -> None:
    assert release_names(folder) == ["a", "b"]
    assert release_names(folder / "nowhere") == []


def test_one_is_set_and_replaced(folder: Path) -> None:
    for name in ("a", "b"):
        set_active_release(folder, name)
        assert active_release(folder) == name
    assert sorted(os.listdir(folder)) == ["a", "active", "b", "empty", "file", "~building-c"]


def test_only_a_release_that_is_there_becomes_active(folder: Path) -> None:
    for name in ("c", "empty", "file"):
        with pytest.raises(ReleaseRefused, match=f"has no release {name}; it has a, b"):
            set_active_release(folder, name)
    for name in ("~building-c", "../a", "active"):
        with pytest.raises(ReleaseRefused, match="cannot name a release"):
            set_active_release(folder, name)
    assert not (folder / "active").exists()


def test_without_one_it_is_said_what_to_do(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(ReleaseRefused, match=f"activate one of a, b: twotower release activate b --releases {folder}"):
        active_release(folder)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(ReleaseRefused, match=f"build one: twotower release build --activate --releases {empty}"):
        active_release(empty)


@pytest.mark.parametrize("content", [b"", b"../a\n", b"A B\n", b"a\nb\n"])
def test_what_is_no_name_is_refused(folder: Path, content: bytes) -> None:
    (folder / "active").write_bytes(content)
    with pytest.raises(ReleaseRefused, match="cannot name a release"):
        active_release(folder)


def test_what_cannot_be_read_or_written_is_said(folder: Path) -> None:
    (folder / "active").write_bytes(b"\xff")
    with pytest.raises(ReleaseRefused, match="active cannot be read"):
        active_release(folder)
    (folder / "active").unlink()
    (folder / "active").mkdir()
    with pytest.raises(ReleaseRefused, match="active cannot be read"):
        active_release(folder)
    with pytest.raises(TwoTowerError, match="active cannot be written: Is a directory"):
        set_active_release(folder, "a")

"""The folder of the log: one for a place of releases, for one server at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from twotower_server.errors import TwoTowerError
from twotower_server.supervisor.folder import catalog_folder


def test_a_place_has_one_log_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = set()
    for place in ("releases", "./releases", f"{tmp_path}/releases", f"{tmp_path}/other/../releases/"):
        with catalog_folder(tmp_path / "data", place) as folder:
            found.add(folder)
    assert len(found) == 1
    for place in ("other", "s3://bucket/releases", "s3://bucket/other"):
        with catalog_folder(tmp_path / "data", place) as folder:
            found.add(folder)
    assert len(found) == 4


def test_a_log_has_one_server_and_its_folder_outlives_it(tmp_path: Path) -> None:
    with catalog_folder(tmp_path, "releases") as folder:
        (folder / "log").touch()
        with (
            pytest.raises(TwoTowerError, match=r"another server keeps the item changes of releases .* --data"),
            catalog_folder(tmp_path, "releases"),
        ):
            pass
        with catalog_folder(tmp_path, "other"):
            pass
    with catalog_folder(tmp_path, "releases") as again:
        assert (again / "log").exists()

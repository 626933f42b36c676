"""A log of changes in a folder, and what servers with a log begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.catalog.live import own_releases
from twotower_server.catalog.change import Change
from twotower_server.catalog.log import Log
from twotower_server.catalog.reader import Reader
from twotower_server.release.stamp import write_stamp


@dataclass(slots=True)
class End:
    """What the page says, in this process alone."""

    log_end: int = 0


@dataclass(slots=True)
class Catalog:
    """A log that was recovered in a folder."""

    folder: Path
    end: End
    log: Log

    @property
    def path(self) -> Path:
        return self.folder / "1" / "changes"

    @property
    def size(self) -> int:
        """Bytes of the log that count."""
        return self.log.end.size_bytes

    def append(self, *item_ids: str) -> int:
        return self.log.append([Change(item_id) for item_id in item_ids])

    def all(self) -> list[Change]:
        """What somebody reads who begins now."""
        return [change for changes in Reader(self.folder, 1).read(self.size) for change in changes]

    def ids(self) -> list[str]:
        return ids(self.all())


def ids(changes: Sequence[Change]) -> list[str]:
    return [change.item_id for change in changes]


def recovered(folder: Path) -> Catalog:
    """The log as a server finds it that starts."""
    end = End()
    log = Log(folder, end)
    log.recover()
    return Catalog(folder, end, log)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return recovered(tmp_path)


@pytest.fixture
def folder(releases: Path, tmp_path: Path) -> Path:
    """A releases folder of the test's own: `dot`, which is active, and `cosine`."""
    return own_releases(releases, tmp_path / "releases")


@pytest.fixture
def data(releases: Path, tmp_path: Path) -> Path:
    """A server's folder, which has verified these releases."""
    for name in ("dot", "cosine"):
        write_stamp(releases / name, tmp_path / "data")
    return tmp_path / "data"

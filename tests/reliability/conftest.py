"""Servers of releases whose vectors are orthogonal, with real processes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.load import Expected
from tests.reliability.serving import Own, StartOwn, connected, starting

NAMES = ("left", "right")


@pytest.fixture(scope="session")
def expected(orthogonal: Path) -> Mapping[str, Expected]:
    """What each release answers."""
    return {name: Expected(orthogonal / name) for name in NAMES}


@pytest.fixture
def folder(orthogonal: Path, tmp_path: Path) -> Path:
    """A releases folder of the test's own: `left`, which is active, and `right`."""
    releases = tmp_path / "releases"
    shutil.copytree(orthogonal, releases)
    (releases / "active").write_text("left\n")
    return releases


@pytest.fixture
def start(folder: Path, tmp_path: Path) -> Iterator[StartOwn]:
    """Starts servers of the test's own releases folder; options and patches as of `starting`."""
    with ExitStack() as started:

        def run(*options: str, data: str = "data", **patches: Any) -> Own:
            server = started.enter_context(starting(folder, tmp_path / data, *options, **patches))
            return started.enter_context(connected(server))

        yield run

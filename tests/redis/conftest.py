"""What the tests of vectors in Redis share: releases that a test may change, and the command."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from tests.conftest import ATTRIBUTES, Command
from tests.model_folder import item_table
from tests.reliability.serving import Own, connected
from tests.supervisor.running import Server
from twotower_server.items.catalog import Catalog
from twotower_server.release.build import Recipe, build_release
from twotower_server.release.format import ITEMS, VECTORS

LARGE_ITEMS = 5_000

Items = Callable[..., tuple[int, str, str]]
Start = Callable[..., Own]


@pytest.fixture(scope="session")
def large(releases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the release `large`, which takes several batches to push. Do not change it."""
    folder = tmp_path_factory.mktemp("large")
    pq.write_table(item_table(LARGE_ITEMS), folder / "items.parquet")
    build_release(Recipe("large", releases.parent / "model-dot", folder / "items.parquet"), folder, activate=True)
    return folder


@pytest.fixture(scope="session")
def walked(releases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the release `walked`, whose index has lists. Do not change it."""
    folder = tmp_path_factory.mktemp("walked")
    pq.write_table(item_table(LARGE_ITEMS), folder / "items.parquet")
    model, table = releases.parent / "model-dot", folder / "items.parquet"
    build_release(Recipe("walked", model, table, attributes=ATTRIBUTES, index="ivf_sq8"), folder, activate=True)
    return folder


@pytest.fixture
def own(releases: Path, tmp_path: Path) -> Path:
    """A folder with the releases `cosine` and `dot` (active), which a test may change."""
    return Path(shutil.copytree(releases, tmp_path / "releases"))


@pytest.fixture
def items(
    own: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    run_twotower: Command,
) -> Items:
    """Runs `twotower items` on `own`: exit code, standard output, standard error."""
    monkeypatch.setenv("TWOTOWER_RELEASES", str(own))
    monkeypatch.setenv("TWOTOWER_DATA", str(tmp_path_factory.getbasetemp() / "verified"))

    def run(*arguments: str) -> tuple[int, str, str]:
        return run_twotower("items", *arguments)

    return run


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server of a folder, with more options of `twotower serve`."""
    with ExitStack() as started:

        def run(releases: Path | str, *options: str, name: str = "server") -> Own:
            command = [
                "-m",
                "twotower_server.cli.main",
                "serve",
                "--releases",
                str(releases),
                "--listen",
                "localhost:0",
            ]
            server = Server([*command, "--data", str(tmp_path / name), *options], tmp_path / f"log-{name}", {})
            started.callback(server.close)
            return started.enter_context(connected(server))

        yield run


def vectors_of(release: Path) -> dict[bytes, NDArray[np.float32]]:
    """The vectors of a release folder by the bytes of their item's id, read without the code under test."""
    catalog = Catalog.open(release / ITEMS)
    ids = catalog.item_ids(np.arange(len(catalog)))
    return dict(zip((item_id.encode() for item_id in ids), np.load(release / VECTORS), strict=True))

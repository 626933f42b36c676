"""What most folders of tests share: a release of every kind of feature, and a real server of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pyarrow.parquet as pq
import pytest

from tests.model_folder import item_table, write_model
from tests.orthogonal import build_orthogonal
from tests.supervisor.running import Server
from twotower import v1
from twotower_server.cli.main import main
from twotower_server.items.attribute import AttributeSpec
from twotower_server.release.build import Recipe, build_release

pytest_plugins = ["tests.redis.fixtures"]

Command = Callable[..., tuple[int, str, str]]

ITEMS = 300
ATTRIBUTES = (
    AttributeSpec("title"),
    AttributeSpec("in_stock"),
    AttributeSpec("category", column="item_category"),
    AttributeSpec("price", column="item_price"),
    AttributeSpec("tags", column="item_tags"),
)


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs for the whole session: do not stop it. `stub` calls it, `log` reads what it says."""

    target: str
    stub: v1.TwoTowerServiceStub
    channel: grpc.Channel
    server: Server
    releases: Path


@pytest.fixture
def run_twotower(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `twotower` with arguments, in this process: exit code, standard output, standard error."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        try:
            code = main([*map(str, arguments)])
        except SystemExit as stopped:  # argparse's way out
            code = int(stopped.code or 0)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the releases `dot` (active) and `cosine`, of 300 items each. Do not change it."""
    folder = tmp_path_factory.mktemp("releases")
    pq.write_table(item_table(ITEMS), folder / "items.parquet")
    for similarity, seed in (("cosine", 2), ("dot", 1)):
        model = write_model(folder / f"model-{similarity}", similarity=similarity, seed=seed)  # type: ignore[arg-type]
        recipe = Recipe(similarity, model, folder / "items.parquet", attributes=ATTRIBUTES)
        build_release(recipe, folder / "releases", activate=True)
    return folder / "releases"


@pytest.fixture(scope="session")
def orthogonal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the releases `left` and `right`, whose vectors are orthogonal; none is active. Do not change it."""
    folder = tmp_path_factory.mktemp("orthogonal") / "releases"
    for place, name in enumerate(("left", "right")):
        build_orthogonal(name, place, folder)
    return folder


def _serve(releases: Path, active: str, folder: Path) -> Iterator[Running]:
    own = folder / "releases"
    own.mkdir()
    for release in releases.iterdir():
        if release.is_dir():
            (own / release.name).symlink_to(release)
    (own / "active").write_text(f"{active}\n")
    command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(own), "--data", str(folder / "data")]
    server = Server([*command, "--listen", "localhost:0"], folder / "log", {})
    try:
        target = str(server.ready()["target"])
        with grpc.insecure_channel(target) as channel:
            yield Running(target, v1.TwoTowerServiceStub(channel), channel, server, own)
    finally:
        server.close()


@pytest.fixture(scope="session")
def server(releases: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A real server of the release `dot`."""
    yield from _serve(releases, "dot", tmp_path_factory.mktemp("dot"))


@pytest.fixture(scope="session")
def cosine_server(releases: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A real server of the release `cosine`."""
    yield from _serve(releases, "cosine", tmp_path_factory.mktemp("cosine"))

"""docs/http.md: its example is run against the demo, and its table of routes has every route."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.calling import Http
from tests.supervisor.running import Server
from twotower_server.cli.main import main
from twotower_server.engine.limits import Limits
from twotower_server.engine.whole import WholeCalls
from twotower_server.http.gateway import Gateway
from twotower_server.http.metrics import ServerState

DOCUMENT = (Path(__file__).parents[2] / "docs" / "http.md").read_text("utf-8")
EXAMPLES = re.findall(r"^\$ curl -s localhost:8080(\S+) -d '(.*?)'\n(.*?)\n```$", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    folder = tmp_path_factory.mktemp("demo")
    assert main(["demo", "--build-only", "--releases", str(folder / "releases")]) == 0
    command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(folder / "releases")]
    command += ["--data", str(folder / "data"), "--listen", "localhost:0", "--http-listen", "localhost:0"]
    server = Server(command, folder / "log", {})
    yield Http(str(server.ready()["http_target"]))
    server.close()


def test_there_is_an_example() -> None:
    assert len(EXAMPLES) == 1


@pytest.mark.parametrize(("path", "body", "printed"), EXAMPLES)
def test_an_example_prints_what_stands_there(demo: Http, path: str, body: str, printed: str) -> None:
    # Other processors sum in other orders.
    assert demo.post(path, body).predictions == pytest.approx(json.loads(printed)["predictions"], abs=1e-5)


def test_every_route_is_described() -> None:
    section = DOCUMENT.partition("## Routes")[2].partition("**A version")[0]
    described = {(method, path) for method, path in re.findall(r"`(GET|POST) (\S+?)`", section)}

    class Never:
        def now(self) -> None:
            raise AssertionError

    gateway = Gateway(WholeCalls(Never(), Limits()), lambda: ServerState("", {}, ()))  # type: ignore[arg-type]
    routes = {(route.method, re.sub(r":\[[^]]*\]\+", "", route.path)) for route in gateway.routes()}
    assert described == routes

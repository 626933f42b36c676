"""`twotower demo`: builds and serves, and what it prints to copy really works."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format

from twotower import v1
from twotower_server.cli.main import main
from twotower_server.demo.release import PREFIX, release_name
from twotower_server.release.fleet import Fleet
from twotower_server.release.repository import LocalRepository

PATIENCE_S = 120
# `make test` builds grpcurl here.
PATH = os.pathsep.join((os.environ["PATH"], str(Path(__file__).parents[2] / ".tools" / "bin")))


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "releases"


@pytest.fixture(scope="module")
def printed(releases: Path) -> Iterator[str]:
    """What a demo server prints when it is ready; it serves until the tests here are done."""
    command = [sys.executable, "-m", "twotower_server.cli.main", "demo"]
    command += ["--listen", "localhost:0", "--releases", str(releases)]
    environ = {**os.environ, "TWOTOWER_DATA": str(releases.parent / "data")}
    errors = releases.parent / "errors"
    with errors.open("w") as stderr:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environ)
    assert server.stdout is not None
    try:
        lines = []
        for line in server.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        else:
            pytest.fail(f"the demo ended before it served:\n{errors.read_text()}")
        yield "".join(lines)
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE_S) == 0, errors.read_text()
    finally:
        server.kill()
        server.wait(PATIENCE_S)
        server.stdout.close()


@pytest.fixture(scope="module")
def target(printed: str) -> str:
    found = re.search(r"Serving release \S+ on (\S+)\.", printed)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def commands(printed: str) -> list[str]:
    """The commands to copy, in their order: grpcurl, Python, CLI."""
    indented = printed.partition("terminal:\n")[2].partition("Ctrl-C")[0]
    starts = [match.start() for match in re.finditer(r"(?m)^  (?=grpcurl |\S*python|\S*twotower )", indented)]
    return [indented[start:end].strip() for start, end in zip(starts, [*starts[1:], len(indented)], strict=True)]


def _run(command: str) -> str:
    return subprocess.run(
        ["bash", "-c", command],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PATH": PATH},
    ).stdout


def _expected(target: str, request: v1.RecommendRequest) -> list[v1.ScoredItem]:
    with grpc.insecure_channel(target) as channel:
        return list(v1.TwoTowerServiceStub(channel).Recommend(request).items)


@pytest.fixture(scope="module")
def recommended(target: str, commands: list[str]) -> list[v1.ScoredItem]:
    """The answer to the grpcurl command's message, sent by a stub: grpcurl reads protobuf's JSON as well."""
    arguments = shlex.split(commands[0])
    assert arguments[0] == "grpcurl"
    assert arguments[-1] == "twotower.v1.TwoTowerService/Recommend"
    assert arguments[-2] == target
    message = arguments[arguments.index("-d") + 1]
    return _expected(target, json_format.Parse(message, v1.RecommendRequest()))


def test_three_commands_are_printed(commands: list[str]) -> None:
    assert len(commands) == 3


def test_the_grpcurl_message_asks_for_sport_and_gets_it(recommended: list[v1.ScoredItem]) -> None:
    assert len(recommended) == 5
    categories = [item.attributes["category"].text for item in recommended]
    assert categories.count("sport") >= 3, categories
    assert all(item.attributes["title"].text for item in recommended)


@pytest.mark.skipif(not shutil.which("grpcurl", path=PATH), reason="grpcurl is neither on PATH nor in .tools")
def test_the_grpcurl_command_works(commands: list[str], recommended: list[v1.ScoredItem]) -> None:
    items = json.loads(_run(commands[0]))["items"]
    # The name depends on how much of the descriptors reflection tells.
    assert [item.get("item_id") or item["itemId"] for item in items] == [item.item_id for item in recommended]


def test_the_python_command_works(commands: list[str], recommended: list[v1.ScoredItem]) -> None:
    lines = _run(commands[1]).splitlines()
    assert [line.split()[0] for line in lines] == [item.item_id for item in recommended]


def test_the_cli_command_works(commands: list[str], recommended: list[v1.ScoredItem]) -> None:
    answer = json.loads(_run(commands[2] + " --json"))
    assert [item["item_id"] for item in answer["items"]] == [item.item_id for item in recommended]
    table = _run(commands[2])
    assert all(item.item_id in table for item in recommended)


def test_filters_find_the_attributes(target: str) -> None:
    request = v1.RecommendRequest(user=v1.User(features={"interest_books": 1}), k=20)
    request.return_attributes.extend(["category", "price", "in_stock", "tags", "publish_time", "brand"])
    for condition in (
        v1.Condition(attribute="category", any_text=["books", "film"]),
        v1.Condition(attribute="price", range=v1.Range(max=15)),
        v1.Condition(attribute="in_stock", flag=True),
        v1.Condition(attribute="tags", any_text=["crime", "thriller"]),
        v1.Condition(attribute="publish_time", range=v1.Range(min=1_700_000_000)),
    ):
        request.filter.all_of.add().conditions.append(condition)
    found = _expected(target, request)
    assert found
    for item in found:
        assert item.attributes["category"].text in ("books", "film")
        assert item.attributes["price"].number <= 15
        assert item.attributes["in_stock"].flag
        assert {"crime", "thriller"} & set(item.attributes["tags"].texts.values)
        assert item.attributes["publish_time"].number >= 1_700_000_000


@pytest.mark.usefixtures("printed")
def test_a_second_start_builds_nothing(releases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (releases / release_name() / "release.json").stat()
    assert main(["demo", "--build-only", "--releases", str(releases)]) == 0
    assert "Built" not in capsys.readouterr().out
    assert (releases / release_name() / "release.json").stat() == before
    assert Fleet(LocalRepository(releases)).active() == release_name()


@pytest.mark.usefixtures("printed")
def test_a_demo_of_another_model_stays_and_is_not_served(releases: Path, tmp_path: Path) -> None:
    shutil.copytree(releases / release_name(), tmp_path / f"{PREFIX}00000000")
    Fleet(LocalRepository(tmp_path)).activate(f"{PREFIX}00000000")
    assert main(["demo", "--build-only", "--releases", str(tmp_path)]) == 0
    assert LocalRepository(tmp_path).names() == sorted([f"{PREFIX}00000000", release_name()])
    assert Fleet(LocalRepository(tmp_path)).active() == release_name()


@pytest.mark.usefixtures("printed")
def test_a_folder_of_real_releases_is_left_alone(
    releases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(releases / release_name(), tmp_path / "books")
    Fleet(LocalRepository(tmp_path)).activate("books")
    assert main(["demo", "--build-only", "--releases", str(tmp_path)]) == 3
    assert "another folder" in capsys.readouterr().err
    assert LocalRepository(tmp_path).names() == ["books"]
    assert Fleet(LocalRepository(tmp_path)).active() == "books"


def test_a_wrong_option_costs_no_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--listen", "nowhere", "--releases", str(tmp_path / "releases")]) == 2
    assert "HOST:PORT" in capsys.readouterr().err
    assert not (tmp_path / "releases").exists()

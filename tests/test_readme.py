"""Every command of the README is run against the demo, and prints what stands there.

Numbers may differ in their last digits, since other processors sum in other orders; a line `…` stands for any lines.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.running import PATIENCE_S, Server
from twotower_server.cli.main import main
from twotower_server.demo.release import release_name

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
# `make test` builds grpcurl here.
PATH = os.pathsep.join((str(ROOT / ".tools" / "bin"), os.environ["PATH"]))
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


def commands() -> list[tuple[str, list[str]]]:
    """The commands of all `console` blocks, with the lines that each prints."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        for text in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = text.splitlines()
            # A command goes on while a quote is open or a backslash ends its line.
            end = next(
                i
                for i in range(1, len(lines) + 1)
                if not lines[i - 1].endswith("\\") and "\n".join(lines[:i]).count("'") % 2 == 0
            )
            found.append(("\n".join(lines[:end]), lines[end:]))
    return found


COMMANDS = commands()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("readme")
    assert main(["demo", "--build-only", "--releases", str(folder / "releases")]) == 0
    command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(folder / "releases")]
    server = Server([*command, "--data", str(folder / "data"), "--listen", "localhost:0"], folder / "log", {})
    yield str(server.ready()["target"])
    server.close()


def test_there_are_the_same_four_calls_by_grpcurl_python_and_cli() -> None:
    assert len(COMMANDS) == 9
    for rpc in ("GetUserEmbedding", "GetItemEmbedding", "Score", "Recommend"):
        assert any(command.startswith("grpcurl") and command.endswith(f"/{rpc}") for command, _ in COMMANDS)
    for name in ("user", "item", "score", "recommend"):
        assert any(f"twotower query {name} " in command for command, _ in COMMANDS)


def test_the_release_is_the_demo_of_this_version() -> None:
    assert set(re.findall(r"demo-[0-9a-f]{8}", README)) == {release_name()}


@pytest.mark.parametrize(("command", "printed"), COMMANDS, ids=[f"{i}" for i in range(len(COMMANDS))])
def test_a_command_prints_what_stands_there(command: str, printed: list[str], target: str) -> None:
    if command.startswith("grpcurl") and not shutil.which("grpcurl", path=PATH):
        pytest.skip("grpcurl is not installed; `make test` builds it")
    command = command.replace("localhost:50051", target)
    if " query " in command:
        command += f" --target {target}"
    # The programs of the environment that runs the tests.
    command = re.sub(r"^\.venv/bin/twotower", f"{sys.executable} -m twotower_server.cli.main", command)
    command = re.sub(r"^\.venv/bin/python", sys.executable, command)
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, "PATH": PATH},
    )
    assert done.returncode == 0, done.stderr
    found = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
    _match(found, [line.rstrip() for line in printed if line.strip()])


def _match(found: list[str], wanted: list[str]) -> None:
    at = 0
    for i, line in enumerate(wanted):
        if line.strip() == "…":
            rest = wanted[i + 1 :]
            at = len(found) - len(rest)
            continue
        assert at < len(found), f"nothing was printed for {line!r}"
        assert NUMBER.sub("#", found[at]).split() == NUMBER.sub("#", line).split()
        for one, other in zip(NUMBER.findall(found[at]), NUMBER.findall(line), strict=True):
            assert float(one) == pytest.approx(float(other), abs=2e-3)
        at += 1
    assert at == len(found), f"also printed: {found[at:]}"

"""The examples of docs/live-changes.md, run one after the other against the demo, print what stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.running import PATIENCE_S, Server
from twotower_server.cli.main import main

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "live-changes.md").read_text("utf-8")
PATH = os.pathsep.join((str(ROOT / ".tools" / "bin"), os.environ["PATH"]))
CONSOLE = re.findall(r"^```console\n\$ (.*?/\w+)\n(.*?)^```$", DOCUMENT, re.M | re.S)
(PYTHON,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.M | re.S)
FLOAT = re.compile(r"\d+\.\d+")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("live-changes")
    assert main(["demo", "--build-only", "--releases", str(folder / "releases")]) == 0
    command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(folder / "releases")]
    server = Server([*command, "--data", str(folder / "data"), "--listen", "localhost:0"], folder / "log", {})
    yield str(server.ready()["target"])
    server.close()


def test_every_command_prints_what_stands_there(target: str) -> None:
    if not shutil.which("grpcurl", path=PATH):
        pytest.skip("grpcurl is not installed; `make test` builds it")
    assert len(CONSOLE) == 4
    for command, printed in CONSOLE:
        done = subprocess.run(
            ["bash", "-c", command.replace("localhost:50051", target)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            env={**os.environ, "PATH": PATH},
        )
        assert done.returncode == 0, done.stderr
        # Other processors sum in other orders.
        assert FLOAT.sub("#", done.stdout) == FLOAT.sub("#", printed)
        found = [float(number) for number in FLOAT.findall(done.stdout)]
        assert found == pytest.approx([float(number) for number in FLOAT.findall(printed)], abs=2e-3)


def test_the_python_example_prints_what_its_comments_say(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(PYTHON.replace("localhost:50051", target), "live-changes.md", "exec"), {})
    said = re.findall(r"\)  # (.*)$", PYTHON, re.M)
    assert capsys.readouterr().out.splitlines() == said == ["0 missing", "2 missing"]

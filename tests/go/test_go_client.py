"""The tests of the Go client that need a server, against a real one of two releases and two workers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.running import Server

MODULE = Path(__file__).parents[2] / "clients" / "go"


@pytest.fixture(scope="module")
def target(releases: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own: its tests switch releases and change the catalog."""
    folder = tmp_path_factory.mktemp("go-client")
    own = folder / "releases"
    own.mkdir()
    for name in ("dot", "cosine"):
        (own / name).symlink_to(releases / name)
    (own / "active").write_text("dot\n")
    command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(own), "--data", str(folder / "data")]
    server = Server([*command, "--listen", "localhost:0", "--workers", "2"], folder / "log", {})
    try:
        yield str(server.ready()["target"])
    finally:
        server.close()


def test_the_go_client_passes_its_tests_against_a_real_server(target: str) -> None:
    go = shutil.which(os.environ.get("GO", "go"))
    if go is None:
        pytest.fail("no Go toolchain found: run the tests by `make test`, which installs one, or set GO to its path")
    done = subprocess.run(
        [go, "test", "-count=1", "-v", "-run", "^(Test|Example)", "./twotower"],
        cwd=MODULE,
        env={**os.environ, "TWOTOWER_TEST_TARGET": target},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
    assert not re.findall(r"^--- SKIP", done.stdout, re.MULTILINE)
    assert len(re.findall(r"^--- PASS", done.stdout, re.MULTILINE)) > 60

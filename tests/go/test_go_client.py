"""The tests of the Go client that need a server, against a real one."""

from __future__ import annotations

import os
import re
import subprocess

from tests.go.conftest import MODULE, Switchable


def test_the_go_client_passes_its_tests_against_a_real_server(go: str, switchable: Switchable) -> None:
    done = subprocess.run(
        [go, "test", "-count=1", "-v", "./twotower"],
        cwd=MODULE,
        env={**os.environ, "TWOTOWER_TEST_TARGET": switchable.target},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
    assert not re.findall(r"^--- SKIP", done.stdout, re.MULTILINE)
    assert len(re.findall(r"^--- PASS", done.stdout, re.MULTILINE)) > 60

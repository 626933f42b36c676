"""The Go load generator, which ends at the first call that fails, while workers of the server are killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

from tests.go.conftest import MODULE, Switchable
from tests.supervisor.running import until

KILLS = 3


def test_no_call_fails_while_workers_are_killed(go: str, switchable: Switchable, tmp_path: Path) -> None:
    program = tmp_path / "loadtest"
    subprocess.run([go, "build", "-o", str(program), "./internal/loadtest"], cwd=MODULE, check=True)
    rounds = KILLS + 1
    command = [str(program), "-target", switchable.target, "-callers", "32", "-rounds", f"{rounds}", "-duration", "1s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as load:
        assert load.stdout is not None
        for kill in range(KILLS):
            assert load.stdout.readline() == f"32 callers, round {kill + 1} of {rounds}\n"
            # The other worker serves: two have begun, and one for each that was killed.
            until(lambda begun=2 + kill: len(_ready(switchable)) == begun)  # type: ignore[misc]
            os.kill(int(dict(_ready(switchable))[str(kill % 2)]), signal.SIGKILL)
        said, _ = load.communicate(timeout=300)
    assert load.returncode == 0, said
    for kind in ("single calls", "coalesced", "coalesced, dense"):
        assert re.search(rf"^32 +{kind} +[1-9]\d*", said, re.MULTILINE), said
    assert switchable.server.log().count("was killed by SIGKILL") == KILLS


def _ready(switchable: Switchable) -> list[tuple[str, str]]:
    """Number and process id of each worker that became ready, the last one of a number last."""
    return re.findall(r"worker (\d) is ready \(process (\d+)\)", switchable.server.log())

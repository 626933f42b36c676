"""The folder that the processes of a server share: it goes with the server, however that ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.supervisor.running import PATIENCE_S
from twotower_server.supervisor.folder import server_folder

HOLDER = """\
import sys
from pathlib import Path
from twotower_server.supervisor.folder import server_folder
with server_folder(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


def folders(data: Path) -> list[str]:
    return sorted(path.name for path in (data / "servers").glob("[!.]*"))


def test_it_lives_as_long_as_the_server(tmp_path: Path) -> None:
    with server_folder(tmp_path) as first, server_folder(tmp_path) as second:
        assert folders(tmp_path) == sorted((first.name, second.name)), "one does not sweep away the other's"
    assert folders(tmp_path) == []


def test_the_folder_of_a_killed_server_is_swept_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        held = Path(holder.stdout.readline().strip())
        with server_folder(tmp_path):
            assert held.is_dir()
        holder.send_signal(signal.SIGKILL)
        holder.wait(PATIENCE_S)
    assert held.is_dir()
    with server_folder(tmp_path) as own:
        assert folders(tmp_path) == [own.name]


def test_what_was_killed_before_it_had_a_lock_is_swept_too(tmp_path: Path) -> None:
    with server_folder(tmp_path) as own:
        half_made = own.with_name("half-made")
        half_made.mkdir()
        (half_made / "page").touch()

    with server_folder(tmp_path) as own:
        assert folders(tmp_path) == [own.name]

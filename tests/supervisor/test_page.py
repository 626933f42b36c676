"""The generation page: a store in one process is what another reads next."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from twotower_server.supervisor.page import Page

READER = """\
import sys
from pathlib import Path
from twotower_server.supervisor.page import Page
page = Page(Path(sys.argv[1]))
for _ in sys.stdin:
    print(page.current, page.next, flush=True)
"""


def test_another_process_reads_what_was_stored_last(tmp_path: Path) -> None:
    page = Page(tmp_path / "page", create=True)
    command = [sys.executable, "-c", READER, str(tmp_path / "page")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None and reader.stdout is not None

        def seen() -> str:
            reader.stdin.write("?\n")  # type: ignore[union-attr]
            reader.stdin.flush()  # type: ignore[union-attr]
            return reader.stdout.readline()  # type: ignore[union-attr]

        assert seen() == "0 0\n"
        for number in (1, 2, 2**33, 2**64 - 1):
            page.next = number
            assert seen().split()[1] == str(number)
            page.current = number
            assert seen() == f"{number} {number}\n"
        reader.stdin.close()


def test_it_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Page(tmp_path / "page")


def test_a_page_made_anew_begins_at_nothing(tmp_path: Path) -> None:
    Page(tmp_path / "page", create=True).current = 7
    assert Page(tmp_path / "page", create=True).current == 0


def test_its_bytes_are_on_the_disk_before_they_are_mapped(tmp_path: Path) -> None:
    Page(tmp_path / "page", create=True)
    # A store into a hole of a file on a full disk would end the process.
    assert (tmp_path / "page").stat().st_blocks > 0

"""Every command of docs/releases.md is run, in its order, and prints what stands there.

Times, dates and sizes may differ, numbers in their last digits; a line `…` stands for any lines.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.object_store import BUCKET, object_store
from tests.supervisor.running import PATIENCE_S, Server
from twotower_server.demo.generate import generate_catalog
from twotower_server.demo.release import MODEL_FOLDER
from twotower_server.release.build import Recipe, build_release

DOCUMENT = (Path(__file__).parents[2] / "docs" / "releases.md").read_text("utf-8")
SERVER = "shop-1-50051"
# What differs from run to run, and from machine to machine.
CHANGING = (
    (re.compile(r"\d{4}-\d\d-\d\d(T[\d:.]+\+00:00)?"), "DATE"),
    (re.compile(r"\d+\.\d\d s\b"), "TIME"),
    (re.compile(r"\d+(\.\d+)? [kM]B\b"), "SIZE"),
)
NUMBER = re.compile(r"-?\d+\.\d+")


def blocks() -> list[tuple[str, str]]:
    """The commands of all `console` blocks, with what each prints."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL):
        for text in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            split = re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*\n)(.*)", text, re.DOTALL)
            assert split is not None
            found.append((split[1].replace("\\\n", " ").strip(), split[2]))
    return found


def write_shop(folder: Path) -> None:
    """The demo's model, and its catalog on two days: on Tuesday films are on sale, some items are new, some gone."""
    shutil.copytree(MODEL_FOLDER, folder / "model")
    items = generate_catalog().table
    pq.write_table(items.slice(0, 9_950), folder / "monday.parquet")
    items = items.slice(40)
    price = items["item_price"]
    sale = pc.if_else(pc.equal(items["item_category"], "film"), pc.round(pc.multiply(price, 0.5), 2), price)
    items = items.set_column(items.schema.get_field_index("item_price"), "item_price", sale)
    pq.write_table(items, folder / "tuesday.parquet")
    pq.write_table(items.slice(0, 9_000), folder / "sunday.parquet")
    build_release(Recipe("sunday", folder / "model", folder / "sunday.parquet"), folder / "releases")


class Shell:
    """Runs commands one after the other, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        self._environ = {**os.environ, "PATH": programs, "TWOTOWER_DATA": str(folder / "data")}
        self._server: Server | None = None
        self._port = ""

    def run(self, command: str) -> str:
        """What the command prints, with the name of the document's server."""
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self._environ[name] = value
            return ""
        if command.startswith("twotower serve "):
            return self._serve()
        done = subprocess.run(
            ["bash", "-c", command.replace("localhost:50051", f"localhost:{self._port}")],
            cwd=self._folder,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.replace(f"{socket.gethostname()}-{self._port}", SERVER)

    def _serve(self) -> str:
        command = ["-m", "twotower_server.cli.main", "serve", "--listen", "localhost:0"]
        environ = {**self._environ, "TWOTOWER_RELEASES": str(self._folder / "releases")}
        self._server = Server(command, self._folder / "log", environ)
        ready = self._server.ready()
        self._port = str(ready["port"])
        return f'{{"event": "serving", "release": "{ready["release"]}", "target": "localhost:50051", "port": 50051}}\n'

    def close(self) -> None:
        if self._server is not None:
            self._server.close()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    write_shop(tmp_path)
    with object_store():
        shell = Shell(tmp_path)
        yield shell
        shell.close()


def lines(text: str) -> list[str]:
    """What is there to compare, line by line: spaces and rules of tables depend on the widths of names."""
    for pattern, word in CHANGING:
        text = pattern.sub(word, text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip("─ ")]


def same(found: str, wanted: str) -> bool:
    numbers = list(zip(NUMBER.findall(found), NUMBER.findall(wanted), strict=False))
    return NUMBER.sub("#", found) == NUMBER.sub("#", wanted) and all(
        float(one) == pytest.approx(float(other), abs=2.0 if "%" in found else 2e-3) for one, other in numbers
    )


def test_the_commands_print_what_stands_there(shell: Shell) -> None:
    commands = blocks()
    assert len(commands) > 15
    assert f"s3://{BUCKET}/releases" in DOCUMENT
    for command, printed in commands:
        found, wanted = lines(shell.run(command)), lines(printed)
        if "…" in wanted:
            at = wanted.index("…")
            found = [*found[:at], "…", *found[len(found) - (len(wanted) - at - 1) :]]
        assert len(found) == len(wanted), f"{command} printed {found}"
        for one, other in zip(found, wanted, strict=True):
            assert same(one, other), f"{command} printed {one!r}, not {other!r}"

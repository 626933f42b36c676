"""Builds that are killed, that meet, or that find no room: a release is whole or absent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.model_folder import item_table
from tests.release.conftest import Build
from tests.supervisor.running import PATIENCE_S, until
from twotower_server import durable
from twotower_server.cli.exit_code import ExitCode
from twotower_server.errors import ReleaseRefused, TwoTowerError
from twotower_server.release.repository import LocalRepository
from twotower_server.release.verify import verify_release

KILLED_BUILD = Path(__file__).with_name("killed_build.py")
MAIN = ("-m", "twotower_server.cli.main")


def arguments(name: str, model: Path, items: Path, own: Path) -> list[str]:
    options = {"--name": name, "--model": model, "--items": items, "--releases": own}
    return ["release", "build", *(str(part) for option in options.items() for part in option)]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "releases"


@pytest.fixture
def many_items(tmp_path: Path) -> Path:
    """A table that takes seconds to build from."""
    pq.write_table(item_table(30_000), tmp_path / "many.parquet")
    return tmp_path / "many.parquet"


def test_killed_at_any_step_it_leaves_no_release_and_the_next_build_sweeps(
    model: Path, items: Path, own: Path, build: Build
) -> None:
    whole = run(str(KILLED_BUILD), "0", *arguments("whole", model, items, own))
    assert whole.returncode == 0, whole.stderr
    steps = [line.removeprefix("step: ") for line in whole.stdout.splitlines() if line.startswith("step: ")]
    assert steps[0] == "open ~building-whole.lock"
    assert steps[-2:] == ["os.rename ~building-whole", "os.remove ~building-whole.lock"]
    # Some from the beginning to the end, and the last ones, where it gets its name.
    chosen = sorted({*range(1, len(steps), 5), len(steps) - 1, len(steps)})
    for step in chosen:
        name = f"killed-{step:02}"
        killed = run(str(KILLED_BUILD), str(step), *arguments(name, model, items, own))
        assert killed.returncode == -signal.SIGKILL, steps[step - 1]
        left = {path.name for path in own.iterdir()} - {"whole"}
        if step == len(steps):
            assert left == {name, f"~building-{name}.lock"}, "renamed: from here on it is there"
            verify_release(own / name)
        else:
            # Of all the builds that were killed before, nothing is left.
            assert left <= {f"~building-{name}", f"~building-{name}.lock"}, steps[step - 1]
            assert LocalRepository(own).names() == ["whole"]
    build(items, "after")
    assert sorted(os.listdir(own)) == sorted(["after", "whole", f"killed-{len(steps):02}"])


@pytest.fixture
def building(model: Path, many_items: Path, own: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A build of `r1` in a process of its own, in the midst of its items."""
    command = [sys.executable, *MAIN, *arguments("r1", model, many_items, own)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until((own / "~building-r1" / "items.spool").exists)
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE_S)


def test_killed_from_outside_it_leaves_no_release_and_its_name_is_free(
    building: subprocess.Popen[bytes], items: Path, own: Path, build: Build
) -> None:
    building.kill()
    assert building.wait(PATIENCE_S) == -signal.SIGKILL
    assert LocalRepository(own).names() == []
    assert sorted(os.listdir(own)) == ["~building-r1", "~building-r1.lock"]
    verify_release(build(items))
    assert os.listdir(own) == ["r1"]


def test_interrupted_it_leaves_nothing_at_all(building: subprocess.Popen[bytes], own: Path) -> None:
    building.send_signal(signal.SIGINT)
    assert building.wait(PATIENCE_S) == ExitCode.INTERRUPTED
    assert os.listdir(own) == []


def test_a_build_leaves_the_others_alone(
    building: subprocess.Popen[bytes], items: Path, own: Path, build: Build
) -> None:
    with pytest.raises(
        ReleaseRefused, match=r"another process is building the release r1 in .*; wait for it, or choose"
    ):
        build(items)
    verify_release(build(items, "r2"))
    assert (own / "~building-r1" / "items.spool").exists()
    assert building.wait(PATIENCE_S) == 0
    assert sorted(os.listdir(own)) == ["r1", "r2"]
    with pytest.raises(ReleaseRefused, match="has a release r1 already"):
        build(items)


def test_of_two_builds_of_one_name_at_the_same_moment_one_wins(model: Path, items: Path, own: Path) -> None:
    command = [sys.executable, *MAIN, *arguments("r1", model, items, own)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE_S)[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [ExitCode.OK, ExitCode.RELEASE_REFUSED], said
    refusal = said[codes.index(ExitCode.RELEASE_REFUSED)]
    assert "another process is building the release r1" in refusal or "has a release r1 already" in refusal
    assert "Traceback" not in refusal
    assert os.listdir(own) == ["r1"]
    verify_release(own / "r1")


# Runs a command, or a piece of code, where no file may grow beyond so many bytes.
LIMITED = """\
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
"""


@pytest.mark.parametrize("size_bytes", [0, 5_000, 9_700, 15_000, 100_000])
def test_a_full_disk_is_said_and_leaves_nothing(model: Path, items: Path, own: Path, size_bytes: int) -> None:
    code = LIMITED + "from twotower_server.cli.main import main; sys.exit(main(sys.argv[2:]))"
    failed = run("-c", code, str(size_bytes), *arguments("r1", model, items, own), "--attribute", "title")
    assert failed.returncode == ExitCode.FAILED, failed.stderr
    assert f"twotower release: the release r1 cannot be written to {own}: File too large; nothing of" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert os.listdir(own) == []


def test_an_index_on_a_full_disk_is_an_error(tmp_path: Path) -> None:
    # Faiss's own writer takes no notice when it is the last piece that finds no room.
    code = f"""{LIMITED}
import numpy as np
from pathlib import Path
from twotower_server.index.faiss import build_index
try:
    build_index(np.eye(8, dtype=np.float32), Path(sys.argv[2]), kind=sys.argv[3])
except OSError as error:
    print(error.strerror)
"""
    for kind in ("exact", "ivf_sq8"):
        assert run("-c", code, "20", str(tmp_path / "index.faiss"), kind).stdout == "File too large\n"


def test_a_folder_that_cannot_be_written_is_said(build: Build, items: Path, tmp_path: Path) -> None:
    (tmp_path / "releases").write_text("a file")
    with pytest.raises(
        TwoTowerError, match=r"the release r1 cannot be written to .*releases: Not a directory; nothing"
    ):
        build(items)


def test_locks_and_folders_without_their_other_half_are_swept(build: Build, items: Path, own: Path) -> None:
    own.mkdir()
    (own / "~building-a.lock").touch()
    (own / "~building-b").mkdir()
    (own / "~building-b" / "vectors.npy").touch()
    build(items)
    assert os.listdir(own) == ["r1"]


def test_a_folder_is_fsynced_whole_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def record_fsync(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def record_rename(source: Path, target: Path) -> None:
        done.append(f"rename to {Path(target).name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "rename", record_rename)
    with durable.new_folder(tmp_path / "new") as folder:
        (folder / "one").write_text("1")
        (folder / "two").write_text("2")
    assert sorted(done[:2]) == ["one", "two"]
    assert done[2:] == ["~building-new", "rename to new", tmp_path.name]


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    durable.write_text(tmp_path / "active", "old\n")

    def fail(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no room"):
        durable.write_text(tmp_path / "active", "new\n")
    assert (tmp_path / "active").read_text() == "old\n"
    assert os.listdir(tmp_path) == ["active"]

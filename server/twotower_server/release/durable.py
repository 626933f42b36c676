"""Files that are whole or absent, whatever happens to the process or the machine."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# `~` cannot be in a release's name, so what is unfinished can never be opened as a release.
_UNFINISHED = "~building-"
_LOCK = ".lock"


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under `path`, complete and fsynced, when the block ends; if it does not end, never.

    Raises FileExistsError when `path` exists. Remains of killed processes are removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    if path.exists():
        raise FileExistsError(path)
    unfinished = path.parent / f"{_UNFINISHED}{path.name}-{secrets.token_hex(4)}"
    # Locked before the folder exists, so whoever sees the folder without a held lock knows that its maker is gone.
    lock_path = unfinished.with_name(unfinished.name + _LOCK)
    with lock_path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            unfinished.mkdir()
            yield unfinished
            for file in unfinished.iterdir():
                _fsync(file)
            _fsync(unfinished)
            os.rename(unfinished, path)  # fails when somebody else was first: a release is never empty
            _fsync(path.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
            lock_path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replaces a small file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"~{path.name}-{secrets.token_hex(4)}")
    try:
        temporary.write_text(text, "utf-8")
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(parent: Path) -> None:
    """Removes unfinished folders whose maker is gone: the lock of a living one cannot be had."""
    for folder in parent.glob(f"{_UNFINISHED}*/"):
        lock_path = folder.with_name(folder.name + _LOCK)
        try:
            with lock_path.open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                lock_path.unlink(missing_ok=True)
        except OSError:
            continue

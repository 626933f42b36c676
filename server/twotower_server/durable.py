"""Files that are whole or absent, whatever happens to the process or the machine."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# `~` cannot be in a release's name, so what is unfinished can never be opened as a release.
_UNFINISHED = "~building-"
_REMOVED = "~removed-"
_LOCK = ".lock"


class BeingWritten(FileExistsError):
    """Another process is writing the folder."""


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under `path`, complete and fsynced, when the block ends; if it does not end, never.

    Raises FileExistsError when `path` exists, BeingWritten when another process makes it, another OSError when it
    cannot be written. Remains of killed processes are removed first.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # it is a file
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent)) from None
    for remains in {found.name.removesuffix(_LOCK) for found in path.parent.glob(f"{_UNFINISHED}*")}:
        with suppress(OSError), _locked(path.with_name(remains)):
            pass
    with _locked(path.with_name(_UNFINISHED + path.name)) as unfinished:
        if path.exists():
            raise FileExistsError(path)
        unfinished.mkdir()
        yield unfinished
        for file in unfinished.iterdir():
            fsync(file)
        fsync(unfinished)
        os.rename(unfinished, path)
        fsync(path.parent)


def remove_folder(path: Path) -> None:
    """Removes a folder, or a link to one: from its name in one step, so that no part of it is ever found there.

    Raises FileNotFoundError when there is none. Remains of killed processes are removed first.
    """
    for remains in path.parent.glob(f"{_REMOVED}*"):
        shutil.rmtree(remains, ignore_errors=True)
    removed = path.with_name(f"{_REMOVED}{path.name}-{secrets.token_hex(4)}")
    os.rename(path, removed)
    fsync(path.parent)
    if removed.is_symlink():
        removed.unlink()
    else:
        shutil.rmtree(removed)


def write_text(path: Path, text: str) -> None:
    """Replaces a small file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"~{path.name}-{secrets.token_hex(4)}")
    try:
        temporary.write_text(text, "utf-8")
        fsync(temporary)
        os.replace(temporary, path)
        fsync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """The name of a folder that nobody else may make meanwhile; it is absent when the block begins and ends.

    The lock of a process that was killed is free, so what it has left is removed here, too.
    """
    lock_path = folder.with_name(folder.name + _LOCK)
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held the lock until just now has removed the file: a third process may lock a new one.
            mine = os.path.samestat(os.fstat(lock.fileno()), lock_path.stat())
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            raise BeingWritten(folder)
        try:
            _remove(folder)
            yield folder
        finally:
            _remove(folder)
            lock_path.unlink()


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def fsync(path: Path) -> None:
    """Has the disk keep a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

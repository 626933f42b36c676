"""The folders of one server on its machine.

One is shared by its processes (page, board, generations) and lives as long as the server. The other holds the log of
changes of the catalog, and outlives it: a server that starts again goes on with it, and no two servers may write it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from twotower_server.errors import TwoTowerError

_LOCK = "lock"


@contextmanager
def server_folder(data: Path) -> Iterator[Path]:
    """A new folder under the machine's own one. Raises TwoTowerError when that cannot be written.

    What a server that was killed has left is removed: nobody holds its lock.
    """
    try:
        servers = data / "servers"
        servers.mkdir(parents=True, exist_ok=True)
        with _locked(servers / f".{_LOCK}"):  # or another server would sweep a folder before it is locked
            for remains in servers.glob("[!.]*"):
                _sweep(remains / _LOCK)
            folder = Path(tempfile.mkdtemp(dir=servers))
            lock = _locked(folder / _LOCK)
    except OSError as error:
        raise TwoTowerError(f"cannot write to {data}: {error.strerror}; name another folder by --data") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


@contextmanager
def catalog_folder(data: Path, releases: str, shared: str = "") -> Iterator[Path]:
    """The folder of the log for one place of releases, a folder or a URL, however it is written.

    shared: what names the log in Redis that this is a copy of; "" = it is the log itself.

    Raises TwoTowerError when another server has it.
    """
    place = releases if "://" in releases else os.path.abspath(releases)
    named = f"{place}\n{shared}" if shared else place
    folder = data / "catalog" / hashlib.sha256(named.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "server").open("a+")
    except OSError as error:
        raise TwoTowerError(f"cannot write to {data}: {error.strerror}; name another folder by --data") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TwoTowerError(
                f"another server keeps the item changes of {releases} in {data}; give each server a folder of its own "
                "by --data"
            ) from None
        yield folder


def _sweep(lock: Path) -> None:
    try:
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
    except (BlockingIOError, FileNotFoundError):
        return


def _locked(path: Path) -> IO[str]:
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file

"""This machine's copies of releases that are kept elsewhere, or that lack files there.

    <cache>/<hash of the manifest>/<release>/   the files, all of them
    <cache>/<hash of the manifest>/lock         locked, shared, by every process that uses them

The manifest holds the SHA-256 of every file, so its hash names the content: a copy is never of another release, also
when one was removed and another took its name.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from twotower_server import durable
from twotower_server.release.format import Manifest

_LOCK = "lock"
_LOOK_S = 0.1


class ReleaseCache:
    """Processes may share the folder. Copies that none of them uses are removed, those used longest ago first."""

    def __init__(self, folder: Path, keep: int) -> None:
        """keep: copies that stay beside those in use."""
        self._folder = folder
        self._keep = keep
        self._used: dict[Path, IO[str]] = {}  # the locks that this process holds, by copy

    def copy_of(self, manifest: Manifest) -> Path:
        """Where the copy of a release is, or would be."""
        digest: str = manifest.to_json()["sha256"]
        return self._folder / digest[:16] / manifest.release

    def keep(self, manifest: Manifest) -> Path:
        """The copy of a release, absent or not; it is in use from now on."""
        copy = self.copy_of(manifest)
        self._lock(copy)
        return copy

    def fetch(self, manifest: Manifest, write: Callable[[Path], None]) -> Path:
        """The copy of a release, made where it is absent; it is in use from now on.

        write: writes all its files into a new folder. Killed, it leaves nothing under the copy's name. When another
        process is making the copy, waits for that.
        """
        copy = self.keep(manifest)
        while not copy.exists():
            try:
                with durable.new_folder(copy) as new:
                    write(new)
            except durable.BeingWritten:
                time.sleep(_LOOK_S)
            except FileExistsError:  # made by another process just now
                break
        self._prune()
        return copy

    def use(self, releases: Collection[str]) -> None:
        """Frees the copies of all other releases."""
        for copy in [copy for copy in self._used if copy.name not in releases]:
            with self._used.pop(copy) as lock:
                _touch(lock)

    def _lock(self, copy: Path) -> None:
        if copy in self._used:
            return
        with self._exclusive():
            copy.parent.mkdir(exist_ok=True)
            lock = (copy.parent / _LOCK).open("w")
            _touch(lock)
            fcntl.flock(lock, fcntl.LOCK_SH)
        self._used[copy] = lock

    def _prune(self) -> None:
        """Removes copies that nobody uses, beyond those to keep."""
        with self._exclusive():
            free = []
            for path in self._folder.glob(f"*/{_LOCK}"):
                with path.open("r+") as lock, suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    free.append(path)
            free.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
            for path in free[self._keep :]:
                shutil.rmtree(path.parent)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keeps other processes from beginning to use a copy, or from removing one, meanwhile."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _touch(lock: IO[str]) -> None:
    """Says that a copy is used now. The kernel's own time stamps tell moments apart by milliseconds only."""
    now = time.time_ns()
    os.utime(lock.fileno(), ns=(now, now))

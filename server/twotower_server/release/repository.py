"""Where releases are kept: folders of files, and beside them a few small texts that say what is to be served.

This is all that the fleet and the switch know of the place, so that it can be a folder or an object store.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from twotower_server.errors import ReleaseRefused
from twotower_server.release import durable
from twotower_server.release.format import MANIFEST, check_name


class Repository(Protocol):
    """A place of releases. Methods may take long: call them outside of event loops. They raise OSError."""

    def names(self) -> list[str]:
        """Names of the releases, sorted."""

    def local(self, release: str) -> Path:
        """The release's folder on this machine, fetched where it is elsewhere. Raises ReleaseRefused when absent."""

    def read(self, name: str) -> str | None:
        """A small text; None when there is none."""

    def write(self, name: str, text: str) -> None:
        """Replaces a small text in one step."""

    def remove(self, name: str) -> None:
        """Removes a small text, if there is one."""

    def listed(self, folder: str) -> list[str]:
        """Names of the small texts in a folder."""

    def locked(self) -> AbstractContextManager[None]:
        """Keeps others from changing what is active meanwhile, where the place can."""


class LocalRepository:
    """A folder on this machine, or one that machines share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def names(self) -> list[str]:
        # `~` begins what is not finished, and what is no release.
        found = [path.parent.name for path in self.folder.glob(f"*/{MANIFEST}")]
        return sorted(name for name in found if not name.startswith("~"))

    def local(self, release: str) -> Path:
        folder = self.folder / check_name(release)
        if not (folder / MANIFEST).is_file():
            raise ReleaseRefused(f"{self} has no release {release}; it has {', '.join(self.names()) or 'none'}")
        return folder

    def read(self, name: str) -> str | None:
        try:
            return (self.folder / name).read_text("utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            raise ReleaseRefused(f"{self.folder / name} is not text") from None

    def write(self, name: str, text: str) -> None:
        durable.write_text(self.folder / name, text)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def listed(self, folder: str) -> list[str]:
        # A name that begins with `~` is a text that is being written.
        return sorted(path.name for path in (self.folder / folder).glob("[!~]*"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        with (self.folder / "~lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

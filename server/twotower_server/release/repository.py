"""Where releases are kept: folders of files, and beside them a few small texts that say what is to be served.

This is all that the fleet and the switch know of the place, so that it can be a folder or an object store:

    a folder        used as it is                      LocalRepository, here
    an fsspec URL   fetched to this machine's cache    FsspecRepository, in repository_fsspec
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal, Protocol

from twotower_server import durable
from twotower_server.config import ConfigError
from twotower_server.errors import ExtraMissing, ReleaseRefused
from twotower_server.release.format import MANIFEST, Manifest, check_name
from twotower_server.release.transfer import Open, copy_files

ACTIVE = "active"


class Repository(Protocol):
    """A place of releases. Methods may take long: call them outside of event loops. They raise OSError."""

    def names(self) -> list[str]:
        """Names of the releases, sorted."""

    def local(self, release: str) -> Path:
        """The release's folder on this machine, fetched where it is elsewhere. It stays until `use` leaves it out.

        Raises ReleaseRefused when there is none, or it is not what its manifest says.
        """

    def present(self, release: str) -> Path | None:
        """The release's folder when it is on this machine already."""

    def use(self, releases: Collection[str]) -> None:
        """Says which of the releases that `local` gave are still in use; copies of the others may go."""

    def add(self, folder: Path, on_file: Callable[[], None], without: Collection[str] = ()) -> None:
        """Copies a release from a folder of its name, each file checked; no release is there until it is whole.

        on_file: called for each file. without: large files to leave out. Raises ReleaseRefused when it is not what its
        manifest says, or another release has its name. What is there already is left as it is.
        """

    def delete(self, release: str) -> None:
        """Removes a release: first what makes it one."""

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
        folder = self.present(check_name(release))
        if folder is None:
            raise no_release(release, self.names())
        return folder

    def present(self, release: str) -> Path | None:
        folder = self.folder / release
        return folder if (folder / MANIFEST).is_file() else None

    def use(self, releases: Collection[str]) -> None:
        """Nothing was fetched, nothing goes."""

    def add(self, folder: Path, on_file: Callable[[], None], without: Collection[str] = ()) -> None:
        manifest = manifest_to_add(self, folder)
        if manifest is None:
            return
        with durable.new_folder(self.folder / manifest.release) as new:
            copy_files(manifest, opener(folder, "rb"), opener(new, "wb"), on_file, without)
            shutil.copyfile(folder / MANIFEST, new / MANIFEST)

    def delete(self, release: str) -> None:
        durable.remove_folder(self.folder / check_name(release))

    def read(self, name: str) -> str | None:
        try:
            return (self.folder / name).read_text("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError:
            raise ReleaseRefused(f"{name} is not text") from None

    def write(self, name: str, text: str) -> None:
        durable.write_text(self.folder / name, text)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def listed(self, folder: str) -> list[str]:
        # A name that begins with `~` is a text that is being written.
        return sorted(path.name for path in (self.folder / folder).glob("[!~]*") if path.is_file())

    @contextmanager
    def locked(self) -> Iterator[None]:
        with (self.folder / "~lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def open_repository(location: Path | str, data: Path, keep_fetched: int) -> Repository:
    """The repository at a folder, or at a URL of any file system of fsspec.

    data: this machine's own folder, where copies of fetched releases go. keep_fetched: so many stay beside those in
    use. Raises ReleaseRefused when there is no such folder, ConfigError for what is no such URL, ExtraMissing when it
    needs a package that is not installed, OSError.
    """
    if isinstance(location, Path):
        if not location.is_dir():
            raise ReleaseRefused(f"{location} is no folder; name the folder of releases by --releases")
        return LocalRepository(location)
    try:
        from twotower_server.release.repository_cache import ReleaseCache
        from twotower_server.release.repository_fsspec import FsspecRepository

        return FsspecRepository(location, ReleaseCache(data / "fetched", keep_fetched))
    except ImportError as error:
        raise ExtraMissing(
            f'{error}; releases at a URL need fsspec, pip install "twotower[remote]", and the package of their kind of '
            "store, such as s3fs or gcsfs"
        ) from None
    except ValueError as error:
        raise ConfigError(f"--releases: {error}; name a folder, or a URL such as s3://bucket/releases") from None


def read_manifest(repository: Repository, release: str) -> Manifest:
    """The manifest of a release, without fetching the rest. Raises ReleaseRefused."""
    return Manifest.parse(manifest_text(repository, release))


def manifest_text(repository: Repository, release: str) -> str:
    """What makes a folder a release. Raises ReleaseRefused when there is none."""
    text = repository.read(f"{check_name(release)}/{MANIFEST}")
    if text is None:
        raise no_release(release, repository.names())
    return text


def manifest_to_add(repository: Repository, folder: Path) -> Manifest | None:
    """The manifest of a release that shall be added; None when it is there already. Raises ReleaseRefused."""
    manifest = Manifest.load(folder)
    if manifest.release not in repository.names():
        return manifest
    if read_manifest(repository, manifest.release) == manifest:
        return None
    raise ReleaseRefused(
        f"{repository} has another release {manifest.release}; releases never change, build it under another name"
    )


def opener(folder: Path, mode: Literal["rb", "wb"]) -> Open:
    """Opens files of a release in a folder of this machine."""
    return lambda name: (folder / name).open(mode)


def no_release(release: str, names: Sequence[str]) -> ReleaseRefused:
    """names: those that there are."""
    return ReleaseRefused(f"there is no release {release}; there are {', '.join(names[-20:]) or 'none'}")

"""Releases at a URL: in an object store, or any other file system of fsspec.

Releases are fetched to this machine before they are used. What makes a folder there a release is its manifest, which
is written last and removed first. Object stores have no lock: of two who move the pointer at once, the last one wins.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import fsspec

from twotower_server.errors import ReleaseRefused, TwoTowerError
from twotower_server.release.format import MANIFEST, Manifest, check_name
from twotower_server.release.repository import manifest_text, manifest_to_add, opener, read_manifest
from twotower_server.release.repository_cache import ReleaseCache
from twotower_server.release.transfer import copy_files


class FsspecRepository:
    """Methods may be called from several threads."""

    def __init__(self, url: str, cache: ReleaseCache) -> None:
        """Raises ImportError when the URL needs a package that is not installed, ValueError when it is none."""
        self._name = _without_password(url)
        self._cache = cache
        self._file_system, root = fsspec.url_to_fs(url)
        self._root = root.rstrip("/")

    def __str__(self) -> str:
        return self._name

    def names(self) -> list[str]:
        with self._reaching() as files:
            found = [path.removeprefix(f"{self._root}/").split("/") for path in files.find(self._root)]
        return sorted(
            parts[0] for parts in found if len(parts) == 2 and parts[1] == MANIFEST and not parts[0].startswith("~")
        )

    def local(self, release: str) -> Path:
        text = manifest_text(self, release)
        manifest = Manifest.parse(text)
        if manifest.release != release:
            raise ReleaseRefused(f"{MANIFEST} is of release {manifest.release}, the folder is named {release}")

        def write(folder: Path) -> None:
            with self._reaching():
                copy_files(manifest, self._open(release, "rb"), opener(folder, "wb"))
            (folder / MANIFEST).write_text(text, "utf-8")

        return self._cache.fetch(manifest, write)

    def present(self, release: str) -> Path | None:
        copy = self._cache.copy_of(read_manifest(self, release))
        return copy if copy.exists() else None

    def use(self, releases: Collection[str]) -> None:
        self._cache.use(releases)

    def add(self, folder: Path, on_file: Callable[[], None], without: Collection[str] = ()) -> None:
        manifest = manifest_to_add(self, folder)
        if manifest is None:
            return
        with self._reaching() as files:
            if not files.async_impl:
                files.makedirs(self._path(manifest.release), exist_ok=True)
            copy_files(manifest, opener(folder, "rb"), self._open(manifest.release, "wb"), on_file, without)
        self.write(f"{manifest.release}/{MANIFEST}", (folder / MANIFEST).read_text("utf-8"))

    def delete(self, release: str) -> None:
        self.remove(f"{check_name(release)}/{MANIFEST}")
        with self._reaching() as files, suppress(FileNotFoundError):
            files.rm(self._path(release), recursive=True)

    def read(self, name: str) -> str | None:
        with self._reaching() as files:
            try:
                return str(files.cat_file(self._path(name)), "utf-8")
            except FileNotFoundError:
                return None
            except UnicodeDecodeError:
                raise ReleaseRefused(f"{name} is not text") from None

    def write(self, name: str, text: str) -> None:
        path = self._path(name)
        folder, _, last = path.rpartition("/")
        with self._reaching() as files:
            if files.async_impl:  # what fsspec reaches by HTTP: an object appears whole
                files.pipe_file(path, text.encode())
                return
            # A file that is being written can be read before it is whole, so it is renamed.
            files.makedirs(folder, exist_ok=True)
            files.pipe_file(temporary := f"{folder}/~{last}-{secrets.token_hex(4)}", text.encode())
            files.mv(temporary, path)

    def remove(self, name: str) -> None:
        with self._reaching() as files, suppress(FileNotFoundError):
            files.rm_file(self._path(name))

    def listed(self, folder: str) -> list[str]:
        with self._reaching() as files:
            try:
                found = files.ls(self._path(folder), detail=False)
            except FileNotFoundError:
                return []
        names = [path.rpartition("/")[2] for path in found]
        return sorted(name for name in names if name and not name.startswith("~"))

    def locked(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _open(self, release: str, mode: str) -> Callable[[str], AbstractContextManager[BinaryIO]]:
        return lambda name: self._file_system.open(self._path(f"{release}/{name}"), mode)

    @contextmanager
    def _reaching(self) -> Iterator[fsspec.AbstractFileSystem]:
        """The file system, as it is now. Whatever a driver raises becomes an OSError."""
        self._file_system.invalidate_cache()  # others write there, too
        try:
            yield self._file_system
        except (OSError, TwoTowerError):
            raise
        except Exception as error:
            raise OSError(f"{self} cannot be reached: {type(error).__name__}: {error}") from error


def _without_password(url: str) -> str:
    """A URL as it may be shown."""
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":***@") if password else url

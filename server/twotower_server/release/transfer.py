"""Copying the files of a release from place to place, each checked as it comes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import BinaryIO

from twotower_server.errors import ReleaseRefused
from twotower_server.release.format import MANIFEST, OMISSIBLE, Manifest

# Opens a file of a release by its name.
Open = Callable[[str], AbstractContextManager[BinaryIO]]

_CHUNK_BYTES = 1 << 20


def copy_files(
    manifest: Manifest,
    source: Open,
    target: Open,
    on_file: Callable[[], None] = lambda: None,
    without: Collection[str] = (),
) -> None:
    """Copies every file that the manifest names, in bounded memory; not the manifest itself.

    Large files that the source lacks are left out, and those of `without` are. on_file: called for each file.
    Raises ReleaseRefused when one is not what the manifest says, and OSError.
    """
    for name, entry in manifest.files.items():
        digest, size_bytes = hashlib.sha256(), 0
        try:
            opened = None if name in without else source(name)
        except FileNotFoundError:
            if name not in OMISSIBLE:
                raise ReleaseRefused(f"{name} is missing") from None
            opened = None
        if opened is None:
            on_file()
            continue
        with opened as read, target(name) as write:
            # One byte more than it shall have is enough to know.
            while size_bytes <= entry.size_bytes and (chunk := read.read(_CHUNK_BYTES)):
                digest.update(chunk)
                size_bytes += len(chunk)
                write.write(chunk)
        if size_bytes != entry.size_bytes:
            more = "more than " if size_bytes > entry.size_bytes else ""
            raise ReleaseRefused(
                f"{name} has {more}{min(size_bytes, entry.size_bytes)} bytes, {MANIFEST} says {entry.size_bytes}"
            )
        if digest.hexdigest() != entry.sha256:
            raise ReleaseRefused(f"{name} has changed: its SHA-256 is not the one in {MANIFEST}")
        on_file()

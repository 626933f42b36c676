"""Stamps: "this machine has verified exactly these files", so that a worker opens a release without reading it all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from twotower_server import durable
from twotower_server.errors import TwoTowerError
from twotower_server.release.format import FILES, MANIFEST, lacking


def is_stamped(release: Path, data: Path) -> bool:
    """True when the release was verified on this machine and no file of it has changed since."""
    try:
        stamp = json.loads(_path(release, data).read_text("utf-8"))
        return bool(stamp == _identity(release))
    except (OSError, ValueError):
        return False


def write_stamp(release: Path, data: Path) -> None:
    """Records that the release, as it is now, has been verified. `data` is the machine's own folder.

    Raises TwoTowerError when it cannot be written.
    """
    try:
        durable.write_text(_path(release, data), json.dumps(_identity(release), indent=1) + "\n")
    except OSError as error:
        raise TwoTowerError(f"cannot write to {data}: {error.strerror}; name another folder by --data") from error


def remove_stamp(release: Path, data: Path) -> None:
    """Forgets that a folder was verified which is there no more."""
    _path(release, data).unlink(missing_ok=True)


def _path(release: Path, data: Path) -> Path:
    place = hashlib.sha256(str(release.resolve()).encode()).hexdigest()[:16]
    return data / "verified" / f"{release.name}-{place}.json"


def _identity(release: Path) -> dict[str, object]:
    """What cannot stay equal when a file changes: the manifest's hash; inode, size and mtime of the others."""
    files = {}
    lacks = lacking(release)
    for name in FILES:
        if name not in lacks:
            stat = (release / name).stat()
            files[name] = [stat.st_ino, stat.st_size, stat.st_mtime_ns]
    return {"manifest": hashlib.sha256((release / MANIFEST).read_bytes()).hexdigest(), "files": files}

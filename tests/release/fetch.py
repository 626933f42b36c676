"""Fetches a release as a server does, in a process that a test may kill: fetch.py URL DATA RELEASE.

A URL of `slow://` is one of `file://` whose last file comes only when a file `go` lies beside the releases.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from twotower_server.release.format import FILES
from twotower_server.release.repository import open_repository


class SlowFileSystem(LocalFileSystem):  # type: ignore[misc]
    protocol = "slow"

    def _open(self, path: str, *arguments: Any, **options: Any) -> Any:
        while path.endswith(FILES[-1]) and not (Path(path).parents[1] / "go").exists():
            time.sleep(0.02)
        return super()._open(path, *arguments, **options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("slow://")))


if __name__ == "__main__":
    fsspec.register_implementation("slow", SlowFileSystem)
    url, data, release = sys.argv[1:]
    repository = open_repository(url, Path(data), keep_fetched=0)
    print(repository.local(release), flush=True)
    sys.stdin.readline()  # in use until then

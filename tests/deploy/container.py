"""As much of a container as Linux gives without Docker: own mounts, own processes, another user, read-only files.

The machine's /usr stands in for that of the base image, and the Python that runs the tests for its Python.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# At its own path, for libraries that it finds by that.
PYTHON = sys.base_prefix
# What programs of the base image need; each is a folder or a link into /usr.
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib64", "etc")


@dataclass(frozen=True, slots=True)
class Container:
    """root: its files. volumes: writable folders of this machine by their path inside. user: id of user and group."""

    root: Path
    volumes: Mapping[str, Path]
    user: int = 0
    read_only: bool = False

    def command(self, arguments: Sequence[str], environ: Mapping[str, str], folder: str = "/") -> list[str]:
        """What runs `arguments` as process 1 in `folder` of a container, with `environ` alone. Needs root."""
        root = shlex.quote(str(self.root))
        steps = [f"mount --bind {root} {root}"]
        for name in _SYSTEM:
            if Path("/", name).is_symlink():
                steps.append(f"ln -sfn {os.readlink(Path('/', name))} {root}/{name}")
            elif Path("/", name).exists():
                steps += self._bind(f"/{name}", name, writable=False)
        steps += self._bind("/dev", "dev", writable=True)
        if not PYTHON.startswith("/usr"):
            steps += self._bind(PYTHON, PYTHON[1:], writable=False)
        steps += [
            f"mkdir -p {root}/proc {root}/tmp",
            f"mount -t proc proc {root}/proc",
            f"mount -t tmpfs tmp {root}/tmp",
        ]
        for inside, outside in self.volumes.items():
            steps += self._bind(str(outside), inside[1:], writable=True)
        if self.read_only:
            steps.append(f"mount -o remount,bind,ro {root}")
        variables = shlex.join(f"{name}={value}" for name, value in environ.items())
        inner = f"cd {shlex.quote(folder)} && exec env -i {variables} {shlex.join(arguments)}"
        steps.append(f"exec chroot --userspec={self.user}:{self.user} {root} /bin/sh -c {shlex.quote(inner)}")
        script = "set -e\n" + "\n".join(steps)
        namespaces = ("--mount", "--pid", "--fork", "--kill-child")
        return ["unshare", *namespaces, "sh", "-c", script]

    def _bind(self, outside: str, inside: str, *, writable: bool) -> list[str]:
        to = shlex.quote(str(self.root / inside))
        bind = [f"mkdir -p {to}", f"mount --bind {shlex.quote(outside)} {to}"]
        return bind if writable else [*bind, f"mount -o remount,bind,ro {to}"]

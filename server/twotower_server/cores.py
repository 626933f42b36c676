"""How many processor cores this process may use: those of its affinity, and no more than its container's quota.

https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max)
https://docs.kernel.org/scheduler/sched-bwc.html (cpu.cfs_quota_us)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable_cores(root: Path = Path("/")) -> int:
    """Whole cores, at least 1. root: where the files of the kernel are."""
    try:
        cores = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # no such thing outside Linux
        cores = float(os.cpu_count() or 1)
    return max(1, int(min(cores, *_quotas(root))))


def _quotas(root: Path) -> Iterator[float]:
    """The quota of every group that this process is in, in cores; the smallest one counts."""
    yield float("inf")
    try:
        groups = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return
    mounts = root / "sys/fs/cgroup"
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if not controllers:
            for folder in (mounts, mounts / "unified"):
                for place in _upwards(folder, path):
                    yield from _read(place / "cpu.max")
        elif "cpu" in controllers.split(","):
            for folder in (mounts / controllers, mounts / "cpu"):
                for place in _upwards(folder, path):
                    yield from _read(place / "cpu.cfs_quota_us", place / "cpu.cfs_period_us")


def _upwards(folder: Path, path: str) -> Iterator[Path]:
    """The group's folder and those around it. A container may see only the last, although it reads of the others."""
    group = PurePosixPath(path.lstrip("/"))
    for outer in (group, *group.parents):
        yield folder / outer


def _read(*files: Path) -> Iterator[float]:
    """The quota that stands in files as microseconds a period; none when there is no limit, or no such file."""
    try:
        quota, period = " ".join(file.read_text("utf-8") for file in files).split()
        cores = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # `max` is no limit, and neither is -1
        return
    if cores > 0:
        yield cores

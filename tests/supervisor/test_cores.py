"""Usable cores: of the affinity, within the quotas of every control group around the process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from twotower_server.config import load
from twotower_server.cores import usable_cores

# As Linux writes them.
V2 = "0::/kubepods/pod1/container\n"
V1 = "11:memory:/docker/c1\n5:cpu,cpuacct:/docker/c1\n4:cpuset:/docker/c1\n0::/\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a machine on which the affinity allows 8 cores, without any control group."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    return tmp_path


def belongs_to(root: Path, groups: str) -> None:
    """Says in which groups the process is."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)


def quota(root: Path, folder: str, quota_us: int) -> None:
    """Of a group of version 1."""
    place = root / "sys/fs/cgroup" / folder
    place.mkdir(parents=True, exist_ok=True)
    (place / "cpu.cfs_quota_us").write_text(f"{quota_us}\n")
    (place / "cpu.cfs_period_us").write_text("100000\n")


def test_without_control_groups_the_affinity_counts(root: Path) -> None:
    assert usable_cores(root) == 8


def test_this_machine() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000", 8),
        ("250000 100000", 2),
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("100000 50000", 2),
        ("", 8),
        ("what", 8),
        ("1 0", 8),
    ],
)
def test_the_quota_of_a_container(root: Path, text: str, cores: int) -> None:
    belongs_to(root, "0::/\n")
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "sys/fs/cgroup/cpu.max").write_text(f"{text}\n")
    assert usable_cores(root) == cores


@pytest.mark.parametrize("place", ["kubepods", "kubepods/pod1", "kubepods/pod1/container"])
def test_the_smallest_quota_of_the_groups_around_counts(root: Path, place: str) -> None:
    belongs_to(root, V2)
    for group, text in (("kubepods", "700000 100000"), ("kubepods/pod1", "max 100000"), (place, "300000 100000")):
        folder = root / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(text)
    assert usable_cores(root) == 3


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize("seen", ["docker/c1", ""])  # a container may not see where its group is
def test_version_1(root: Path, mount: str, seen: str) -> None:
    belongs_to(root, V1)
    quota(root, f"{mount}/{seen}", -1)
    assert usable_cores(root) == 8
    quota(root, f"{mount}/{seen}", 450_000)
    assert usable_cores(root) == 4
    quota(root, f"{mount}/{seen}", 1_000)
    assert usable_cores(root) == 1


def test_groups_of_other_controllers_do_not_count(root: Path) -> None:
    belongs_to(root, "4:cpuset:/\n9:name=systemd:/\n")
    quota(root, "cpuset", 100_000)
    assert usable_cores(root) == 8


def test_a_machine_that_knows_no_affinity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert usable_cores(tmp_path) == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1


@pytest.mark.parametrize("value", ["auto", " AUTO "])
def test_a_server_can_be_told_to_use_them_all(value: str) -> None:
    assert load({"releases": "r", "workers": value}, {}).workers == usable_cores()

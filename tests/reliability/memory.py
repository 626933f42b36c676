"""Memory of processes that nothing else holds: what leaks shows here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def anonymous_bytes(pids: Iterable[int]) -> int:
    """Of all the processes together. Mapped files do not count: they are shared, and can be dropped."""
    return sum(_anonymous_bytes(pid) for pid in pids)


def _anonymous_bytes(pid: int) -> int:
    found = re.search(r"^Anonymous: +(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024

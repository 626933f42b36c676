"""What the commands of `twotower release` print that change what is served, or what is there."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from twotower_server.cli.console import print_json, stdout
from twotower_server.release.fleet import Server
from twotower_server.release.prune import Fate


def show_switch(active: str, previous: str, servers: Sequence[Server], late: Sequence[str], *, as_json: bool) -> None:
    """What is active now, and who serves it. late: who does not yet."""
    if as_json:
        return print_json({"active": active, "previous": previous, **_serving(servers, late)})
    before = f"; before it was {previous}" if previous not in ("", active) else ""
    print(f"{active} is the active release now{before}")
    _show_serving(servers, late)


def show_split(
    active: str, shares: Mapping[str, float], servers: Sequence[Server], late: Sequence[str], *, as_json: bool
) -> None:
    """How the traffic is split now, and by whom. late: by whom not yet."""
    if as_json:
        return print_json({"active": active, "shares": dict(shares), **_serving(servers, late)})
    split = ", ".join(f"{share:.4g} to {name}" for name, share in shares.items())
    print(f"Traffic goes: {split or f'all to {active}'}")
    _show_serving(servers, late)


def show_fates(fates: Sequence[Fate]) -> None:
    """Every release, and what becomes of it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("release", "created", "size", "kept"):
        table.add_column(name, justify="right" if name == "size" else "left", overflow="fold")
    for fate in fates:
        created = fate.manifest.created[:10] if fate.manifest else ""
        table.add_row(fate.release, created, _size(fate.size_bytes), fate.kept or "no: it goes")
    stdout().print(table)


def show_pruned(fates: Sequence[Fate], *, removed: bool, as_json: bool) -> None:
    """What was removed, or would be."""
    going = [fate for fate in fates if not fate.kept]
    if as_json:
        kept = {fate.release: fate.kept for fate in fates if fate.kept}
        return print_json({"removed": removed, "going": [fate.release for fate in going], "kept": kept})
    if not going:
        return print("No release goes")
    size = _size(sum(fate.size_bytes for fate in going))
    names = ", ".join(fate.release for fate in going)
    print(f"Removed {names}: {size}" if removed else f"Nothing was removed; {names} would go: {size}")


def _serving(servers: Sequence[Server], late: Sequence[str]) -> dict[str, Any]:
    return {"serving": [server.name for server in servers if server.name not in late], "late": list(late)}


def _show_serving(servers: Sequence[Server], late: Sequence[str]) -> None:
    serving = _serving(servers, late)["serving"]
    if serving:
        print(f"Served by {', '.join(serving)}")
    elif not late:
        print("No server follows this place; those that start will serve it")
    if late:
        print(f"{', '.join(late)} did not follow in time; the log there says why", file=sys.stderr)


def _size(size_bytes: int) -> str:
    size, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.3g} {units[0]}"

"""Pruning: which releases nobody needs any more."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from twotower_server.errors import ReleaseRefused
from twotower_server.release.fleet import Fleet
from twotower_server.release.format import Manifest
from twotower_server.release.repository import read_manifest


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a release. kept: why it stays; "" = it goes. manifest: None when it cannot be read."""

    release: str
    manifest: Manifest | None
    kept: str

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.manifest.files.values()) if self.manifest else 0


def fates(fleet: Fleet, keep: int, older_than: datetime.timedelta) -> list[Fate]:
    """Every release, the newest first, and why it stays.

    keep: so many of the newest stay beside those that are needed. older_than: younger ones stay.
    Raises ReleaseRefused when no release is active: then nothing says which ones are needed.
    """
    needed = _needed(fleet)
    found: list[tuple[str, Manifest | None]] = []
    for name in fleet.repository.names():
        try:
            found.append((name, read_manifest(fleet.repository, name)))
        except ReleaseRefused:
            found.append((name, None))
    found.sort(key=lambda entry: (entry[1].created if entry[1] else "", entry[0]), reverse=True)
    oldest = (datetime.datetime.now(datetime.UTC) - older_than).isoformat(timespec="milliseconds")
    all_fates = []
    for name, manifest in found:
        kept = needed.get(name, "")
        if not kept and manifest is None:
            kept = "its manifest cannot be read; remove it by hand"
        elif not kept and keep > 0:
            keep -= 1
            kept = "one of the newest"
        elif not kept and manifest is not None and manifest.created > oldest:
            kept = "not old enough"
        all_fates.append(Fate(name, manifest, kept))
    return all_fates


def _needed(fleet: Fleet) -> dict[str, str]:
    """Why releases are needed, by name; the weightiest reason wins."""
    active = fleet.active()
    needed: dict[str, str] = {}
    for server in fleet.living():
        for name in server.loaded:
            needed.setdefault(name, f"loaded by {server.name}")
    if previous := fleet.previous(active):
        needed[previous] = "active before"
    needed |= dict.fromkeys(fleet.announced(), "about to serve")
    needed |= {name: f"{share:.4g} of the traffic" for name, share in fleet.shares(active).items()}
    needed[active] = "active"
    return needed

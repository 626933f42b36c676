"""What `twotower release` prints."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from twotower_server.cli.console import print_json, stdout
from twotower_server.features.schema import Feature, Schema, TowerSchema
from twotower_server.index.base import IndexEntry
from twotower_server.items.catalog import Catalog
from twotower_server.release.fleet import Server
from twotower_server.release.format import Manifest
from twotower_server.release.verify import Check

_SHOWN_VALUES = 5
_SILENT_BEATS = 5
_CLOCKS_DIFFER_S = 30.0


@dataclass(frozen=True, slots=True)
class Listed:
    """A release of a folder.

    share: of the traffic. verified: on this machine. manifest: None when refused; `refusal` says why.
    """

    release: str
    active: bool
    share: float
    verified: bool
    manifest: Manifest | None
    refusal: str = ""

    def to_json(self) -> dict[str, Any]:
        shown = {"release": self.release, "active": self.active, "share": self.share, "verified": self.verified}
        if self.manifest is None:
            return {**shown, "refusal": self.refusal}
        return {**shown, "manifest": self.manifest.to_json()}


def show_built(manifest: Manifest, releases: Path, *, active: bool, as_json: bool) -> None:
    """What was built, and what to do with it."""
    if as_json:
        return print_json(manifest.to_json())
    print(f"Built {manifest.release}: {manifest.items:,} items, index {_index(manifest.index)}")
    command = f"serve --releases {releases}" if active else f"release activate {manifest.release} --releases {releases}"
    print(f"{'Serve' if active else 'Activate'} it: twotower {command}")


def show_list(listed: Sequence[Listed], servers: Sequence[Server], place: str, *, as_json: bool) -> None:
    """The releases of a place, one a line, then what is remarkable about its servers."""
    if as_json:
        return print_json(
            {"releases": [release.to_json() for release in listed], "servers": [asdict(server) for server in servers]}
        )
    if not listed:
        return print(f"{place} has no releases; build one: twotower release build --releases {place}")
    # Most folders have no split, and many no server.
    split = any(0 < release.share < 1 for release in listed)
    columns = ["release", "state", *(["share"] if split else []), "created", "items", "index", "recall"]
    table = _table(*columns, *(["loaded by"] if servers else []))
    for release in listed:
        manifest = release.manifest
        states = {"active": release.active, "verified": release.verified, "refused": manifest is None}
        cells = [release.release, ", ".join(name for name, holds in states.items() if holds)]
        if split:
            cells.append(f"{release.share:.1%}" if release.share else "")
        if manifest is None:
            cells += [""] * 4
        else:
            index = manifest.index
            cells += [manifest.created[:10], f"{manifest.items:,}", index.kind, f"{index.recall:.3f}"]
        if servers:
            cells.append(", ".join(server.name for server in servers if release.release in server.loaded))
        table.add_row(*cells)
    stdout().print(table)
    active = next((release.release for release in listed if release.active), "")
    for line in _remarks(servers, active):
        stdout().print(line, soft_wrap=True)


def _remarks(servers: Sequence[Server], active: str) -> Iterator[str]:
    for server in servers:
        silent_s = time.time() - server.written
        if silent_s > max(_SILENT_BEATS * server.every_s, _CLOCKS_DIFFER_S):
            yield f"{server.name} has been silent for {datetime.timedelta(seconds=round(silent_s))}"
        elif server.active != active:
            yield f"{server.name} serves {server.active}"
        for release, reason in server.refused.items():
            yield f"{server.name} refuses {release}: {reason}"


def show_release(listed: Listed, schema: Schema, catalog: Catalog, *, as_json: bool) -> None:
    """Everything that a release says of itself."""
    assert listed.manifest is not None
    if as_json:
        kinds = dict(catalog.attribute_kinds)
        return print_json({**listed.to_json(), "schema": schema.to_json(), "attributes": kinds})
    out = stdout()
    for title, table in (
        ("", _facts(listed, listed.manifest)),
        (_tower_title(schema.user), _features(schema.user)),
        (_tower_title(schema.item), _features(schema.item)),
        ("attributes", _attributes(catalog)),
        ("training", _pairs(_flat(listed.manifest.training))),
        ("files", _files(listed.manifest)),
    ):
        if title:
            out.print(title)
        out.print(table if table.row_count else "  none\n")


def show_check(check: Check) -> None:
    """One thing that was verified, as soon as it was."""
    stdout().print(f"✓ {check.name:<32} {check.seconds:6.2f} s")


def show_verdict(release: str, checks: Sequence[Check], refusal: str | None, *, as_json: bool) -> None:
    """Whether the release is sound; refusal: why not."""
    if as_json:
        verdict = {"release": release, "verified": refusal is None, "checks": [asdict(check) for check in checks]}
        return print_json(verdict if refusal is None else {**verdict, "refusal": refusal})
    if refusal is not None:
        return stdout().print(f"✗ {refusal}\nrelease {release} is refused", soft_wrap=True)
    seconds = sum(check.seconds for check in checks)
    stdout().print(f"release {release} is sound ({seconds:.2f} s)")


def _facts(listed: Listed, manifest: Manifest) -> Table:
    calibration = manifest.calibration
    return _pairs(
        [
            ("release", listed.release),
            ("active", "yes" if listed.active else "no"),
            ("verified", "yes, on this machine" if listed.verified else "not yet on this machine"),
            ("created", manifest.created),
            ("items", f"{manifest.items:,}"),
            ("dimension", str(manifest.dimension)),
            ("similarity", manifest.similarity),
            ("score", f"sigmoid({calibration.scale:g} · similarity {calibration.bias:+g})"),
            ("index", _index(manifest.index)),
            ("log position", str(manifest.log_position)),
        ]
    )


def _index(index: IndexEntry) -> str:
    parameters = "".join(f", {name} {value}" for name, value in index.parameters.items())
    return f"{index.kind}{parameters}, recall@100 {index.recall:.3f}"


def _tower_title(schema: TowerSchema) -> str:
    place = "in its graph" if schema.transforms == "graph" else "by the server"
    return f"{schema.side} tower: {len(schema.features)} features, transforms {place}, schema {schema.fingerprint:016x}"


def _features(schema: TowerSchema) -> Table:
    table = _table("feature", "kind", "missing", "values")
    for feature in schema.features:
        table.add_row(feature.name, feature.kind, _missing(feature), _values(feature))
    return table


def _missing(feature: Feature) -> str:
    missing = feature.missing.rule
    return missing if missing == "marker" else f"{missing} {feature.to_json()['missing']['value']}"


def _values(feature: Feature) -> str:
    parts = []
    if feature.kind == "numeric":
        if feature.transform.type != "none":
            numbers = {name: value for name, value in feature.transform.to_json().items() if name != "type"}
            parts.append(feature.transform.type + "".join(f", {name} {value:g}" for name, value in numbers.items()))
        if feature.clip != (None, None):
            low, high = ("" if side is None else f"{side:g}" for side in feature.clip)
            parts.append(f"clip {low}..{high}")
    elif feature.vocabulary is None:
        parts.append(f"{feature.buckets} buckets")
    else:
        more = ", …" if len(feature.vocabulary) > _SHOWN_VALUES else ""
        shown = ", ".join(feature.vocabulary[:_SHOWN_VALUES])
        parts.append(f"{len(feature.vocabulary)} values: {shown}{more}")
    if feature.max_length is not None:
        parts.append(f"at most {feature.max_length}")
    return "; ".join(parts)


def _attributes(catalog: Catalog) -> Table:
    table = _table("attribute", "kind", "present")
    for name, attribute in catalog.columns.items():
        present = len(catalog) - attribute.values.null_count
        table.add_row(name, attribute.kind, f"{present / len(catalog):.1%}")
    return table


def _files(manifest: Manifest) -> Table:
    table = _table("file", "bytes", "SHA-256")
    for name, entry in manifest.files.items():
        table.add_row(name, f"{entry.size_bytes:,}", f"{entry.sha256[:16]}…")
    return table


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _pairs(pairs: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> Table:
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for name, value in pairs:
        table.add_row(name, value)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in ("items", "bytes") else "left", overflow="fold")
    return table

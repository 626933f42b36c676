"""The golden file of routing, against the server; clients/go/routing has the same test in Go."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from xxhash import xxh3_64_intdigest

from tests.go.make_routing import GOLDEN, document
from twotower import v1
from twotower_server.engine.route import Releases, position
from twotower_server.release.snapshot import Snapshot

ROUTING: dict[str, list[dict[str, Any]]] = json.loads(GOLDEN.read_text("utf-8"))


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    return Snapshot.open(GOLDEN.parent / "release-v1")


def test_the_server_has_the_positions_of_the_golden_file() -> None:
    for entry in ROUTING["positions"]:
        assert xxh3_64_intdigest(entry["key"].encode()) == int(entry["hash"])
        assert Decimal(position(entry["key"])) == Decimal(entry["position"])
        assert position(entry["key"]) == float(entry["position"])
    lengths = {len(entry["key"].encode()) for entry in ROUTING["positions"]}
    assert lengths >= set(range(301)), "every branch of XXH3-64"


@pytest.mark.parametrize("split", ROUTING["splits"], ids=lambda split: ",".join(split["shares"]))
def test_the_server_splits_as_the_golden_file_says(snapshot: Snapshot, split: Mapping[str, Any]) -> None:
    shares: dict[str, float] = split["shares"]
    loaded = {name: replace(snapshot, manifest=replace(snapshot.manifest, release=name)) for name in shares}
    releases = Releases(loaded, min(shares), shares)
    for key, release in split["arms"].items():
        assert releases.route("", user=v1.User(user_id=key)).release == release
        assert releases.route("", user=v1.User(user_id="another", routing_key=key)).release == release


def test_the_golden_file_is_what_its_maker_writes() -> None:
    assert document() == ROUTING


def test_keys_are_spread_evenly() -> None:
    """2,000 of 20,000 keys in each tenth, give or take 5 standard deviations (42 each)."""
    tenths = Counter(int(position(f"user-{number}") * 10) for number in range(20_000))
    assert all(abs(count - 2_000) < 5 * 42.5 for count in tenths.values()) and len(tenths) == 10

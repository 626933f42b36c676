"""Golden releases: one of each format version, built when it was new, which every later version must open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.model_folder import item_table
from tests.release.conftest import manifest_of
from tests.release.make_golden import GOLDEN, ITEMS
from tests.rpc.recomputed import Recomputed, item_key
from twotower_server.release.calibration import scores
from twotower_server.release.format import RELEASE_FORMAT
from twotower_server.release.golden import Golden
from twotower_server.release.snapshot import Snapshot
from twotower_server.release.verify import verify_release

# The manifest's own SHA-256, so that a golden release is not replaced by one that suits the code.
SHA256 = {
    "release-v1": "ba224378fb3645f835d0d8b6d12cd10d793693a1669cc9d781fdb68838ec535a",
}
RELEASES = sorted(GOLDEN.glob("release-v*"))

pytestmark = pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)


def test_there_is_one_of_every_version_and_it_is_the_old_one(release: Path) -> None:
    assert [path.name for path in RELEASES] == [f"release-v{version}" for version in range(1, RELEASE_FORMAT + 1)]
    manifest = manifest_of(release)
    assert f"release-v{manifest['format']}" == release.name
    assert manifest["sha256"] == SHA256[release.name]


def test_it_is_sound(release: Path) -> None:
    verify_release(release)


def test_it_gives_the_scores_that_it_gave_when_it_was_built(release: Path) -> None:
    snapshot, golden = Snapshot.open(release), Golden.load(release / "golden.json")
    users = snapshot.embed_users(snapshot.user_encoder.encode(golden.users))
    rows = snapshot.keys.rows(np.array([item_key(id) for id in golden.item_ids], np.uint64))
    assert (rows >= 0).all()
    found = scores(users @ snapshot.vectors[rows].T, snapshot.manifest.calibration)
    np.testing.assert_allclose(found, golden.scores, rtol=1e-4)


def test_it_recommends_what_it_recommended_when_it_was_built(release: Path) -> None:
    snapshot, golden, recomputed = Snapshot.open(release), Golden.load(release / "golden.json"), Recomputed(release)
    for query in golden.user_vectors:
        rows, similarities = snapshot.index.search(query, 100)
        ids = snapshot.catalog.item_ids(rows)
        assert ids == recomputed.top(query, 100)
        np.testing.assert_allclose(similarities, recomputed.similarities(query, ids), rtol=1e-5, atol=1e-6)


def test_its_items_have_the_attributes_of_their_table(release: Path) -> None:
    catalog = Snapshot.open(release).catalog
    table = {row["item_id"]: row for row in item_table(ITEMS).to_pylist()}
    rows = np.arange(len(catalog))
    ids = catalog.item_ids(rows)
    assert sorted(ids) == sorted(table)
    sources = {"title": "title", "in_stock": "in_stock", "category": "item_category"}
    sources |= {"price": "item_price", "tags": "item_tags"}
    assert dict.fromkeys(sources) == dict.fromkeys(catalog.attribute_kinds)
    for id, found in zip(ids, catalog.attributes(rows, list(sources)), strict=True):
        expected = {name: table[id][source] for name, source in sources.items()}
        assert found == {name: value for name, value in expected.items() if value is not None}

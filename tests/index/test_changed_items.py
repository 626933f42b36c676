"""Filters, exclusions and changes together: a catalog with segments of changes over it keeps count and recall."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from twotower import v1
from twotower_server.index import ivf
from twotower_server.index.faiss import build_index, open_index
from twotower_server.index.ivf import IvfSq8Index
from twotower_server.index.similarity import similarities
from twotower_server.items.attribute import TYPES, AttributeKind
from twotower_server.items.catalog import ITEM_ID, ITEM_KEY, Catalog
from twotower_server.items.ids import KeyTable, item_keys
from twotower_server.items.live import Item, Items, Segment

Vectors = NDArray[np.float32]

ITEMS = 120_000
NEW = 3_000
QUERIES = 12
K = 100
KINDS: Mapping[str, AttributeKind] = {"share": "number"}


@pytest.fixture(scope="module")
def users(manifold: Callable[[int, int], Vectors]) -> Vectors:
    return manifold(200 + QUERIES, 3)


@pytest.fixture(scope="module")
def base(manifold: Callable[[int, int], Vectors], users: Vectors, tmp_path_factory: pytest.TempPathFactory) -> Segment:
    """Items `i0` … with the attribute `share`, uniform in [0, 1)."""
    ids = np.array([f"i{i}" for i in range(ITEMS)])
    keys = item_keys(ids.tolist())
    order = np.argsort(keys)
    columns = {
        ITEM_ID: pa.array(ids[order].tolist(), TYPES["text"]),
        ITEM_KEY: pa.array(keys[order]),
        "share": pa.array(np.random.default_rng(1).random(ITEMS)),
    }
    catalog = Catalog(pa.RecordBatch.from_pydict(columns))
    vectors = manifold(ITEMS, 2)
    path = tmp_path_factory.mktemp("changed") / "index.faiss"
    index = open_index(path, vectors, build_index(vectors, path, queries=users[:200]), catalog.item_ids)
    assert isinstance(index, IvfSq8Index)
    return Segment(catalog, KeyTable(catalog.keys), vectors, index)


@pytest.mark.parametrize("share", [1.0, 0.9, 0.5, 0.1, 1e-2, 1e-3, 1e-4])
def test_filters_exclusions_and_hidden_rows_together_keep_count_and_recall(
    base: Segment, manifold: Callable[[int, int], Vectors], users: Vectors, share: float
) -> None:
    order = np.random.default_rng(6)
    filter = v1.Filter(
        all_of=[v1.AnyOf(conditions=[v1.Condition(attribute="share", range=v1.Range(max=share, max_exclusive=True))])]
    )
    recalls: dict[int, list[float]] = {}
    for i, query in enumerate(users[200:]):
        nearest = np.argsort(-similarities(base.vectors, None, query))
        # The nearest of the release are deleted, the next are replaced, all hidden; new items come in two batches.
        items = Items([base]).changed([], base.catalog.item_ids(nearest[:1_500]))
        names = [*base.catalog.item_ids(nearest[1_500:2_500]), *(f"new{n}" for n in range(NEW))]
        changes = [
            Item(name, vector, {"share": float(value)})
            for name, vector, value in zip(names, manifold(len(names), 30 + i), order.random(len(names)), strict=True)
        ]
        items = items.changed(changes[:3_000], []).changed(changes[3_000:], [])
        assert len(items.segments) == 3
        live = np.concatenate([_live(segment) for segment in items.segments])
        values = np.concatenate([similarities(segment.vectors, None, query) for segment in items.segments])
        shares = np.concatenate([segment.catalog.columns["share"].values.to_numpy() for segment in items.segments])
        eligible = live & (shares < share)
        best = np.flatnonzero(eligible)[np.argsort(-values[eligible])]
        for excluded in (0, 100, 1_000, 10_000):
            out = np.sort(best[:excluded])
            allowed = eligible.copy()
            allowed[out] = False
            rows, similar = items.search(query, K, out if excluded else None, None if share == 1.0 else filter)
            wanted = min(K, np.count_nonzero(allowed))
            assert len(rows) == len(np.unique(rows)) == wanted
            assert allowed[rows].all()
            assert (similar == values[rows]).all()
            if wanted:
                least = np.partition(values[allowed], -wanted)[-wanted]
                recalls.setdefault(excluded, []).append(float((similar >= least).mean()))
    assert all(np.mean(found) >= 0.95 for found in recalls.values()), recalls


def _live(segment: Segment) -> NDArray[np.bool_]:
    return np.ones(len(segment), np.bool_) if segment.hidden is None else ~segment.hidden


def test_a_search_around_many_hidden_rows_is_not_brief(base: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
    nearest = K
    while base.index.is_brief(nearest):
        monkeypatch.setattr(ivf, "_BRIEF_VALUES", ivf._BRIEF_VALUES * 0.9)
    monkeypatch.setattr(ivf, "_BRIEF_VALUES", ivf._BRIEF_VALUES / 0.9)
    items = Items([base])
    assert items.is_brief(nearest)
    # They are left out by a bitmap over all rows, which takes longer than a search without one.
    assert not items.changed([], base.catalog.item_ids(np.arange(1_000))).is_brief(nearest)

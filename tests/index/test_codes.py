"""Search of codes alone, and comparing again what they find: as many results as are eligible, and the right ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from twotower_server.errors import ReleaseRefused
from twotower_server.index.base import IndexEntry
from twotower_server.index.codes import CodesIndex, fetched_for
from twotower_server.index.faiss import build_index, open_index
from twotower_server.index.similarity import similarities

Vectors = NDArray[np.float32]
Mask = NDArray[np.bool_]

ITEMS = 40_000
K = 100
QUERIES = 16
Eligible = Callable[[NDArray[np.int64], int], NDArray[np.int64]]

# Rows that a filter lets through, of all rows, nearest first.
CORRELATIONS: dict[str, Eligible] = {
    "near": lambda order, count: order[:count],
    "far": lambda order, count: order[ITEMS - count :],
    "uncorrelated": lambda order, count: np.random.default_rng(4).permutation(ITEMS)[:count],
    "mixed": lambda order, count: np.unique(np.concatenate([order[: count // 2], order[ITEMS - count // 2 - 1 :]])),
}


@pytest.fixture(scope="module")
def items(manifold: Callable[[int, int], Vectors]) -> Vectors:
    return manifold(ITEMS, 2)


@pytest.fixture(scope="module")
def users(manifold: Callable[[int, int], Vectors]) -> Vectors:
    return manifold(200 + QUERIES, 3)


@pytest.fixture(scope="module")
def built(items: Vectors, users: Vectors, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, IndexEntry]:
    path = tmp_path_factory.mktemp("codes") / "index.faiss"
    return path, build_index(items, path, kind="ivf_sq8", queries=users[:200])


@pytest.fixture(scope="module")
def index(built: tuple[Path, IndexEntry], items: Vectors) -> CodesIndex:
    opened = open_without_vectors(*built)
    assert isinstance(opened, CodesIndex)
    return opened


def open_without_vectors(path: Path, entry: IndexEntry, items: int = ITEMS) -> object:
    return open_index(path, np.empty((0, 32), np.float32), entry, lambda rows: [""] * len(rows), items)


def recall(
    index: CodesIndex, items: Vectors, query: Vectors, k: int, eligible: Mask | None, excluded: NDArray[np.int64] | None
) -> float:
    """The share of the k best that a search finds; it finds as many as there are."""
    exact = similarities(items, None, query)
    wanted = np.ones(ITEMS, np.bool_) if eligible is None else eligible.copy()
    if excluded is not None:
        wanted[excluded] = False
    count = min(k, int(wanted.sum()))
    fetched = fetched_for(k, 0 if excluded is None else len(excluded), filtered=eligible is not None)
    rows, values = index.search(query, fetched, excluded_rows=excluded, eligible=eligible)
    contenders = index.contenders(query, k, values)
    rows, values = rows[:contenders], values[:contenders]
    assert len(np.unique(rows)) == len(rows) >= count
    assert wanted[rows].all()
    assert (values[1:] <= values[:-1]).all()
    if not count:
        return 1.0
    kth = np.sort(exact[wanted])[-count]
    return float((np.sort(exact[rows])[-count:] >= kth).mean())


@pytest.mark.parametrize("k", [1, 10, 100, 1_000, 30_000])
def test_without_a_filter(index: CodesIndex, items: Vectors, users: Vectors, k: int) -> None:
    found = [recall(index, items, query, k, None, None) for query in users[200:]]
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize("correlation", CORRELATIONS)
@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 1e-3, 1e-4])
def test_with_a_filter(index: CodesIndex, items: Vectors, users: Vectors, share: float, correlation: str) -> None:
    found = []
    for query in users[200:]:
        order = np.argsort(-similarities(items, None, query), kind="stable")
        eligible = np.zeros(ITEMS, np.bool_)
        eligible[CORRELATIONS[correlation](order, int(ITEMS * share))] = True
        found.append(recall(index, items, query, K, eligible, None))
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize("excluded", [1, 200, 10_000, ITEMS - 3, ITEMS])
def test_exclusions_of_what_is_nearest(index: CodesIndex, items: Vectors, users: Vectors, excluded: int) -> None:
    found = []
    for query in users[200:]:
        order = np.argsort(-similarities(items, None, query), kind="stable")
        found.append(recall(index, items, query, K, None, np.sort(order[:excluded])))
    assert np.mean(found) >= 0.95


def test_exclusions_under_a_filter(index: CodesIndex, items: Vectors, users: Vectors) -> None:
    eligible = np.arange(ITEMS) % 7 == 0
    excluded = np.arange(0, ITEMS, 14)
    assert np.mean([recall(index, items, query, K, eligible, excluded) for query in users[200:]]) >= 0.95


def test_nothing_eligible(index: CodesIndex, users: Vectors) -> None:
    rows, values = index.search(users[0], K, eligible=np.zeros(ITEMS, np.bool_))
    assert (len(rows), len(values)) == (0, 0)


def test_an_index_of_other_items_is_refused(built: tuple[Path, IndexEntry]) -> None:
    with pytest.raises(ReleaseRefused, match=f"holds {ITEMS} vectors, the release {ITEMS + 1}"):
        open_without_vectors(*built, items=ITEMS + 1)

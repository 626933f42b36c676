"""Filters and exclusions on an unclustered catalog: min(K, eligible) results, and the right ones.

How many items a filter lets through is one thing, where they lie another: a filter may let through what is near the
user, what is near somebody else, or only what is farthest away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from twotower_server.index.base import IndexEntry
from twotower_server.index.exact import EXACT_ITEMS, ExactIndex
from twotower_server.index.faiss import build_index, open_index
from twotower_server.index.ivf import IvfSq8Index
from twotower_server.index.recall import Truth
from twotower_server.index.similarity import similarities

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

ITEMS = 200_000
K = 100
QUERIES = 24
# Where everything is compared, a few show it.
FEW = 6
SHARES = [0.5, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5]
EXCLUSIONS = [100, 1_000, 10_000]


@dataclass(frozen=True, slots=True)
class Query:
    """similarities: float32 [items]. order: rows, nearest first. elsewhere: the order of another query."""

    vector: Vectors
    similarities: Vectors
    order: Rows
    elsewhere: Rows


def near(query: Query, count: int) -> Mask:
    """The nearest of all."""
    return of_rows(query.order[:count])


def uncorrelated(query: Query, count: int) -> Mask:
    """Any."""
    return of_rows(np.random.default_rng(4).permutation(ITEMS)[:count])


def elsewhere(query: Query, count: int) -> Mask:
    """What is nearest to another query."""
    return of_rows(query.elsewhere[:count])


def mixed(query: Query, count: int) -> Mask:
    """Half as many as are wanted from the nearest, the others from the farthest."""
    few = min(K // 2, count // 2)
    return of_rows(np.concatenate([query.order[:few], query.order[ITEMS - (count - few) :]]))


def far(query: Query, count: int) -> Mask:
    """The farthest of all."""
    return of_rows(query.order[ITEMS - count :])


def of_rows(rows: Rows) -> Mask:
    mask = np.zeros(ITEMS, np.bool_)
    mask[rows] = True
    return mask


CORRELATIONS = [near, uncorrelated, elsewhere, mixed, far]


@pytest.fixture(scope="module")
def items(manifold: Callable[[int, int], Vectors]) -> Vectors:
    return manifold(ITEMS, 2)


@pytest.fixture(scope="module")
def users(manifold: Callable[[int, int], Vectors]) -> Vectors:
    return manifold(200 + QUERIES, 3)


@pytest.fixture(scope="module")
def built(items: Vectors, users: Vectors, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, IndexEntry]:
    path = tmp_path_factory.mktemp("filters") / "index.faiss"
    return path, build_index(items, path, queries=users[:200])


@pytest.fixture(scope="module")
def index(built: tuple[Path, IndexEntry], items: Vectors) -> IvfSq8Index:
    path, entry = built
    index = open_index(path, items, entry, names)
    assert isinstance(index, IvfSq8Index)
    return index


@pytest.fixture(scope="module")
def queries(items: Vectors, users: Vectors) -> list[Query]:
    vectors = users[200:]
    found = [similarities(items, None, vector) for vector in vectors]
    orders = [np.argsort(-values, kind="stable") for values in found]
    return [
        Query(vector, values, order, orders[i - 1])
        for i, (vector, values, order) in enumerate(zip(vectors, found, orders, strict=True))
    ]


def names(rows: Rows) -> list[str]:
    return [str(row) for row in rows.tolist()]


def recalls(index: IvfSq8Index, queries: list[Query], eligible: Callable[[Query], Mask | None]) -> dict[str, float]:
    """Mean recall@100 by exclusions, each answer checked for what it promises."""
    found: dict[str, list[float]] = {}
    seen = np.random.default_rng(5).permutation(ITEMS)
    for query in queries:
        mask = eligible(query)
        # The worst to exclude are the best of those that are eligible.
        best = query.order if mask is None else query.order[mask[query.order]]
        excluded = {"nothing": np.empty(0, np.int64)}
        for count in EXCLUSIONS:
            excluded[f"{count} of any"] = np.sort(seen[:count])
            excluded[f"the {count} best"] = np.sort(best[:count])
        for name, out in excluded.items():
            allowed = np.ones(ITEMS, np.bool_) if mask is None else mask.copy()
            allowed[out] = False
            rows, values = index.search(query.vector, K, eligible=mask, excluded_rows=out if out.size else None)
            wanted = min(K, np.count_nonzero(allowed))
            assert len(rows) == len(np.unique(rows)) == wanted, name
            assert allowed[rows].all(), name
            assert (values == query.similarities[rows]).all(), name
            if wanted:
                least = np.partition(query.similarities[allowed], -wanted)[-wanted]
                found.setdefault(name, []).append(float((values >= least).mean()))
    return {name: float(np.mean(each)) for name, each in found.items()}


def test_the_catalog_is_not_one_that_flatters_an_index(
    built: tuple[Path, IndexEntry], index: IvfSq8Index, items: Vectors, users: Vectors
) -> None:
    path, entry = built
    truth = Truth.of(items, users[200:])
    assert truth.recalls(index).mean() >= 0.95
    # Of separated clusters the nearest few lists hold everything.
    few = IndexEntry(entry.kind, None, {**entry.parameters, "probes": 8})
    assert truth.recalls(open_index(path, items, few, names)).mean() < 0.85


def test_exclusions_alone(index: IvfSq8Index, queries: list[Query]) -> None:
    found = recalls(index, queries, lambda query: None)
    assert min(found.values()) >= 0.95, found


@pytest.mark.parametrize("correlation", CORRELATIONS, ids=lambda correlation: correlation.__name__)
@pytest.mark.parametrize("share", SHARES)
def test_a_filter_of_any_share_wherever_it_lies_keeps_count_and_recall(
    index: IvfSq8Index, queries: list[Query], share: float, correlation: Callable[[Query, int], Mask]
) -> None:
    count = round(share * ITEMS)
    some = queries if count > EXACT_ITEMS else queries[:FEW]
    found = recalls(index, some, lambda query: correlation(query, count))
    assert min(found.values()) >= 0.95, found


@pytest.mark.parametrize("k", [1, 10, 1_000, 3_000])
@pytest.mark.parametrize("correlation", CORRELATIONS, ids=lambda correlation: correlation.__name__)
def test_few_and_many_results_keep_their_recall(
    index: IvfSq8Index, queries: list[Query], k: int, correlation: Callable[[Query, int], Mask]
) -> None:
    found = []
    for query in queries:
        mask = correlation(query, ITEMS // 3)
        rows, values = index.search(query.vector, k, eligible=mask)
        assert len(rows) == k
        found.append((values >= np.partition(query.similarities[mask], -k)[-k]).mean())
    assert np.mean(found) >= 0.95


def test_everything_is_compared_only_when_lists_do_not_lead_to_the_best(
    index: IvfSq8Index, queries: list[Query], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    search = ExactIndex.search

    def counted(self: ExactIndex, *args: object, **kwargs: object) -> object:
        compared.append(1)
        return search(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(ExactIndex, "search", counted)
    for correlation, share, exact in (
        (near, 0.3, False),
        (uncorrelated, 0.5, False),
        (uncorrelated, 0.3, False),
        (uncorrelated, 0.2, True),
        (far, 0.5, True),
    ):
        compared.clear()
        for query in queries:
            index.search(query.vector, K, eligible=correlation(query, round(share * ITEMS)))
        assert len(compared) == (len(queries) if exact else 0), (correlation.__name__, share)

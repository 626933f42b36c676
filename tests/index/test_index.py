"""Both kinds of index, against brute force."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from twotower_server.errors import ReleaseRefused
from twotower_server.index import faiss as adapter
from twotower_server.index.base import Index, IndexEntry
from twotower_server.index.faiss import build_index, open_index
from twotower_server.index.ivf import IvfSq8Index
from twotower_server.index.recall import Truth
from twotower_server.index.similarity import similarities

Vectors = NDArray[np.float32]
MakeVectors = Callable[[int, int], Vectors]

ITEMS = 60_000
KINDS = ["exact", "ivf_sq8"]


def shuffled_ids(rows: NDArray[np.int64]) -> Sequence[str]:
    """Ids whose order is not that of the rows."""
    return [f"{row * 7919 % 100_003:06d}" for row in rows.tolist()]


def brute_force(
    vectors: Vectors, query: Vectors, k: int, allowed: NDArray[np.bool_] | None = None
) -> tuple[list[int], list[float]]:
    values = similarities(vectors, None, query).tolist()
    ids = shuffled_ids(np.arange(len(vectors)))
    rows = [row for row in range(len(vectors)) if allowed is None or allowed[row]]
    rows.sort(key=lambda row: (-values[row], ids[row]))
    return rows[:k], [values[row] for row in rows[:k]]


def check_order(vectors: Vectors, query: Vectors, rows: NDArray[np.int64], values: NDArray[np.float32]) -> None:
    """What every answer fulfils, of whichever kind."""
    assert rows.dtype == np.int64
    assert values.dtype == np.float32
    assert len(set(rows.tolist())) == len(rows)
    assert (values == similarities(vectors, rows, query)).all()
    pairs = list(zip((-values).tolist(), shuffled_ids(rows), strict=True))
    assert pairs == sorted(pairs)


@pytest.fixture(scope="module")
def items(manifold: MakeVectors) -> Vectors:
    return manifold(ITEMS, 2)


@pytest.fixture(scope="module")
def users(manifold: MakeVectors) -> Vectors:
    return manifold(300, 3)


@pytest.fixture(scope="module")
def ivf(items: Vectors, users: Vectors, tmp_path_factory: pytest.TempPathFactory) -> IvfSq8Index:
    path = tmp_path_factory.mktemp("ivf") / "index.faiss"
    entry = build_index(items, path, kind="ivf_sq8", queries=users[:200])
    index = open_index(path, items, entry, shuffled_ids)
    assert isinstance(index, IvfSq8Index)
    return index


def make(vectors: Vectors, tmp_path: Path, kind: str = "exact", queries: Vectors | None = None) -> Index:
    path = tmp_path / "index.faiss"
    return open_index(path, vectors, build_index(vectors, path, kind=kind, queries=queries), shuffled_ids)


# ---- exact


def test_exact_equals_brute_force(manifold: MakeVectors, tmp_path: Path) -> None:
    vectors = manifold(3000, 4)
    index = make(vectors, tmp_path)
    for query in manifold(10, 5):
        for k in (1, 2, 100, 2999, 3000, 5000):
            rows, values = index.search(query, k)
            assert (rows.tolist(), values.tolist()) == brute_force(vectors, query, k)


def test_exact_settles_ties_at_the_cut_by_item_id(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    # Small whole numbers: hundreds of rows have the same similarity.
    vectors = rng.integers(-2, 3, (2000, 4)).astype(np.float32)
    index = make(vectors, tmp_path)
    allowed = rng.random(2000) < 0.5
    few = rng.random(2000) < 0.1
    for query in rng.integers(-2, 3, (20, 4)).astype(np.float32):
        for k in (1, 7, 100, 1999):
            assert index.search(query, k)[0].tolist() == brute_force(vectors, query, k)[0]
            for mask in (allowed, few):
                assert index.search(query, k, eligible=mask)[0].tolist() == brute_force(vectors, query, k, mask)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_equal_vectors_and_a_zero_query(tmp_path: Path, kind: str) -> None:
    vectors = np.ones((500, 8), np.float32)
    index = make(vectors, tmp_path, kind)
    for query in (np.ones(8, np.float32), np.zeros(8, np.float32)):
        rows, values = index.search(query, 500)
        assert rows.tolist() == brute_force(vectors, query, 500)[0]
        assert (values == query.sum()).all()


# ---- both kinds


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 39, 40, 81, 1000])
def test_small_catalogs_give_all_they_have(manifold: MakeVectors, tmp_path: Path, kind: str, count: int) -> None:
    vectors = manifold(count, 7)
    index = make(vectors, tmp_path, kind, manifold(40, 8))
    query = manifold(1, 9)[0]
    rows, values = index.search(query, 10_000)
    assert (rows.tolist(), values.tolist()) == brute_force(vectors, query, count)
    assert len(index.search(query, 0)[0]) == 0
    assert len(index.search(query, 5, excluded_rows=np.arange(count))[0]) == 0
    assert len(index.search(query, 5, eligible=np.zeros(count, np.bool_))[0]) == 0
    assert index.search(query, 5, excluded_rows=np.arange(count - 1))[0].tolist() == [count - 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("excluded", [0, 1, 100, 256, 257, 3000, 10_000])
def test_exclusions_still_return_k(
    items: Vectors, users: Vectors, ivf: IvfSq8Index, tmp_path: Path, kind: str, excluded: int
) -> None:
    index = ivf if kind == "ivf_sq8" else make(items, tmp_path)
    recalls = []
    for query in users[200:230]:
        # The worst case: exactly those that would have been found.
        best_rows = np.argsort(-similarities(items, None, query), kind="stable")
        out = np.sort(best_rows[:excluded])
        for k in (1, 100, 1000):
            rows, values = index.search(query, k, excluded_rows=out)
            check_order(items, query, rows, values)
            assert len(rows) == k
            assert not np.isin(rows, out).any()
            last = similarities(items, best_rows[excluded + k - 1 : excluded + k], query)
            recalls.append((values >= last).mean())
    assert np.mean(recalls) >= (1.0 if kind == "exact" else 0.95)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [1.0, 0.9, 0.5, 0.1, 1e-2, 1e-3, 1e-4, 1e-5])
def test_filters_return_k_and_the_right_ones(
    items: Vectors, users: Vectors, ivf: IvfSq8Index, tmp_path: Path, kind: str, share: float
) -> None:
    index = ivf if kind == "ivf_sq8" else make(items, tmp_path)
    rng = np.random.default_rng(10)
    eligible = np.zeros(ITEMS, np.bool_)
    eligible[rng.permutation(ITEMS)[: max(1, round(share * ITEMS))]] = True
    before = eligible.copy()
    out = np.flatnonzero(eligible)[::2][:500]
    recalls = []
    for query in users[200:230]:
        for excluded in (None, out):
            allowed = eligible.copy()
            if excluded is not None:
                allowed[excluded] = False
            rows, values = index.search(query, 100, eligible=eligible, excluded_rows=excluded)
            check_order(items, query, rows, values)
            assert len(rows) == min(100, np.count_nonzero(allowed))
            assert allowed[rows].all()
            if len(rows):
                exact = np.sort(similarities(items, np.flatnonzero(allowed), query))[-len(rows)]
                recalls.append((values >= exact).mean())
    assert (eligible == before).all()
    if recalls:
        assert np.mean(recalls) >= (1.0 if kind == "exact" else 0.95)


def test_a_filter_that_leaves_far_items_only(items: Vectors, users: Vectors, ivf: IvfSq8Index) -> None:
    query = users[0]
    # More than are simply compared, and none in the lists near the query: probes grow until K are found.
    by_similarity = np.argsort(similarities(items, None, query))
    eligible = np.zeros(ITEMS, np.bool_)
    eligible[by_similarity[:55_000]] = True
    rows, values = ivf.search(query, 2000, eligible=eligible)
    check_order(items, query, rows, values)
    assert len(rows) == 2000
    assert eligible[rows].all()


# ---- IVF


def test_recall_is_what_was_wanted_on_users_it_was_not_chosen_on(
    items: Vectors, users: Vectors, tmp_path: Path
) -> None:
    for wanted in (0.8, 0.95, 0.99):
        path = tmp_path / f"{wanted}.faiss"
        entry = build_index(items, path, kind="ivf_sq8", queries=users[:200], wanted_recall=wanted)
        assert entry.recall is not None
        assert entry.recall >= wanted
        recall = Truth.of(items, users[200:]).recalls(open_index(path, items, entry, shuffled_ids)).mean()
        assert recall >= wanted - 0.01
        assert 0 < entry.parameters["probes"] < entry.parameters["lists"] / 2


def test_more_results_keep_their_recall(items: Vectors, users: Vectors, ivf: IvfSq8Index) -> None:
    for k in (10, 1000, 3000):
        assert Truth.of(items, users[200:230], k).recalls(ivf).mean() >= 0.95


def test_ivf_orders_and_repeats_its_answers(items: Vectors, users: Vectors, ivf: IvfSq8Index) -> None:
    for query in users[:20]:
        rows, values = ivf.search(query, 100)
        check_order(items, query, rows, values)
        assert ivf.search(query, 100)[0].tolist() == rows.tolist()


def test_duplicates_of_an_item_are_all_found_and_ordered_by_id(manifold: MakeVectors, tmp_path: Path) -> None:
    vectors = np.repeat(manifold(1000, 11), 5, axis=0)
    vectors = vectors[np.random.default_rng(12).permutation(len(vectors))]
    index = make(vectors, tmp_path, "ivf_sq8", manifold(64, 13))
    for query in manifold(10, 14):
        rows, values = index.search(query, 5)
        check_order(vectors, query, rows, values)
        assert rows.tolist() == brute_force(vectors, query, 5)[0]


def test_vectors_of_any_length(tmp_path: Path) -> None:
    rng = np.random.default_rng(15)
    vectors = rng.standard_normal((20_000, 24), np.float32) * rng.lognormal(0, 1, (20_000, 1)).astype(np.float32)
    vectors[::100] = 0.0
    users = rng.standard_normal((128, 24), np.float32) * 5
    path = tmp_path / "index.faiss"
    entry = build_index(vectors, path, kind="ivf_sq8", queries=users[:64])
    index = open_index(path, vectors, entry, shuffled_ids)
    assert Truth.of(vectors, users[64:]).recalls(index).mean() >= 0.93
    check_order(vectors, users[0], *index.search(users[0], 100))


@pytest.mark.parametrize("queries", [None, 0, 1, 5])
def test_without_users_items_choose_the_probes(
    items: Vectors, users: Vectors, tmp_path: Path, queries: int | None
) -> None:
    given = None if queries is None else users[:queries]
    entry = build_index(items, tmp_path / "index.faiss", kind="ivf_sq8", queries=given)
    assert entry.parameters["probes"] >= 1
    assert (entry.recall is None) == (not queries)
    index = open_index(tmp_path / "index.faiss", items, entry, shuffled_ids)
    assert Truth.of(items, users).recalls(index).mean() >= 0.85


def test_searches_from_many_threads_agree(items: Vectors, users: Vectors, ivf: IvfSq8Index) -> None:
    eligible = np.arange(ITEMS) % 10 != 0
    wanted = [ivf.search(query, 50, eligible=eligible)[0].tolist() for query in users[:40]]
    found: list[list[list[int]]] = [[] for _ in range(4)]

    def search(mine: list[list[int]]) -> None:
        mine += [ivf.search(query, 50, eligible=eligible)[0].tolist() for query in users[:40]]

    threads = [threading.Thread(target=search, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 4


# ---- files


def test_a_mapped_index_searches_as_the_one_in_memory(items: Vectors, users: Vectors, tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    entry = build_index(items, path, kind="ivf_sq8", queries=users[:64])
    mapped = open_index(path, items, entry, shuffled_ids)
    in_memory = IvfSq8Index(faiss.read_index(str(path)), items, entry.parameters["probes"], shuffled_ids)
    for query in users:
        (rows, values), (wanted_rows, wanted_values) = mapped.search(query, 100), in_memory.search(query, 100)
        assert (rows.tolist(), values.tolist()) == (wanted_rows.tolist(), wanted_values.tolist())


def test_the_file_is_mapped_not_read(ivf: IvfSq8Index) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs Linux to see what is mapped")
    assert "index.faiss" in maps.read_text()


def test_auto_is_exact_up_to_the_bound(manifold: MakeVectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "EXACT_ITEMS", 500)
    progress: list[int] = []
    path = tmp_path / "index.faiss"
    exact = build_index(manifold(500, 1), path, on_progress=progress.append)
    assert (exact.kind, exact.recall, sum(progress)) == ("exact", 1.0, 500)
    ivf = build_index(manifold(501, 1), path, on_progress=progress.append)
    assert (ivf.kind, sum(progress)) == ("ivf_sq8", 1001)


def test_files_that_do_not_fit_are_refused(manifold: MakeVectors, tmp_path: Path) -> None:
    vectors = manifold(1000, 1)
    path, other = tmp_path / "index.faiss", tmp_path / "other.faiss"
    entry = build_index(vectors, path, kind="ivf_sq8", queries=vectors[:50])
    flat = build_index(vectors, other, kind="exact")
    lists = entry.parameters["lists"]
    with pytest.raises(ReleaseRefused, match="missing or is not a Faiss index"):
        open_index(tmp_path / "none.faiss", vectors, entry, shuffled_ids)
    with pytest.raises(ReleaseRefused, match="other vectors"):
        open_index(path, vectors[:, :16].copy(), entry, shuffled_ids)
    with pytest.raises(ReleaseRefused, match="holds 1000 vectors, the release 999"):
        open_index(path, vectors[:999], entry, shuffled_ids)
    for file, kind in ((path, "exact"), (other, "ivf_sq8"), (path, "hnsw")):
        with pytest.raises(ReleaseRefused, match=f"no index of kind '{kind}'"):
            open_index(file, vectors, IndexEntry(kind, None, entry.parameters), shuffled_ids)
    for probes in (None, 0, lists + 1, 1.5, True, "8"):
        with pytest.raises(ReleaseRefused, match="probes must be"):
            open_index(path, vectors, IndexEntry("ivf_sq8", None, {"probes": probes}), shuffled_ids)
    with pytest.raises(ReleaseRefused, match="unknown kind"):
        build_index(vectors, path, kind="hnsw")
    assert len(open_index(other, vectors, flat, shuffled_ids).search(vectors[0], 3)[0]) == 3


def test_a_truncated_index_is_refused(manifold: MakeVectors, tmp_path: Path) -> None:
    vectors = manifold(1000, 1)
    entry = build_index(vectors, tmp_path / "index.faiss", kind="ivf_sq8", queries=vectors[:50])
    content = (tmp_path / "index.faiss").read_bytes()
    # Faiss counts whole elements; the manifest, which has the size, the last seven bytes, too.
    for size in (0, 3, 100, len(content) // 2, len(content) - 8):
        path = tmp_path / f"truncated-{size}.faiss"
        path.write_bytes(content[:size])
        with pytest.raises(ReleaseRefused, match=f"truncated-{size}.faiss is missing or is not a Faiss index"):
            open_index(path, vectors, entry, shuffled_ids)

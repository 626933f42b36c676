"""Indexes made and read by Faiss: exact search for small catalogs, IVF with 8-bit codes above.

Johnson, Douze, Jégou: Billion-scale similarity search with GPUs (2017); https://github.com/facebookresearch/faiss
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from twotower_server.errors import ReleaseRefused
from twotower_server.index.base import IndexEntry, ItemIds
from twotower_server.index.codes import CodesIndex
from twotower_server.index.exact import EXACT_ITEMS, ExactIndex
from twotower_server.index.ivf import IvfSq8Index
from twotower_server.index.recall import Truth

Kind = Literal["auto", "exact", "ivf_sq8"]

_TRAINING_VECTORS_A_LIST = 40  # Faiss asks for 39
_TRAINING_ROUNDS = 8
_ADD_ROWS = 65_536
# Faiss replaces constructors when it is imported; its type information shows the old ones.
_constructors: Any = faiss
_MIN_QUERIES = 32
_MAX_QUERIES = 512
_SEED = 20_240_229


def build_index(
    vectors: NDArray[np.float32],
    path: Path,
    *,
    kind: str = "auto",
    queries: NDArray[np.float32] | None = None,
    wanted_recall: float = 0.95,
    on_stage: Callable[[str, int | None], None] = lambda stage, total: None,
    on_progress: Callable[[int], None] = lambda rows: None,
) -> IndexEntry:
    """Builds the index of a catalog and writes it to `path`.

    vectors: float32 [items, dimension], C order, usually memory-mapped: read in chunks.
    queries: float32 [n, dimension], vectors of held-back users; the least work that finds `wanted_recall` of
    their 100 best items, with a margin of two standard errors, is recorded.
    on_stage: hears of each stage as it begins, and its total. on_progress: hears of rows as they are indexed.
    Raises ReleaseRefused for an unknown kind, OSError when the file cannot be written.
    """
    if kind == "auto":
        kind = "exact" if len(vectors) <= EXACT_ITEMS else "ivf_sq8"
    if kind == "exact":
        # Vectors are read from vectors.npy: the file says only that no other structure is needed.
        _write(faiss.IndexFlatIP(vectors.shape[1]), path)
        on_progress(len(vectors))
        return IndexEntry(kind, 1.0)
    if kind != "ivf_sq8":
        raise ReleaseRefused(f"unknown kind of index {kind!r}; use auto, exact or ivf_sq8")
    index = _train(vectors)
    for start in range(0, len(vectors), _ADD_ROWS):
        chunk = np.ascontiguousarray(vectors[start : start + _ADD_ROWS])
        index.add(chunk)
        on_progress(len(chunk))
    _write(index, path)
    on_stage("choosing probes", None)
    probes, recall = _choose_probes(index, vectors, queries, wanted_recall)
    return IndexEntry(kind, recall, {"lists": index.nlist, "probes": probes})


def refill_index(source: Path, vectors: NDArray[np.float32], path: Path) -> None:
    """Writes an index of other vectors with the lists and codes of one that was trained before.

    vectors: float32 [items, dimension], not much unlike those it was trained on.
    """
    index = faiss.read_index(str(source))
    index.reset()
    for start in range(0, len(vectors), _ADD_ROWS):
        index.add(np.ascontiguousarray(vectors[start : start + _ADD_ROWS]))
    _write(index, path)


def open_index(
    path: Path, vectors: NDArray[np.float32], entry: IndexEntry, item_ids: ItemIds, items: int | None = None
) -> ExactIndex | IvfSq8Index | CodesIndex:
    """Maps an index; its memory is shared by all processes that map it.

    vectors: those it was built from, or [0, dimension] of `items` that are not on this machine: then codes alone are
    searched. item_ids: names rows, so that ties are settled by item id.
    Raises ReleaseRefused when the file does not fit the vectors or the manifest's entry.
    """
    try:
        # The flag that shares every kind of index, not only IVF.
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError:
        # Faiss's message holds paths and source lines.
        raise ReleaseRefused(f"{path.name} is missing or is not a Faiss index; build the release again") from None
    if index.d != vectors.shape[1] or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ReleaseRefused(f"{path.name} is of other vectors than the release: {index.d} dimensions")
    if entry.kind == "exact" and isinstance(index, faiss.IndexFlat):
        return ExactIndex(vectors, item_ids)
    if entry.kind != "ivf_sq8" or not isinstance(index, faiss.IndexIVFScalarQuantizer):
        raise ReleaseRefused(f"{path.name} is no index of kind {entry.kind!r}")
    probes = entry.parameters.get("probes")
    items = len(vectors) if items is None else items
    if index.ntotal != items:
        raise ReleaseRefused(f"{path.name} holds {index.ntotal} vectors, the release {items}")
    if isinstance(probes, bool) or not isinstance(probes, int) or not 1 <= probes <= index.nlist:
        raise ReleaseRefused(f"the index's probes must be a whole number from 1 to {index.nlist}, not {probes!r}")
    return IvfSq8Index(index, vectors, probes, item_ids) if len(vectors) else CodesIndex(index, probes)


def lists_for(items: int) -> int:
    """How many inverted lists a catalog gets."""
    return max(1, min(round(4 * math.sqrt(items)), items // _TRAINING_VECTORS_A_LIST))


def _write(index: Any, path: Path) -> None:
    # Not by Faiss's own writer: of a disk that is full when it closes the file, that one tells nobody.
    with path.open("wb") as file:
        faiss.write_index(index, _constructors.PyCallbackIOWriter(file.write))


def _train(vectors: NDArray[np.float32]) -> Any:
    items, dimension = vectors.shape
    lists = lists_for(items)
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dimension),
        dimension,
        lists,
        faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
        False,  # codes of residuals: no better once compared again, and slower to add
    )
    index.cp.niter = _TRAINING_ROUNDS
    size = min(items, lists * _TRAINING_VECTORS_A_LIST)
    sample = np.sort(np.random.default_rng(_SEED).choice(items, size, replace=False))
    index.train(np.ascontiguousarray(vectors[sample]))
    return index


def _choose_probes(
    index: Any, vectors: NDArray[np.float32], queries: NDArray[np.float32] | None, wanted: float
) -> tuple[int, float | None]:
    """The fewest probes that reach the wanted recall, and the recall measured on `queries`."""
    users = None if queries is None or not len(queries) else queries[:_MAX_QUERIES]
    if users is None or len(users) < _MIN_QUERIES:
        # Too few to choose by: items stand in for users. Recall is still measured on users only.
        chosen_by = np.ascontiguousarray(vectors[:: max(1, len(vectors) // _MAX_QUERIES)][:_MAX_QUERIES])
    else:
        chosen_by = users
    truth = Truth.of(vectors, chosen_by)

    def recalls(truth: Truth, probes: int) -> NDArray[np.float64]:
        # Ties need no settling to be counted.
        return truth.recalls(IvfSq8Index(index, vectors, probes, lambda rows: [""] * len(rows)))

    def enough(probes: int) -> bool:
        found = recalls(truth, probes)
        return bool(found.mean() - 2 * found.std() / math.sqrt(len(found)) >= wanted)

    high = 1
    while high < index.nlist and not enough(high):
        high = min(2 * high, index.nlist)
    low = high // 2  # not enough, or 0
    while high - low > max(1, high // 32):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    if users is None:
        return high, None
    return high, float(recalls(truth if chosen_by is users else Truth.of(vectors, users), high).mean())

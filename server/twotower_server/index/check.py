"""Whether the parts of an index of Faiss fit each other: Faiss reads them as the file says, and then trusts them.

Numbers that do not fit would have it read beyond them in a search, long after the file was opened.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from twotower_server.errors import ReleaseRefused

# Faiss replaces constructors when it is imported; its type information shows the old ones.
_constructors: Any = faiss


def check_parts(index: Any, name: str) -> None:
    """Refuses an IndexIVFScalarQuantizer whose lists, codes or centroids are of other sizes than it says.

    name: of its file. Raises ReleaseRefused. Reads no list.
    """
    quantizer = _constructors.downcast_index(index.quantizer)
    lists = index.invlists
    fits = (
        isinstance(quantizer, faiss.IndexFlat)
        and (quantizer.ntotal, quantizer.d) == (index.nlist, index.d)
        and quantizer.codes.size() == index.nlist * index.d * 4
        and quantizer.metric_type == faiss.METRIC_INNER_PRODUCT
        and index.sq.qtype == faiss.ScalarQuantizer.QT_8bit
        and index.sq.d == index.d
        and index.sq.trained.size() == 2 * index.d
        and index.code_size == index.sq.code_size == lists.code_size == index.d
        and lists.nlist == index.nlist
        and not index.by_residual
    )
    if not fits:
        raise ReleaseRefused(f"{name} disagrees with itself: its lists, codes or centroids are of other sizes")


def check_rows(index: Any, name: str) -> None:
    """Refuses an index whose lists do not hold each row once. Reads all row numbers. Raises ReleaseRefused."""
    lists = index.invlists
    sizes = [lists.list_size(number) for number in range(lists.nlist)]
    if sum(sizes) != index.ntotal:
        raise ReleaseRefused(f"{name} disagrees with itself: its lists hold {sum(sizes)} rows, not {index.ntotal}")
    seen = np.zeros(index.ntotal, np.bool_)
    for number, size in enumerate(sizes):
        if size:
            rows = _constructors.rev_swig_ptr(lists.get_ids(number), size)
            if rows.min() < 0 or rows.max() >= index.ntotal:
                raise ReleaseRefused(f"{name} names rows that the release does not have")
            seen[rows] = True
    if not seen.all():
        raise ReleaseRefused(f"{name} lacks row {int(np.argmin(seen))}, and has another one twice")

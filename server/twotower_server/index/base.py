"""What every kind of index is: the narrow waist between searching and how it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# Rows, int64 [n], to their item ids.
ItemIds = Callable[[NDArray[np.int64]], Sequence[str]]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What the manifest keeps of an index.

    recall: mean recall@100 (of a smaller catalog: @items) on held-back users; None when there were none.
    parameters: what the kind needs to search as it was measured.
    """

    kind: str
    recall: float | None
    parameters: Mapping[str, Any] = field(default_factory=dict)


class Index(Protocol):
    """Search of one catalog's vectors. Immutable, safe in any thread."""

    def search(
        self,
        query: NDArray[np.float32],
        k: int,
        *,
        excluded_rows: NDArray[np.int64] | None = None,
        eligible: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k items most similar to `query`, by similarity falling, ties by item id.

        query: float32 [dimension], finite; of unit length when the release is cosine.
        excluded_rows: int64, ascending and distinct: never returned. eligible: bool [items]: only these are.
        Returns rows int64 [n] and similarities float32 [n], n = min(k, eligible items), also with
        thousands of exclusions.
        """

    def is_brief(self, nearest: int) -> bool:
        """Whether a search without a filter, of so many results and exclusions together, takes about a millisecond.

        It may then run on the event loop: handing it to a thread and back costs a fifth of that.
        """

"""vectors.npy: written in the order of the catalog's rows, opened as a map."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from twotower_server.errors import ReleaseRefused

_CHUNK_ROWS = 65_536


def unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows divided by their norms; a zero row stays zero. float32 [n, d]."""
    wide = vectors.astype(np.float64)  # squares of float32 values would overflow or vanish
    if len(wide) == 1:  # a single user: every call of numpy counts
        norm = math.sqrt(np.vdot(wide, wide)) or 1.0
        return np.asarray(wide / norm if norm < math.inf else wide * math.nan, np.float32)
    norms = np.sqrt(np.vecdot(wide, wide))
    norms[norms == 0.0] = 1.0
    with np.errstate(invalid="ignore"):  # an infinity becomes NaN, which is refused and not warned about
        return np.asarray(wide / norms[:, None], np.float32)


def is_comparable(vectors: NDArray[np.float32]) -> bool:
    """Whether the dot product of any two of the vectors is finite: all of them are, and short enough.

    float32 [d] or [n, d]. A finite squared norm is enough (Cauchy-Schwarz); stored vectors are verified to have one.
    """
    return math.isfinite(np.vdot(vectors, vectors))


def unusable_rows(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Rows of float32 [n, d] that are not finite, or so long that a similarity would not be: int64, ascending."""
    # A sum of squares is finite only when every value is.
    return np.flatnonzero(~np.isfinite(np.einsum("ij,ij->i", vectors, vectors)))


def open_vectors(path: Path, items: int, dimension: int) -> NDArray[np.float32]:
    """Maps vectors.npy, checking dtype, order and shape. Raises ReleaseRefused."""
    try:
        vectors = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise ReleaseRefused(f"{path.name} is missing") from None
    except (ValueError, OSError, EOFError) as error:
        raise ReleaseRefused(f"{path.name} cannot be mapped: {error}") from None
    wanted = (items, dimension)
    if vectors.dtype != np.dtype("<f4") or vectors.shape != wanted or not vectors.flags.c_contiguous:
        raise ReleaseRefused(f"{path.name} is {vectors.dtype} {vectors.shape}, not float32 {wanted} in C order")
    # A plain array over the map: indexing a np.memmap costs several times as much.
    return np.asarray(vectors)


class VectorSpool:
    """Takes vectors as they are computed, then writes them in another order, never holding all of them."""

    def __init__(self, folder: Path, dimension: int) -> None:
        self._path = folder / "vectors.spool"
        self._dimension = dimension
        self._file: BinaryIO = self._path.open("wb")

    def __enter__(self) -> VectorSpool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def add(self, vectors: NDArray[np.float32]) -> None:
        """Appends rows: float32 [n, dimension]."""
        self._file.write(vectors.astype("<f4", copy=False).tobytes())

    def finish(self, path: Path, order: NDArray[np.int64]) -> None:
        """Writes vectors.npy: its row i is the added row order[i]."""
        self._file.close()
        added = np.memmap(self._path, "<f4", "r").reshape(-1, self._dimension)
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(order), self._dimension)}
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(order), _CHUNK_ROWS):
                file.write(added[order[start : start + _CHUNK_ROWS]].tobytes())

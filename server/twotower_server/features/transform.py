"""Numeric transforms in numpy, for towers whose graph does not hold them (`"transforms": "server"`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twotower_server.features.schema import TowerSchema


class NumericTransform:
    """Raw numbers [n, numeric] float64, NaN = missing → float32 [n, numeric + markers].

    In order: replace missing (constant, mean), clip, transform; a marker feature becomes 0 and its extra column 1.
    """

    def __init__(self, schema: TowerSchema) -> None:
        features = schema.numeric
        self._fill = np.array(
            [0.0 if f.missing.rule == "marker" else float(f.missing.value) for f in features]  # type: ignore[arg-type]
        )
        self._marked = np.array([i for i, f in enumerate(features) if f.missing.rule == "marker"], np.int64)
        self._low = np.array([-np.inf if f.clip[0] is None else f.clip[0] for f in features])
        self._high = np.array([np.inf if f.clip[1] is None else f.clip[1] for f in features])
        self._log = np.array([i for i, f in enumerate(features) if f.transform.type == "log1p"], np.int64)
        self._shift = np.array([f.transform.shift for f in features])
        self._divisor = np.array([f.transform.divisor for f in features])

    def __call__(self, raw: NDArray[np.float64]) -> NDArray[np.float32]:
        missing = np.isnan(raw)
        values = np.clip(np.where(missing, self._fill, raw), self._low, self._high)
        if self._log.size:
            values[:, self._log] = np.log1p(np.maximum(values[:, self._log], 0.0))
        values = (values - self._shift) / self._divisor
        with np.errstate(over="ignore"):  # what does not fit float32 is refused by the encoder, not warned about
            if not self._marked.size:
                return np.asarray(values, np.float32)
            markers = missing[:, self._marked]
            values[:, self._marked] = np.where(markers, 0.0, values[:, self._marked])
            return np.asarray(np.concatenate([values, markers], axis=1), np.float32)

"""Similarity → score. One implementation for every path, so that Score and Recommend agree."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twotower_server.errors import ReleaseRefused

# Exactly 0 means missing or failed, so a real score never falls below the smallest normal float32.
_SMALLEST = np.float64(np.finfo(np.float32).tiny)
# Beyond it a score is below the smallest, and exp would overflow far beyond.
_LARGEST_EXPONENT = 100.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """score = sigmoid(scale · similarity + bias); scale > 0, so that order is by similarity."""

    scale: float = 1.0
    bias: float = 0.0

    @classmethod
    def from_json(cls, data: object, where: str) -> Calibration:
        body = data if isinstance(data, dict) else {}
        numbers = []
        for value in (body.get("scale"), body.get("bias")):
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
                raise ReleaseRefused(f"{where}.calibration needs two finite numbers, scale and bias")
            numbers.append(float(value))
        scale, bias = numbers
        if scale <= 0:
            raise ReleaseRefused(f"{where}.calibration.scale must be greater than 0, not {scale:g}")
        return cls(scale, bias)

    def to_json(self) -> dict[str, float]:
        return {"scale": self.scale, "bias": self.bias}


def scores(similarities: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float32]:
    """sigmoid(scale · similarity + bias), in (0, 1]. float32 of any shape → float32 of that shape."""
    # In place: on a few hundred values every array that numpy allocates costs as much as the arithmetic.
    values = similarities.astype(np.float64)
    values *= -calibration.scale
    values -= calibration.bias
    np.minimum(values, _LARGEST_EXPONENT, out=values)
    np.exp(values, out=values)
    values += 1.0
    np.reciprocal(values, out=values)
    np.maximum(values, _SMALLEST, out=values)
    return values.astype(np.float32)

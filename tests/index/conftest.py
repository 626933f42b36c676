"""Vectors that no index finds easy: points of a curved manifold, not separated clusters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
MakeVectors = Callable[[int, int], Vectors]

LATENT = 16
DIMENSION = 32


@pytest.fixture(scope="session")
def manifold() -> MakeVectors:
    """Makes n points of unit length, float32 [n, 32]: z ~ N(0, I_16), seeded, through a fixed smooth map."""
    fixed = np.random.default_rng(1)
    inner = fixed.standard_normal((LATENT, 128)) * 0.4
    shift = fixed.standard_normal(128) * 0.3
    outer = fixed.standard_normal((128, DIMENSION)) * 0.13

    def make(n: int, seed: int) -> Vectors:
        z = np.random.default_rng(seed).standard_normal((n, LATENT))
        points = np.tanh(np.tanh(z @ inner + shift) @ outer)
        return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), np.float32)

    return make

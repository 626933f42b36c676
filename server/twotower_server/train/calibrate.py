"""Similarity → probability (Platt 1999): sigmoid(scale · similarity + bias), fitted on users that were held
back.

The two classes weigh the same, so a score of 0.5 says: as likely to be the item that this user takes next as
one drawn from the catalog by lot.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twotower_server.release.calibration import Calibration
from twotower_server.train.errors import TrainingFailed

_STEPS = 100
# Keeps the fit finite when the classes do not overlap at all.
_RIDGE = 1e-4


def fit_calibration(positives: NDArray[np.float32], negatives: NDArray[np.float32]) -> Calibration:
    """Logistic regression by Newton's method. positives, negatives: float32, similarities of any number of
    pairs.

    Raises TrainingFailed when positives are not more similar than negatives.
    """
    values = np.concatenate([positives, negatives]).astype(np.float64)
    labels = np.concatenate([np.ones(len(positives)), np.zeros(len(negatives))])
    weights = np.concatenate(
        [np.full(len(positives), 0.5 / len(positives)), np.full(len(negatives), 0.5 / len(negatives))]
    )
    # Fitted on standardized similarities: well conditioned whatever their unit.
    center, spread = float(values.mean()), float(values.std()) or 1.0
    inputs = np.stack([(values - center) / spread, np.ones(len(values))], 1)
    ridge = np.diag([_RIDGE, 0.0])
    solution = np.zeros(2)
    for _ in range(_STEPS):
        expected = 1.0 / (1.0 + np.exp(-(inputs @ solution)))
        gradient = inputs.T @ (weights * (expected - labels)) + ridge @ solution
        curvature = (inputs * (weights * expected * (1.0 - expected))[:, None]).T @ inputs + ridge
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient)
        # A full step from far away may overshoot; a bounded one cannot.
        step *= min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        solution -= step
        if np.abs(step).max() < 1e-9:
            break
    scale, bias = float(solution[0] / spread), float(solution[1] - solution[0] * center / spread)
    if not scale > 0:
        raise TrainingFailed(
            "on held-back users the items they took are no more similar to them than items drawn by lot: the "
            "model has learned nothing. Train for more epochs, lower the learning rate, or add features"
        )
    return Calibration(scale, bias)

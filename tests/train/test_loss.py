"""The loss against a computation with loops, and the transforms of the graph against those of the server."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra [train]")

import torch

from twotower_server.features.schema import Schema
from twotower_server.features.transform import NumericTransform
from twotower_server.train.config import ModelConfig
from twotower_server.train.loop import EarlyStopping
from twotower_server.train.loss import AccidentalHits, in_batch_softmax, log_expected_draws
from twotower_server.train.model import NumericInput, Tower, make_tables

pytestmark = pytest.mark.train


def test_loss_equals_a_plain_computation() -> None:
    random = np.random.default_rng(0)
    similarities = random.normal(size=(4, 7)).astype(np.float32)
    log_draws = random.normal(size=7).astype(np.float32)
    accidental = random.random((4, 7)) < 0.3
    accidental[2, 2] = True  # its own column is never left out
    expected = 0.0
    for row in range(4):
        logits = [
            similarities[row, column] / 0.2 - 0.5 * log_draws[column]
            for column in range(7)
            if column == row or not accidental[row, column]
        ]
        own = similarities[row, row] / 0.2 - 0.5 * log_draws[row]
        expected += math.log(sum(math.exp(logit) for logit in logits)) - own
    found = in_batch_softmax(
        torch.from_numpy(similarities),
        torch.from_numpy(log_draws),
        torch.from_numpy(accidental),
        temperature=0.2,
        correction=0.5,
    )
    assert float(found) == pytest.approx(expected / 4, rel=1e-5)


def test_draws_are_counted_as_they_happen() -> None:
    counts = np.array([60, 30, 10, 0])
    random = np.random.default_rng(1)
    draws = np.zeros(4)
    for _ in range(4000):
        draws += np.bincount(random.choice(4, 50, p=counts / 100), minlength=4)
        draws += np.bincount(random.integers(4, size=20), minlength=4)
    np.testing.assert_allclose(np.exp(log_expected_draws(counts, 50, 20)), draws / 4000, rtol=0.02)
    assert log_expected_draws(counts, 50, 0)[3] == 0.0


def test_correction_makes_the_softmax_of_samples_that_of_all() -> None:
    """Items of equal similarity but unequal frequency: without correction the frequent is pushed away."""
    counts = np.array([900, 90, 10])
    log_draws = torch.from_numpy(log_expected_draws(counts, 1000, 0))
    candidates = torch.from_numpy(np.repeat(np.arange(3), counts))
    logits = torch.zeros(1000) - log_draws[candidates]
    share = torch.softmax(logits, 0)
    sums = [float(share[candidates == item].sum()) for item in range(3)]
    assert sums == pytest.approx([1 / 3] * 3, rel=1e-4)


def test_accidental_hits_equal_a_plain_search() -> None:
    random = np.random.default_rng(2)
    users = np.sort(random.integers(20, size=150))
    items = random.integers(30, size=150)
    hits = AccidentalHits(users, items, 25, 30)
    for _ in range(3):  # it keeps no trace of the batch before
        batch, candidates = random.integers(25, size=12), random.integers(30, size=40)
        taken = set(zip(users.tolist(), items.tolist(), strict=True))
        expected = [[(u, i) in taken for i in candidates.tolist()] for u in batch.tolist()]
        assert hits.find(batch, candidates).tolist() == expected


def test_early_stopping() -> None:
    stopping = EarlyStopping(2)
    assert [stopping.better(v) for v in (0.1, 0.3, 0.3)] == [True, True, False]
    assert not stopping.done
    assert not stopping.better(float("nan"))
    assert stopping.done
    assert (stopping.best, stopping.best_epoch) == (0.3, 2)


SCHEMA = Schema.from_json(
    {
        "format": 1,
        "user": {
            "transforms": "graph",
            "features": [
                {
                    "name": f"user_{t['type']}_{rule['rule']}",
                    "kind": "numeric",
                    "transform": t,
                    "missing": rule,
                    **clip,
                }
                for t in (
                    {"type": "none"},
                    {"type": "log1p"},
                    {"type": "standardize", "mean": 3.0, "std": 2.0},
                    {"type": "min_max", "min": -1.0, "max": 9.0},
                )
                for rule, clip in (
                    ({"rule": "marker"}, {"clip": [-2, 5]}),
                    ({"rule": "mean", "value": 4.5}, {"clip": [None, 4]}),
                    ({"rule": "constant", "value": -7.0}, {}),
                )
            ]
            + [
                {
                    "name": "user_bag_*",
                    "kind": "weighted_bag",
                    "buckets": 9,
                    "max_length": 3,
                    "missing": {"rule": "marker"},
                },
                {
                    "name": "user_clicks",
                    "kind": "sequence",
                    "vocabulary": ["a", "b"],
                    "max_length": 3,
                    "missing": {"rule": "constant", "value": []},
                },
            ],
        },
        "item": {
            "transforms": "graph",
            "features": [{"name": "item_c", "kind": "categorical", "buckets": 3, "missing": {"rule": "marker"}}],
        },
    }
)


def test_the_graph_transforms_as_the_server_does() -> None:
    random = np.random.default_rng(3)
    width = len(SCHEMA.user.numeric)
    training = random.normal(3, 4, (50, width)).astype(np.float32)
    raw = random.normal(2, 5, (200, width)).astype(np.float32)
    raw[random.random(raw.shape) < 0.3] = np.nan
    layer = NumericInput(SCHEMA.user, training)
    before_scaling = layer(torch.from_numpy(raw)) * layer.spread + layer.center
    expected = NumericTransform(SCHEMA.user)(raw.astype(np.float64))
    np.testing.assert_allclose(before_scaling.numpy(), expected, atol=2e-5)
    scaled = layer(torch.from_numpy(training)).numpy()
    np.testing.assert_allclose(scaled.mean(0), 0.0, atol=1e-4)


def test_pooling_ignores_padding_and_weighs_bags() -> None:
    torch.manual_seed(0)
    names = {f.name: f.name for f in (*SCHEMA.user.categorical, *SCHEMA.item.categorical)}
    tables = make_tables((SCHEMA.user, SCHEMA.item), names, dict.fromkeys(names, 4))
    tower = Tower(SCHEMA.user, tables, np.zeros((2, len(SCHEMA.user.numeric)), np.float32), ModelConfig(hidden=()))
    seen: list[torch.Tensor] = []
    tower.layers.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tower(
        {
            "numeric": torch.zeros(1, len(SCHEMA.user.numeric)),
            "ids": torch.tensor([[5, 7, 0, 4, 3, 0]]),
            "weights": torch.tensor([[0.5, -2.0, 0.0]]),
        }
    )
    bag, clicks = tables["user_bag_*"].weight, tables["user_clicks"].weight
    expected = (0.5 * bag[5] - 2.0 * bag[7]) / math.sqrt(0.25 + 4.0 + 1.0)
    assert torch.allclose(seen[0][0, -8:-4], expected)
    assert torch.allclose(seen[0][0, -4:], (clicks[4] + clicks[3]) / 2)
    assert not bag[0].any() and bag.shape[0] == 12

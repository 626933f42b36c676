"""Towers → ONNX files that obey the graph contract, checked against PyTorch before anybody gets them."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from twotower_server.features.encode import Encoded
from twotower_server.towers import tower as onnx_tower
from twotower_server.train.errors import TrainingFailed
from twotower_server.train.inputs import Batch, Inputs
from twotower_server.train.model import Tower

OPSET = 20
MAX_IR_VERSION = 10
# float32 sums in another order differ by less; anything wrong differs by more.
MAX_DIFFERENCE = 1e-4
_ROWS = 256


class _Positional(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """The tower with its inputs as arguments, which is what the exporter takes."""

    def __init__(self, tower: Tower, names: list[str]) -> None:
        super().__init__()
        self._tower = tower
        self._names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._tower(dict(zip(self._names, inputs, strict=True)))


def export_tower(tower: Tower, sample: Batch, path: Path) -> None:
    """Writes one tower. sample: a few encoded rows, which show names and shapes."""
    tower.eval()
    names = list(sample)
    batch = torch.export.Dim("batch")
    # The exporter tells its steps, and warns about its own insides.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Positional(tower, names).eval(),
            tuple(sample.values()),
            input_names=names,
            dynamic_shapes=(tuple({0: batch} for _ in names),),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    graph = program.model_proto
    graph.ir_version = min(graph.ir_version, MAX_IR_VERSION)
    graph.doc_string = ""
    for node in graph.graph.node:
        # Where in our sources a node comes from, with paths of this machine: no business of a release.
        del node.metadata_props[:]
        node.doc_string = ""
    del graph.graph.metadata_props[:]
    _name_output(graph.graph)
    onnx.checker.check_model(graph)
    path.write_bytes(graph.SerializeToString())


def _name_output(graph: onnx.GraphProto) -> None:
    """Gives the output its name. The exporter calls look-ups `embedding` too, and would let both have the
    name.
    """
    names = {onnx_tower.OUTPUT: f"{onnx_tower.OUTPUT}_looked_up", graph.output[0].name: onnx_tower.OUTPUT}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)


def check_parity(tower: Tower, path: Path, inputs: Inputs, seed: int) -> float:
    """The largest difference of an element between PyTorch and the file, on a few hundred rows.

    Rows as they are, rows with some features missing, one with all, in one batch and one by one. Where elements
    are larger than 1, it is a share of the batch's largest. Raises TrainingFailed when it is above MAX_DIFFERENCE,
    ReleaseRefused when the file does not fit its schema.
    """
    session = onnx_tower.Tower(path, tower.schema)
    random = torch.Generator().manual_seed(seed)
    rows = np.unique(np.linspace(0, len(inputs) - 1, _ROWS).astype(np.int64))
    whole = inputs.take(rows)
    batches = [whole, inputs.drop_features(whole, 0.5, random)]
    nothing = inputs.drop_features(inputs.take(rows[:1]), 1.1, random)
    batches.append(nothing)
    for batch in batches[:2]:
        batches += [{name: tensor[i : i + 1] for name, tensor in batch.items()} for i in range(32)]
    difference = 0.0
    for batch in batches:
        if not next(iter(batch.values())).shape[0]:
            continue  # fewer rows than are looked at one by one
        with torch.no_grad():
            expected = tower(batch).numpy()
        arrays = {name: tensor.numpy() for name, tensor in batch.items()}
        encoded = Encoded(arrays.get("numeric"), arrays.get("ids"), arrays.get("weights"), [])
        found = session.run(encoded)
        worst = float(np.abs(expected - found).max() / max(1.0, float(np.abs(expected).max())))
        # So that a NaN does not pass.
        if not worst <= MAX_DIFFERENCE:
            raise TrainingFailed(
                f"{path.name} differs from PyTorch by {worst:g}, more than {MAX_DIFFERENCE:g}; nothing was "
                "written. Are there numbers far outside the training data? `clip` bounds them"
            )
        difference = max(difference, worst)
    return difference

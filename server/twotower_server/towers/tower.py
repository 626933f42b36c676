"""One tower: an ONNX graph, checked against its schema, run on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from twotower_server.errors import ReleaseRefused
from twotower_server.features.encode import Encoded
from twotower_server.features.schema import PADDING_ID, TowerSchema

OUTPUT = "embedding"
MAX_GRAPH_BYTES = 2**31 - 1  # protobuf's own limit
_TYPES = {"numeric": "tensor(float)", "ids": "tensor(int64)", "weights": "tensor(float)"}


class Tower:
    """A user or item tower. Safe to call from several threads.

    dimension: columns of the output.
    """

    def __init__(self, graph: Path, schema: TowerSchema, *, threads: int = 1) -> None:
        """Opens a graph. Raises ReleaseRefused when it is no ONNX graph or does not fit the schema."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4  # its log lines hold paths; what fails is raised
        # From bytes, never from a path: a graph may then not name data files outside the release.
        try:
            content = graph.read_bytes()
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except FileNotFoundError:
            raise ReleaseRefused(f"{graph.name} is missing") from None
        except Exception as error:  # onnxruntime raises types of its own for every kind of damage
            raise ReleaseRefused(f"{graph.name} cannot be opened as an ONNX graph: {_first_line(error)}") from None
        self.name = graph.name
        self.dimension = self._check(schema)

    def run(self, encoded: Encoded) -> NDArray[np.float32]:
        """Embeddings of encoded rows: float32 [n, dimension]."""
        result: NDArray[np.float32] = self._session.run([OUTPUT], encoded.inputs())[0]
        return result

    def _check(self, schema: TowerSchema) -> int:
        wanted = {"numeric": schema.numeric_width, "ids": schema.ids_width, "weights": schema.weights_width}
        wanted = {name: width for name, width in wanted.items() if width}
        inputs = {node.name: node for node in self._session.get_inputs()}
        if set(inputs) != set(wanted):
            raise ReleaseRefused(
                f"{self.name} has inputs {sorted(inputs)}, the {schema.side} schema gives {sorted(wanted)}"
            )
        for name, width in wanted.items():
            node = inputs[name]
            if node.type != _TYPES[name]:
                raise ReleaseRefused(f"{self.name}: input {name} is {node.type}, not {_TYPES[name]}")
            if len(node.shape) != 2 or isinstance(node.shape[0], int):
                raise ReleaseRefused(f"{self.name}: input {name} has shape {node.shape}, not [batch, {width}]")
            if isinstance(node.shape[1], int) and node.shape[1] != width:
                raise ReleaseRefused(
                    f"{self.name}: input {name} has {node.shape[1]} columns, the {schema.side} schema gives {width}"
                )
        outputs = {node.name: node for node in self._session.get_outputs()}
        if OUTPUT not in outputs:
            raise ReleaseRefused(f"{self.name} has no output named {OUTPUT}, but {sorted(outputs)}")
        node = outputs[OUTPUT]
        if node.type != "tensor(float)" or len(node.shape) != 2:
            raise ReleaseRefused(f"{self.name}: output {OUTPUT} is {node.type} {node.shape}, not float32 [batch, D]")
        return self._dimension(node.shape[1], schema)

    def _dimension(self, stated: Any, schema: TowerSchema) -> int:
        """The columns of the output, stated or found by running a row of zeros and one of the greatest ids."""
        greatest = [feature.table_rows - 1 for feature in schema.categorical for _ in range(feature.width)]
        rows = Encoded(
            np.zeros((2, schema.numeric_width), np.float32) if schema.numeric_width else None,
            np.array([[PADDING_ID] * len(greatest), greatest], np.int64) if greatest else None,
            np.zeros((2, schema.weights_width), np.float32) if schema.weights_width else None,
            use=[],
        )
        try:
            shape = self.run(rows).shape
        except Exception as error:
            raise ReleaseRefused(
                f"{self.name} fails on a row of zeros or of the greatest ids of the {schema.side} schema: "
                f"{_first_line(error)}"
            ) from None
        if shape[0] != 2 or (isinstance(stated, int) and shape[1] != stated):
            raise ReleaseRefused(f"{self.name}: output {OUTPUT} has shape {shape} for two rows")
        return int(shape[1])


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__

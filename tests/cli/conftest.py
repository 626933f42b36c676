"""A small release that is really built, and real servers of it."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Command, Running
from tests.supervisor.running import Server
from twotower_server.cli.exit_code import ExitCode
from twotower_server.features.schema import Schema
from twotower_server.release.build import Recipe, build_release

ITEMS = 200
DIMENSION = 4

StartServer = Callable[..., Server]
Query = Callable[..., tuple[int, str, str]]


def _feature(name: str) -> dict[str, object]:
    return {"name": name, "kind": "numeric", "missing": {"rule": "constant", "value": 0}}


def _tower(path: Path, columns: int, seed: int) -> None:
    """Multiplies the numeric features by a random matrix: float32 [n, columns] → [n, DIMENSION]."""
    weights = np.random.default_rng(seed).normal(size=(columns, DIMENSION)).astype(np.float32)
    node = onnx.helper.make_node("MatMul", ["numeric", "weights"], ["embedding"])
    value_info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "tower",
        [value_info("numeric", onnx.TensorProto.FLOAT, ["n", columns])],
        [value_info("embedding", onnx.TensorProto.FLOAT, ["n", DIMENSION])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


@pytest.fixture(scope="session")
def built_releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the active release `r1` of 200 items. For every test: do not change it."""
    folder = tmp_path_factory.mktemp("built")
    model = folder / "model"
    model.mkdir()
    user, item = ["user_age", "user_ctr"], ["item_price", "item_ctr"]
    sides = {"user": user, "item": item}
    schema = {
        side: {"transforms": "server", "features": [_feature(name) for name in names]} for side, names in sides.items()
    }
    Schema.from_json({"format": 1, **schema}).dump(model / "schema.json")
    _tower(model / "user_tower.onnx", len(user), seed=1)
    _tower(model / "item_tower.onnx", len(item), seed=2)
    about = {
        "format": 1,
        "dimension": DIMENSION,
        "similarity": "dot",
        "calibration": {"scale": 1.0, "bias": 0.0},
    }
    (model / "model.json").write_text(json.dumps(about))
    random = np.random.default_rng(3)
    users = {"user_id": [f"u{i}" for i in range(50)], **{name: random.random(50) for name in user}}
    pq.write_table(pa.table(users), model / "users.parquet")
    items = {"item_id": [f"i{i}" for i in range(ITEMS)], **{name: random.random(ITEMS) for name in item}}
    pq.write_table(pa.table(items), folder / "items.parquet")
    build_release(Recipe("r1", model, folder / "items.parquet"), folder / "releases", activate=True)
    return folder / "releases"


@pytest.fixture
def start_server(built_releases: Path, tmp_path: Path) -> Iterator[StartServer]:
    """Starts `twotower serve` with options, on a free port, with stamps of its own for each test."""
    started: list[Server] = []
    number = itertools.count()

    def start(*options: str) -> Server:
        command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(built_releases)]
        command += ["--data", str(tmp_path / "data"), "--listen", "localhost:0", *options]
        started.append(Server(command, tmp_path / f"log-{next(number)}", {}))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def silent_target() -> Iterator[str]:
    """A port where connections are taken and nothing is ever said."""
    with socket.create_server(("localhost", 0)) as listening:
        yield f"localhost:{listening.getsockname()[1]}"


@pytest.fixture
def query(server: Running, run_twotower: Command) -> Query:
    """Runs `twotower query` on the server of the release `dot`: exit code, standard output, standard error."""

    def run(*arguments: str, target: str | None = None) -> tuple[int, str, str]:
        return run_twotower("query", *arguments, "--target", target or server.target)

    return run


@pytest.fixture
def asked(query: Query) -> Callable[..., Any]:
    """The JSON document of a query that is answered."""

    def run(*arguments: str) -> Any:
        code, out, err = query(*arguments, "--json")
        assert (code, err) == (ExitCode.OK, "")
        return json.loads(out)

    return run

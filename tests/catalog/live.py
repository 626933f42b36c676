"""A server whose catalog changes, seen over many connections."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tests.conftest import ATTRIBUTES
from tests.model_folder import item_table, write_model
from tests.reliability.serving import OWN_CONNECTION, Own, connected, starting
from tests.rpc.messages import item
from tests.rpc.recomputed import Features
from tests.supervisor.running import Server, until
from twotower import v1
from twotower_server.items.attribute import AttributeValue
from twotower_server.release.build import Recipe, build_release

# What the supervisor logs of every worker that begins to serve.
READY = "is ready (process"
# So many that both of two workers have some.
CONNECTIONS = 10


@dataclass(frozen=True, slots=True)
class Connection:
    serving: v1.TwoTowerServiceStub
    catalog: v1.CatalogServiceStub


@dataclass(slots=True)
class Live:
    """A running server. Changes go over one connection after the other."""

    own: Own
    connections: list[Connection]
    turns: Iterator[Connection]

    def upsert(self, *changes: v1.ItemChange) -> v1.UpsertItemsResponse:
        """Upserts what has to be accepted."""
        answer = self.tried(*changes)
        assert not answer.problems, answer.problems
        return answer

    def tried(self, *changes: v1.ItemChange) -> v1.UpsertItemsResponse:
        answer: v1.UpsertItemsResponse = next(self.turns).catalog.UpsertItems(v1.UpsertItemsRequest(changes=changes))
        return answer

    def delete(self, *item_ids: str) -> v1.DeleteItemsResponse:
        answer: v1.DeleteItemsResponse = next(self.turns).catalog.DeleteItems(v1.DeleteItemsRequest(item_ids=item_ids))
        return answer

    def everywhere(self, call: Callable[[v1.TwoTowerServiceStub], Any], equals: Any) -> None:
        """Checks the answer over every connection."""
        assert [call(connection.serving) for connection in self.connections] == [equals] * len(self.connections)

    def vectors(self, item_id: str, release: str) -> list[NDArray[np.float32] | None]:
        """What is stored, over every connection; None where it is not found."""
        request = v1.GetItemEmbeddingRequest(item_id=item_id, release=release)
        return [_vector(connection.serving, request) for connection in self.connections]

    def has(self, item_id: str, release: str) -> bool:
        """Whether a release has an item, on which all connections must agree."""
        found = {vector is not None for vector in self.vectors(item_id, release)}
        assert len(found) == 1, f"only some connections have {item_id}"
        return found.pop()

    def check_vector(self, item_id: str, release: str, expected: NDArray[np.floating[Any]]) -> None:
        for vector in self.vectors(item_id, release):
            assert vector is not None
            np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)


def _vector(serving: v1.TwoTowerServiceStub, request: v1.GetItemEmbeddingRequest) -> NDArray[np.float32] | None:
    try:
        embedding = serving.GetItemEmbedding(request).embedding
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.NOT_FOUND, error
        return None
    assert embedding.release == request.release
    return np.array(embedding.values, np.float32)


@contextmanager
def living(folder: Path, data: Path, *options: str) -> Iterator[Live]:
    """Starts a server of a releases folder with two workers."""
    with starting(folder, data, "--workers", "2", *options) as server, connected(server) as own, reached(own) as live:
        yield live


@contextmanager
def reached(own: Own) -> Iterator[Live]:
    """Connects anew to a server."""
    with ExitStack() as opened:
        channels = [opened.enter_context(grpc.insecure_channel(own.target, OWN_CONNECTION)) for _ in range(CONNECTIONS)]
        connections = [Connection(v1.TwoTowerServiceStub(c), v1.CatalogServiceStub(c)) for c in channels]
        yield Live(own, connections, itertools.cycle(connections))


def own_releases(releases: Path, folder: Path, active: str = "dot") -> Path:
    """A releases folder of a test's own, with links to others."""
    folder.mkdir()
    for release in releases.iterdir():
        if release.is_dir():
            (folder / release.name).symlink_to(release)
    (folder / "active").write_text(f"{active}\n")
    return folder


def build(name: str, folder: Path, releases: Path, *, items: int = 40, log_position: int = 0) -> Path:
    """Builds another release: its own towers, the first of the items."""
    model = write_model(folder / f"model-{name}", seed=sum(name.encode()))
    pq.write_table(item_table(items), folder / f"{name}.parquet")
    recipe = Recipe(name, model, folder / f"{name}.parquet", attributes=ATTRIBUTES, log_position=log_position)
    return build_release(recipe, releases)


def by_features(item_id: str, features: Features, sequence: int = 0, **attributes: AttributeValue) -> v1.ItemChange:
    return v1.ItemChange(
        item=item(features, item_id=item_id), attributes=attribute_values(attributes), sequence=sequence
    )


def by_vector(
    item_id: str, release: str, vector: Sequence[float], sequence: int = 0, **attributes: AttributeValue
) -> v1.ItemChange:
    embedding = v1.Embedding(release=release, values=vector)
    return v1.ItemChange(
        item=v1.Item(item_id=item_id),
        embedding=embedding,
        attributes=attribute_values(attributes),
        sequence=sequence,
    )


def attribute_values(values: Mapping[str, AttributeValue]) -> dict[str, v1.AttributeValue]:
    found = {}
    for name, value in values.items():
        if isinstance(value, bool):
            found[name] = v1.AttributeValue(flag=value)
        elif isinstance(value, str):
            found[name] = v1.AttributeValue(text=value)
        elif isinstance(value, list):
            found[name] = v1.AttributeValue(texts=v1.StringList(values=value))
        else:
            found[name] = v1.AttributeValue(number=value)
    return found


def workers(server: Server) -> list[int]:
    """Process ids of the workers, the verifier left out."""
    return [pid for pid in server.children() if b"run_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def replaced(server: Server, worker: int) -> None:
    """Kills a worker and waits until another is ready in its place."""
    ready = server.log().count(READY)
    os.kill(worker, signal.SIGKILL)
    until(lambda: server.log().count(READY) > ready)

"""Callers that use every path on which vectors of two releases could meet, and recognise when they do."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
import numpy as np

from tests.reliability.serving import OWN_CONNECTION, Own
from tests.rpc.messages import ITEM, USER, item, user
from tests.rpc.recomputed import Recomputed
from tests.supervisor.running import PATIENCE_S
from twotower import v1

T = TypeVar("T")

USERS = 12
RPCS = {
    "GetUserEmbedding",
    "BatchGetUserEmbeddings",
    "GetItemEmbedding",
    "BatchGetItemEmbeddings",
    "Score",
    "BatchScore",
    "Recommend",
    "SearchItems",
    "GetServingInfo",
}
# Then a new connection: so workers that have just started get some, too.
_FLOWS_A_CONNECTION = 5
IDS = [f"i{i}" for i in range(0, 200, 9)]
IN_STOCK = v1.Filter(all_of=[v1.AnyOf(conditions=[v1.Condition(attribute="in_stock", flag=True)])])


@dataclass(frozen=True, slots=True)
class Observed:
    """One entry without pin or vector: when it was sent and answered (monotonic seconds), and by which release."""

    sent: float
    answered: float
    release: str
    rpc: str


@dataclass(frozen=True, slots=True)
class Switched:
    """When ActivateRelease was called and returned (monotonic seconds), and what it made active."""

    called: float
    returned: float
    release: str


class Mixed(AssertionError):
    """An answer that no single release gives."""


class Expected:
    """What each release answers, worked out from its files alone."""

    def __init__(self, folder: Path) -> None:
        self._own = own = Recomputed(folder)
        self.release = own.name
        self.users = [own.user(features_of(i)) for i in range(USERS)]
        self.item = own.item(ITEM)
        self.vectors = own.vectors
        self.row = own.rows

    def check_vector(self, what: str, values: Any, expected: Any) -> None:
        if len(values) != len(expected) or not np.allclose(values, expected, rtol=1e-4, atol=1e-5):
            raise Mixed(f"{what}: {list(values)} is no vector of {self.release}")

    def check_scores(self, what: str, answer: v1.ScoreResponse, query: Any, vectors: Any | None = None) -> None:
        """That all similarities are those of this release. vectors: of the candidates; None = of IDS."""
        vectors = self.vectors[[self.row[id] for id in IDS]] if vectors is None else vectors
        self._check(what, answer.similarities, vectors @ query)
        self._check(what, answer.scores, self._own.scores(answer.similarities))

    def check_items(self, what: str, items: Sequence[v1.ScoredItem], query: Any) -> None:
        if not items:
            raise Mixed(f"{what}: nothing was found")
        for found in items:
            vector = self.vectors[self.row[found.item_id]]
            self._check(what, [found.similarity], [vector @ query])
            self.check_vector(what, found.embedding.values, vector)
            title = found.attributes["title"].text
            if not title.startswith(f"{self.release} "):
                raise Mixed(f"{what}: {title!r} is no title of {self.release}")

    def _check(self, what: str, values: Any, expected: Any) -> None:
        if len(values) != len(expected) or 0 in values or not np.allclose(values, expected, rtol=1e-3, atol=1e-4):
            raise Mixed(f"{what}: {list(values)} is not of {self.release}, which has {list(expected)}")


def features_of(number: int) -> Mapping[str, Any]:
    """Features of a user, each with others."""
    return {**USER, "user_age": 20.0 + number, "user_city": ["Berlin", "Paris", "Oslo"][number % 3]}


def caller(number: int) -> v1.User:
    return user(features_of(number), user_id=f"u{number}")


@dataclass(slots=True)
class Load:
    """Callers on connections of their own."""

    target: str
    expected: Mapping[str, Expected]
    caller: Callable[[int], v1.User] = caller  # whom a call is for: a user with the features of this number
    deadline_s: float | None = None  # of every call
    kills: bool = False  # a worker may be killed: connections to it break, which is all that a caller may see of it
    pins: list[str] = field(default_factory=list)  # releases that calls may pin
    observed: list[Observed] = field(default_factory=list)

    async def run(self, connections: int, during: Callable[[], Awaitable[None]]) -> None:
        """Calls from so many connections until `during` has ended. Raises what a call or a check raises."""
        async with asyncio.TaskGroup() as group:
            callers = [group.create_task(self._call(number)) for number in range(connections)]
            try:
                await during()
            finally:
                for task in callers:
                    task.cancel()

    async def answered(self, rpcs: set[str], since: float) -> None:
        """Waits until each of the RPCs was sent after `since` and answered."""
        place = len(self.observed)
        while missing := rpcs - {entry.rpc for entry in self.observed[place:] if entry.sent > since}:
            rpcs, place = missing, len(self.observed)
            await asyncio.sleep(0.005)

    async def _call(self, number: int) -> None:
        order = random.Random(number)
        options: list[tuple[str, Any]] = [*OWN_CONNECTION]
        if self.deadline_s is not None:
            config = {"methodConfig": [{"name": [{}], "timeout": f"{self.deadline_s}s"}]}
            options.append(("grpc.service_config", json.dumps(config)))
        while True:
            async with grpc.aio.insecure_channel(self.target, options=options) as channel:
                stub: Any = v1.TwoTowerServiceStub(channel)
                for _ in range(_FLOWS_A_CONNECTION):
                    try:
                        await order.choice(_FLOWS)(self, stub, order.randrange(USERS))
                    except grpc.aio.AioRpcError as error:
                        if not (self.kills and broken(error)):
                            raise

    async def _observe(self, call: Any, request: Any) -> tuple[Any, Expected]:
        """An answer without pin or vector, and what its release answers."""
        sent = time.monotonic()
        answer = await call(request)
        rpc = type(request).__name__.removesuffix("Request")
        self.observed.append(Observed(sent, time.monotonic(), answer.release, rpc))
        return answer, self.expected[answer.release]

    # ---- flows: what is asked next depends on what was answered before

    async def _embed_then_score(self, stub: Any, number: int) -> None:
        request = v1.GetUserEmbeddingRequest(user=self.caller(number))
        embedded, expected = await self._observe(stub.GetUserEmbedding, request)
        _same(embedded.embedding.release, expected.release)
        expected.check_vector("GetUserEmbedding", embedded.embedding.values, expected.users[number])
        answer = await stub.Score(v1.ScoreRequest(embedding=embedded.embedding, item_ids=IDS))
        _same(answer.release, expected.release)
        expected.check_scores("Score by embedding", answer, expected.users[number])

    async def _embed_then_recommend(self, stub: Any, number: int) -> None:
        request = v1.GetUserEmbeddingRequest(user=self.caller(number))
        embedded, expected = await self._observe(stub.GetUserEmbedding, request)
        recommended = await stub.Recommend(
            v1.RecommendRequest(
                embedding=embedded.embedding,
                k=5,
                filter=IN_STOCK,
                include_embeddings=True,
                return_attributes=["title"],
            )
        )
        _same(recommended.release, expected.release)
        expected.check_items("Recommend by embedding", recommended.items, expected.users[number])

    async def _recommend_then_score(self, stub: Any, number: int) -> None:
        request = v1.RecommendRequest(
            user=self.caller(number), k=5, filter=IN_STOCK, include_embeddings=True, return_attributes=["title"]
        )
        answer, expected = await self._observe(stub.Recommend, request)
        _same(answer.user_embedding.release, expected.release)
        expected.check_vector("Recommend", answer.user_embedding.values, expected.users[number])
        expected.check_items("Recommend", answer.items, expected.users[number])
        again = await stub.Score(
            v1.ScoreRequest(embedding=answer.user_embedding, item_ids=[found.item_id for found in answer.items])
        )
        _same(again.release, expected.release)
        rows = [expected.row[found.item_id] for found in answer.items]
        expected.check_scores("Score of what was recommended", again, expected.users[number], expected.vectors[rows])

    async def _score(self, stub: Any, number: int) -> None:
        request = v1.ScoreRequest(user=self.caller(number), item_ids=IDS)
        answer, expected = await self._observe(stub.Score, request)
        expected.check_scores("Score", answer, expected.users[number])

    async def _score_features(self, stub: Any, number: int) -> None:
        request = v1.ScoreRequest(user=self.caller(number), items=[item(ITEM)] * 5)
        answer, expected = await self._observe(stub.Score, request)
        expected.check_scores(
            "Score of features", answer, expected.users[number], np.array([expected.item] * 5, np.float32)
        )

    async def _batches(self, stub: Any, number: int) -> None:
        numbers, pins = [(number + i) % USERS for i in range(6)], tuple(self.pins)
        users = [self.caller(n) for n in numbers]
        request = v1.BatchGetUserEmbeddingsRequest(users=users)
        sent = time.monotonic()
        batch = await stub.BatchGetUserEmbeddings(request)
        (release,) = batch.releases
        self.observed.append(Observed(sent, time.monotonic(), release, "BatchGetUserEmbeddings"))
        for n, embedding in zip(numbers, batch.embeddings, strict=True):
            _same(embedding.release, release)
            self.expected[release].check_vector(
                "BatchGetUserEmbeddings", embedding.values, self.expected[release].users[n]
            )
        # Entries by vector, by features and by a pin, of one release and the other.
        entries = [v1.ScoreRequest(embedding=embedding, item_ids=IDS) for embedding in batch.embeddings[:3]]
        entries += [v1.ScoreRequest(user=user, item_ids=IDS) for user in users[3:]]
        entries += [v1.ScoreRequest(user=user, item_ids=IDS, release=name) for user in users[:2] for name in pins]
        sent = time.monotonic()
        answer = await stub.BatchScore(v1.BatchScoreRequest(requests=entries))
        answered = time.monotonic()
        if answer.problems:
            raise Mixed(f"BatchScore: {answer.problems}")
        asked = [*numbers, *(n for n in numbers[:2] for _ in pins)]
        for entry, n, scored in zip(entries, asked, answer.responses, strict=True):
            pinned = entry.embedding.release or entry.release
            if pinned:
                _same(scored.release, pinned)
            else:
                self.observed.append(Observed(sent, answered, scored.release, "BatchScore"))
            self.expected[scored.release].check_scores("BatchScore", scored, self.expected[scored.release].users[n])

    async def _items(self, stub: Any, number: int) -> None:
        stored, expected = await self._observe(
            stub.BatchGetItemEmbeddings,
            v1.BatchGetItemEmbeddingsRequest(item_ids=IDS, encoding=v1.EMBEDDING_ENCODING_MATRIX),
        )
        vectors = expected.vectors[[expected.row[id] for id in IDS]]
        expected.check_vector("BatchGetItemEmbeddings", np.frombuffer(stored.matrix.values, "<f4"), vectors.ravel())
        computed, expected = await self._observe(
            stub.BatchGetItemEmbeddings, v1.BatchGetItemEmbeddingsRequest(items=[item(ITEM)] * 5)
        )
        for embedding in computed.embeddings:
            _same(embedding.release, expected.release)
            expected.check_vector("BatchGetItemEmbeddings of features", embedding.values, expected.item)
        near = await stub.SearchItems(
            v1.SearchItemsRequest(
                embedding=computed.embeddings[0],
                k=3,
                filter=IN_STOCK,
                include_embeddings=True,
                return_attributes=["title"],
            )
        )
        _same(near.release, expected.release)
        expected.check_items("SearchItems by embedding", near.items, expected.item)

    async def _neighbours(self, stub: Any, number: int) -> None:
        id = IDS[number]
        request = v1.SearchItemsRequest(
            item_id=id, k=3, filter=IN_STOCK, include_embeddings=True, return_attributes=["title"]
        )
        near, expected = await self._observe(stub.SearchItems, request)
        expected.check_items("SearchItems", near.items, expected.vectors[expected.row[id]])
        one, expected = await self._observe(stub.GetItemEmbedding, v1.GetItemEmbeddingRequest(item_id=id))
        _same(one.embedding.release, expected.release)
        expected.check_vector("GetItemEmbedding", one.embedding.values, expected.vectors[expected.row[id]])

    async def _info(self, stub: Any, number: int) -> None:
        sent = time.monotonic()
        info = await stub.GetServingInfo(v1.GetServingInfoRequest())
        self.observed.append(Observed(sent, time.monotonic(), info.active_release, "GetServingInfo"))
        (active,) = [release for release in info.releases if release.active]
        _same(active.release, info.active_release)


_FLOWS: tuple[Any, ...] = (
    Load._embed_then_score,
    Load._embed_then_recommend,
    Load._recommend_then_score,
    Load._score,
    Load._score_features,
    Load._batches,
    Load._items,
    Load._neighbours,
    Load._info,
)


def _same(release: str, expected: str) -> None:
    if release != expected:
        raise Mixed(f"{release} has answered, not {expected}")


def broken(error: Any) -> bool:
    """Whether a connection broke; what the server itself says is another matter."""
    return error.code() is grpc.StatusCode.UNAVAILABLE and not str(error.details()).startswith("NOT_READY")


async def switched(own: Own, release: str) -> Switched:
    """Activates a release; again, when the worker that passes it on was killed."""
    called = time.monotonic()
    await asyncio.to_thread(persisting, own, lambda: own.activate(release))
    return Switched(called, time.monotonic(), release)


def persisting(own: Own, call: Callable[[], T]) -> T:
    """Calls again whenever the connection breaks."""
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if not broken(error):
                raise
            grpc.channel_ready_future(own.channel).result(PATIENCE_S)


def stale(observed: list[Observed], switches: list[Switched]) -> list[Observed]:
    """Answers by a release that was not active at any moment from the sending of the request to its answer."""
    found = []
    for entry in observed:
        returned = [switch.release for switch in switches if switch.returned <= entry.sent]
        during = {
            switch.release for switch in switches if switch.called <= entry.answered and switch.returned > entry.sent
        }
        if entry.release not in {returned[-1], *during}:
            found.append(entry)
    return found

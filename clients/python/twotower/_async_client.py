"""The asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

import grpc

from twotower import _request, v1
from twotower._channel import Tls, Token, channel_arguments, credentials_of
from twotower._errors import ErrorReason, ReleaseNotLoaded
from twotower._filter import FilterLike
from twotower._releases import AsyncReleases
from twotower._request import ItemIds, ItemKeys
from twotower._result import (
    BatchScores,
    CacheMode,
    Embedding,
    ItemEmbedding,
    ItemEmbeddings,
    Recommendations,
    Scores,
    SearchResults,
    ServingInfo,
    UserEmbedding,
    UserEmbeddings,
)
from twotower._retry import RetryPolicy
from twotower._transport import AsyncTransport, Metadata


class _AsyncCalls:
    """The calls, which `AsyncClient` and `AsyncPinnedClient` share.

    Every call takes `timeout_s`, the seconds for all its attempts together (None = the client's), and raises
    a `TwoTowerError`. `release` pins the call to a release (None = the client's pin, or routed by the
    server).
    """

    def __init__(self, transport: AsyncTransport, release: str) -> None:
        self._transport = transport
        self._release = release

    async def get_user_embedding(
        self,
        user: v1.User,
        *,
        cache_mode: CacheMode = CacheMode.DEFAULT,
        release: str | None = None,
        timeout_s: float | None = None,
    ) -> UserEmbedding:
        """The vector of one user; see `twotower.user`."""
        call = _request.get_user_embedding(user, self._pin(release), cache_mode)
        return await self._transport.run(call, timeout_s)

    async def batch_get_user_embeddings(
        self,
        users: Iterable[v1.User],
        *,
        cache_mode: CacheMode = CacheMode.DEFAULT,
        release: str | None = None,
        timeout_s: float | None = None,
    ) -> UserEmbeddings:
        """The vectors of many users as one matrix. A bad user fails alone, in `problems`."""
        call = _request.batch_get_user_embeddings(users, self._pin(release), cache_mode)
        return await self._transport.run(call, timeout_s)

    async def get_item_embedding(
        self, item: str | v1.Item, *, release: str | None = None, timeout_s: float | None = None
    ) -> ItemEmbedding:
        """The vector of an item: the stored one of an id, or computed from features (`twotower.item`)."""
        return await self._transport.run(_request.get_item_embedding(item, self._pin(release)), timeout_s)

    async def batch_get_item_embeddings(
        self,
        item_ids: ItemIds = (),
        *,
        item_keys: ItemKeys = (),
        items: Iterable[v1.Item] = (),
        release: str | None = None,
        timeout_s: float | None = None,
    ) -> ItemEmbeddings:
        """The vectors of many items as one matrix, by exactly one of ids, keys (uint64) and features."""
        call = _request.batch_get_item_embeddings(item_ids, item_keys, items, self._pin(release))
        return await self._transport.run(call, timeout_s)

    async def score(
        self,
        user: v1.User | Embedding,
        item_ids: ItemIds = (),
        *,
        item_keys: ItemKeys = (),
        items: Iterable[v1.Item] = (),
        require_all: bool = False,
        cache_mode: CacheMode = CacheMode.DEFAULT,
        release: str | None = None,
        timeout_s: float | None = None,
    ) -> Scores:
        """Scores of candidates for a user or a user's vector, by exactly one of ids, keys (uint64) and
        features.

        require_all: a candidate that the catalog lacks makes the whole call NotFound, instead of scoring 0.
        """
        call = _request.score(user, item_ids, item_keys, items, require_all, cache_mode, self._pin(release))
        return await self._transport.run(call, timeout_s)

    async def batch_score(
        self,
        requests: Iterable[v1.ScoreRequest],
        *,
        release: str | None = None,
        timeout_s: float | None = None,
    ) -> BatchScores:
        """Many `score` calls in one; see `twotower.score_request`. A bad request fails alone, in `problems`.

        release: for the requests that name none.
        """
        return await self._transport.run(_request.batch_score(requests, self._pin(release)), timeout_s)

    async def recommend(
        self,
        user: v1.User | Embedding,
        k: int = 0,
        *,
        filter: FilterLike | None = None,
        exclude_item_ids: ItemIds = (),
        exclude_item_keys: ItemKeys = (),
        return_attributes: Sequence[str] = (),
        include_embeddings: bool = False,
        cache_mode: CacheMode = CacheMode.DEFAULT,
        release: str | None = None,
        timeout_s: float | None = None,
    ) -> Recommendations:
        """The k best items of the catalog for a user or a user's vector; k = 0 means 100.

        filter: see `twotower.where`. Exclusions by id and by key add up. return_attributes: names to return.
        """
        call = _request.recommend(
            user,
            k,
            filter,
            exclude_item_ids,
            exclude_item_keys,
            return_attributes,
            include_embeddings,
            cache_mode,
            self._pin(release),
        )
        return await self._transport.run(call, timeout_s)

    async def search_items(
        self,
        item: str | v1.Item | Embedding,
        k: int = 0,
        *,
        filter: FilterLike | None = None,
        exclude_item_ids: ItemIds = (),
        exclude_item_keys: ItemKeys = (),
        return_attributes: Sequence[str] = (),
        include_embeddings: bool = False,
        release: str | None = None,
        timeout_s: float | None = None,
    ) -> SearchResults:
        """The k items nearest to an item (by id, which excludes itself, or by features) or to a vector; k = 0
        means 100. The other arguments are those of `recommend`."""
        call = _request.search_items(
            item,
            k,
            filter,
            exclude_item_ids,
            exclude_item_keys,
            return_attributes,
            include_embeddings,
            self._pin(release),
        )
        return await self._transport.run(call, timeout_s)

    async def serving_info(self, *, release: str | None = None, timeout_s: float | None = None) -> ServingInfo:
        """The loaded releases with their schemas, the limits, what is degraded. A pin narrows it to that
        release."""
        return await self._transport.run(_request.get_serving_info(self._pin(release)), timeout_s)

    def _pin(self, release: str | None) -> str:
        return self._release if release is None else release


class AsyncPinnedClient(_AsyncCalls):
    """A view of an `AsyncClient` whose calls all go to one release. It lives as long as the client."""

    @property
    def release(self) -> str:
        """The release of the pin."""
        return self._release


class AsyncClient(_AsyncCalls):
    """The same as `Client` for asyncio; every argument means what it means there.

        async with twotower.AsyncClient("localhost:50051") as client:
            scores = await client.score(twotower.user("u1", age=34), ["i1", "i2"])

    It belongs to the event loop in which it is made; making it outside of one raises RuntimeError. Cancelling
    a task cancels its call.

    coalescing: `get_user_embedding` and `score` calls that are made at the same time leave together, which
    multiplies what a server serves. Each keeps its own time, answer and error; only `feature_use` is None for
    vectors of users that were computed together.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = 1.0,
        retry: RetryPolicy = RetryPolicy(),
        dense: bool = False,
        coalescing: bool = True,
        tls: Tls | None = None,
        token: Token | None = None,
        metadata: Metadata = (),
        connections: int = 1,
        keepalive_s: float | None = 30.0,
        options: Sequence[tuple[str, int | str]] = (),
    ) -> None:
        asyncio.get_running_loop()  # gRPC would bind the channels to another loop in silence
        if connections < 1:
            raise ValueError("connections must be at least 1")
        arguments = channel_arguments(tls, keepalive_s, options)
        credentials = credentials_of(tls, token)
        self._owned = [
            grpc.aio.insecure_channel(target, arguments)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, arguments)
            for _ in range(connections)
        ]
        super().__init__(AsyncTransport(self._owned, timeout_s, retry, dense, metadata, coalescing), "")

    @classmethod
    def from_channel(
        cls,
        channel: grpc.aio.Channel,
        *,
        timeout_s: float = 1.0,
        retry: RetryPolicy = RetryPolicy(),
        dense: bool = False,
        coalescing: bool = True,
        metadata: Metadata = (),
    ) -> Self:
        """A client on a channel of your own, with interceptors for example; `close` leaves it open.

        Set `grpc.enable_retries` to 0 on it, so that gRPC and the client do not both retry.
        """
        client = cls.__new__(cls)
        client._owned = []
        _AsyncCalls.__init__(client, AsyncTransport([channel], timeout_s, retry, dense, metadata, coalescing), "")
        return client

    @property
    def releases(self) -> AsyncReleases:
        """Lists and loads releases, switches between them, splits the traffic."""
        return AsyncReleases(self._transport)

    async def pin(self, release: str | None = None, *, timeout_s: float | None = None) -> AsyncPinnedClient:
        """A view on the same connections whose calls all go to one release: the named one, or the one that is
        active now (one call). Keep it for the client's life, or for one flow. When the server retires the
        release, the view's calls raise ReleaseNotLoaded, never another release."""
        if release is None:
            release = (await self.serving_info(timeout_s=timeout_s)).active_release
            if not release:
                raise ReleaseNotLoaded("the server has no active release", reason=ErrorReason.RELEASE_NOT_LOADED)
        return AsyncPinnedClient(self._transport, release)

    async def close(self) -> None:
        """Close the connections; calls in flight, and later ones, raise `Cancelled`."""
        self._transport.closed = True
        for channel in self._owned:
            await channel.close()
        if self._owned:
            await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

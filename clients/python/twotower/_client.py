"""The blocking client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

import grpc

from twotower import _request, v1
from twotower._channel import Tls, Token, channel_arguments, credentials_of
from twotower._errors import ErrorReason, ReleaseNotLoaded
from twotower._filter import FilterLike
from twotower._releases import Releases
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
from twotower._transport import Metadata, Transport


class _Calls:
    """The calls, which `Client` and `PinnedClient` share.

    Every call takes `timeout_s`, the seconds for all its attempts together (None = the client's), and raises
    a `TwoTowerError`. `release` pins the call to a release (None = the client's pin, or routed by the
    server).
    """

    def __init__(self, transport: Transport, release: str) -> None:
        self._transport = transport
        self._release = release

    def get_user_embedding(
        self,
        user: v1.User,
        *,
        cache_mode: CacheMode = CacheMode.DEFAULT,
        release: str | None = None,
        timeout_s: float | None = None,
    ) -> UserEmbedding:
        """The vector of one user; see `twotower.user`."""
        call = _request.get_user_embedding(user, self._pin(release), cache_mode)
        return self._transport.run(call, timeout_s)

    def batch_get_user_embeddings(
        self,
        users: Iterable[v1.User],
        *,
        cache_mode: CacheMode = CacheMode.DEFAULT,
        release: str | None = None,
        timeout_s: float | None = None,
    ) -> UserEmbeddings:
        """The vectors of many users as one matrix. A bad user fails alone, in `problems`."""
        call = _request.batch_get_user_embeddings(users, self._pin(release), cache_mode)
        return self._transport.run(call, timeout_s)

    def get_item_embedding(
        self, item: str | v1.Item, *, release: str | None = None, timeout_s: float | None = None
    ) -> ItemEmbedding:
        """The vector of an item: the stored one of an id, or computed from features (`twotower.item`)."""
        return self._transport.run(_request.get_item_embedding(item, self._pin(release)), timeout_s)

    def batch_get_item_embeddings(
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
        return self._transport.run(call, timeout_s)

    def score(
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
        return self._transport.run(call, timeout_s)

    def batch_score(
        self,
        requests: Iterable[v1.ScoreRequest],
        *,
        release: str | None = None,
        timeout_s: float | None = None,
    ) -> BatchScores:
        """Many `score` calls in one; see `twotower.score_request`. A bad request fails alone, in `problems`.

        release: for the requests that name none.
        """
        return self._transport.run(_request.batch_score(requests, self._pin(release)), timeout_s)

    def recommend(
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
        return self._transport.run(call, timeout_s)

    def search_items(
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
        return self._transport.run(call, timeout_s)

    def serving_info(self, *, release: str | None = None, timeout_s: float | None = None) -> ServingInfo:
        """The loaded releases with their schemas, the limits, what is degraded. A pin narrows it to that
        release."""
        return self._transport.run(_request.get_serving_info(self._pin(release)), timeout_s)

    def _pin(self, release: str | None) -> str:
        return self._release if release is None else release


class PinnedClient(_Calls):
    """A view of a `Client` whose calls all go to one release. It lives as long as the client."""

    @property
    def release(self) -> str:
        """The release of the pin."""
        return self._release


class Client(_Calls):
    """A client of one twotower server, or of one address with several behind it.

        with twotower.Client("localhost:50051") as client:
            user = twotower.user("u1", age=34, interest={"sport": 0.8})
            for item in client.recommend(user, k=10, return_attributes=["title"]).items:
                print(item.item_id, item.score, item.attributes["title"])

    target:      a gRPC target, such as `localhost:50051`, `dns:///host:50051`, `unix:/run/twotower.sock`.
    timeout_s:   default seconds for a call, all its attempts together; math.inf = no deadline.
    retry:       see `RetryPolicy`. All calls but those that switch releases may be sent again.
    dense:       send numeric features as one vector in the order of the server's schema: less to send and to
                 read, for callers with many features. NaN then means missing. The schema is fetched when it
                 is needed.
    tls:         None = clear text.
    token:       sent as `authorization: Bearer …`; a callable is asked before each call. Needs tls.
    metadata:    sent with each call.
    connections: kernels spread connections, not calls, over a server's workers; a busy client opens several.
    keepalive_s: ping a silent server after this many seconds while calls wait; None = never.
    options:     further gRPC channel arguments, which win over the client's.

    Threads may share a client. A gRPC channel does not survive `fork`: make the client in the child, or use
    the spawn start method (pre-fork servers: make it in the worker's start hook, not at import). Close it, or
    use it as a context manager.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = 1.0,
        retry: RetryPolicy = RetryPolicy(),
        dense: bool = False,
        tls: Tls | None = None,
        token: Token | None = None,
        metadata: Metadata = (),
        connections: int = 1,
        keepalive_s: float | None = 30.0,
        options: Sequence[tuple[str, int | str]] = (),
    ) -> None:
        if connections < 1:
            raise ValueError("connections must be at least 1")
        arguments = channel_arguments(tls, keepalive_s, options)
        credentials = credentials_of(tls, token)
        self._owned = [
            grpc.insecure_channel(target, arguments)
            if credentials is None
            else grpc.secure_channel(target, credentials, arguments)
            for _ in range(connections)
        ]
        super().__init__(Transport(self._owned, timeout_s, retry, dense, metadata), "")

    @classmethod
    def from_channel(
        cls,
        channel: grpc.Channel,
        *,
        timeout_s: float = 1.0,
        retry: RetryPolicy = RetryPolicy(),
        dense: bool = False,
        metadata: Metadata = (),
    ) -> Self:
        """A client on a channel of your own, with interceptors for example; `close` leaves it open.

        Set `grpc.enable_retries` to 0 on it, so that gRPC and the client do not both retry.
        """
        client = cls.__new__(cls)
        client._owned = []
        _Calls.__init__(client, Transport([channel], timeout_s, retry, dense, metadata), "")
        return client

    @property
    def releases(self) -> Releases:
        """Lists and loads releases, switches between them, splits the traffic."""
        return Releases(self._transport)

    def pin(self, release: str | None = None, *, timeout_s: float | None = None) -> PinnedClient:
        """A view on the same connections whose calls all go to one release: the named one, or the one that is
        active now (one call). Keep it for the client's life, or for one flow. When the server retires the
        release, the view's calls raise ReleaseNotLoaded, never another release."""
        if release is None:
            release = self.serving_info(timeout_s=timeout_s).active_release
            if not release:
                raise ReleaseNotLoaded("the server has no active release", reason=ErrorReason.RELEASE_NOT_LOADED)
        return PinnedClient(self._transport, release)

    def close(self) -> None:
        """Close the connections; calls in flight, and later ones, raise `Cancelled`."""
        self._transport.closed = True
        for channel in self._owned:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

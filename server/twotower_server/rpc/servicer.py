"""TwoTowerService: every RPC is convert → engine → convert."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version

from twotower import v1
from twotower_server.engine.engine import Engine
from twotower_server.rpc import convert
from twotower_server.rpc.handler import Method

# What a client may count on from this server, beyond the RPCs that the contract names.
CAPABILITIES = ("dense_features", "filter", "item_keys", "matrix")


async def _sound() -> Sequence[str]:
    return ()


class TwoTowerServicer:
    """Serves an engine. Errors are raised as `Refused`; `handler` turns them into statuses."""

    def __init__(self, engine: Engine, degraded: Callable[[], Awaitable[Sequence[str]]] = _sound) -> None:
        """degraded: says what of the server does not work as it should."""
        self._engine = engine
        self._degraded = degraded

    def methods(self) -> dict[str, Method]:
        """By RPC name."""
        return {
            "GetUserEmbedding": self.get_user_embedding,
            "BatchGetUserEmbeddings": self.batch_get_user_embeddings,
            "GetItemEmbedding": self.get_item_embedding,
            "BatchGetItemEmbeddings": self.batch_get_item_embeddings,
            "Score": self.score,
            "BatchScore": self.batch_score,
            "Recommend": self.recommend,
            "SearchItems": self.search_items,
            "GetServingInfo": self.get_serving_info,
        }

    async def get_user_embedding(self, request: v1.GetUserEmbeddingRequest) -> v1.GetUserEmbeddingResponse:
        user = convert.required_user(request)
        return convert.user_embedding(await self._engine.embed_user(user, request.release, request.cache_mode))

    async def batch_get_user_embeddings(
        self, request: v1.BatchGetUserEmbeddingsRequest
    ) -> v1.BatchGetUserEmbeddingsResponse:
        convert.exactly_one({"users": request.users})
        vectors = await self._engine.embed_users(request.users, request.release, request.cache_mode)
        return convert.user_embeddings(vectors, request.encoding)

    async def get_item_embedding(self, request: v1.GetItemEmbeddingRequest) -> v1.GetItemEmbeddingResponse:
        if convert.exactly_one({"item_id": request.item_id, "item": request.HasField("item")}) == "item":
            item = self._engine.embed_item(request.item, request.release)
        else:
            item = await self._engine.item_vector(request.item_id, request.release)
        return v1.GetItemEmbeddingResponse(
            embedding=convert.embedding(item.values, item.release),
            release=item.release,
            source=item.source,  # type: ignore[arg-type]
        )

    async def batch_get_item_embeddings(
        self, request: v1.BatchGetItemEmbeddingsRequest
    ) -> v1.BatchGetItemEmbeddingsResponse:
        vectors = await self._engine.item_vectors(convert.candidates(request), request.release)
        return convert.item_embeddings(vectors, request.encoding)

    async def score(self, request: v1.ScoreRequest) -> v1.ScoreResponse:
        return convert.score(await self._engine.score(convert.score_entry(request)))

    async def batch_score(self, request: v1.BatchScoreRequest) -> v1.BatchScoreResponse:
        convert.exactly_one({"requests": request.requests})
        self._engine.limits.check("users", len(request.requests), "requests")
        return convert.scores(await self._engine.score_batch(convert.score_entries(request)))

    async def recommend(self, request: v1.RecommendRequest) -> v1.RecommendResponse:
        query, selection = convert.query(request), convert.selection(request)
        found = await self._engine.recommend(query, selection, request.release, request.cache_mode)
        return await convert.recommended(found, request.include_embeddings)

    async def search_items(self, request: v1.SearchItemsRequest) -> v1.SearchItemsResponse:
        nearest_to, selection = convert.nearest_to(request), convert.selection(request)
        found = await self._engine.search_items(nearest_to, selection, request.release)
        return await convert.nearest(found)

    async def get_serving_info(self, request: v1.GetServingInfoRequest) -> v1.GetServingInfoResponse:
        releases = self._engine.releases
        shown = [releases.route(request.release, entries=0)] if request.release else releases.loaded.values()
        degraded = [*await self._degraded(), *self._engine.degraded]
        return convert.serving_info(releases, shown, self._engine.limits, version("twotower"), CAPABILITIES, degraded)

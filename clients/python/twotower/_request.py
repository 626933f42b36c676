"""One `Call` per RPC: its method, its request, and how to read its answer. Shared by both clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from twotower import _convert, v1
from twotower._filter import FilterLike, filter_of
from twotower._result import (
    BatchScores,
    CacheMode,
    Embedding,
    ItemEmbedding,
    ItemEmbeddings,
    Recommendations,
    ReleaseStatus,
    Scores,
    SearchResults,
    ServingInfo,
    UserEmbedding,
    UserEmbeddings,
)

Result = TypeVar("Result")
ItemIds = Sequence[str] | npt.NDArray[np.str_]
ItemKeys = Sequence[int] | npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Call(Generic[Result]):
    """method: of a stub. decode: from its response message. sent_once: never tried again by the client."""

    method: str
    request: Message
    decode: Callable[[Any], Result]
    sent_once: bool = False


def get_user_embedding(user: v1.User, release: str, cache_mode: CacheMode) -> Call[UserEmbedding]:
    request = v1.GetUserEmbeddingRequest(user=user, release=release, cache_mode=_cache_mode(cache_mode))
    return Call("GetUserEmbedding", request, _convert.user_embedding)


def batch_get_user_embeddings(users: Iterable[v1.User], release: str, cache_mode: CacheMode) -> Call[UserEmbeddings]:
    request = v1.BatchGetUserEmbeddingsRequest(
        users=users,
        release=release,
        cache_mode=_cache_mode(cache_mode),
        encoding=v1.EMBEDDING_ENCODING_MATRIX,
    )
    return Call("BatchGetUserEmbeddings", request, _convert.user_embeddings)


def get_item_embedding(item: str | v1.Item, release: str) -> Call[ItemEmbedding]:
    request = v1.GetItemEmbeddingRequest(release=release)
    if isinstance(item, str):
        request.item_id = item
    else:
        request.item.CopyFrom(item)
    return Call("GetItemEmbedding", request, _convert.item_embedding)


def batch_get_item_embeddings(
    item_ids: ItemIds, item_keys: ItemKeys, items: Iterable[v1.Item], release: str
) -> Call[ItemEmbeddings]:
    ids = _ids("item_ids", item_ids)
    request = v1.BatchGetItemEmbeddingsRequest(
        item_ids=ids,
        item_keys=_keys(item_keys),
        items=items,
        release=release,
        encoding=v1.EMBEDDING_ENCODING_MATRIX,
    )
    return Call("BatchGetItemEmbeddings", request, partial(_convert.item_embeddings, item_ids=ids))


def score_request(
    user: v1.User | Embedding,
    item_ids: ItemIds = (),
    *,
    item_keys: ItemKeys = (),
    items: Iterable[v1.Item] = (),
    require_all: bool = False,
    cache_mode: CacheMode = CacheMode.DEFAULT,
    release: str | None = None,
) -> v1.ScoreRequest:
    """One entry of `batch_score`; the arguments are those of `score`."""
    request = v1.ScoreRequest(
        item_ids=_ids("item_ids", item_ids),
        item_keys=_keys(item_keys),
        items=items,
        release=release or "",
        cache_mode=_cache_mode(cache_mode),
        require_all=require_all,
    )
    _set_user(request, user)
    return request


def score(
    user: v1.User | Embedding,
    item_ids: ItemIds,
    item_keys: ItemKeys,
    items: Iterable[v1.Item],
    require_all: bool,
    cache_mode: CacheMode,
    release: str,
) -> Call[Scores]:
    ids = _ids("item_ids", item_ids)
    request = score_request(
        user,
        ids,
        item_keys=item_keys,
        items=items,
        require_all=require_all,
        cache_mode=cache_mode,
        release=release,
    )
    # The caller's own texts: reading hundreds back from the message takes longer than making it.
    return Call("Score", request, partial(_convert.scores, item_ids=tuple(ids) or _ids_of(request)))


def batch_score(requests: Iterable[v1.ScoreRequest], release: str) -> Call[BatchScores]:
    """release: for the entries that name none themselves."""
    batch = v1.BatchScoreRequest(requests=requests)
    for request in batch.requests:
        request.release = request.release or release
    item_ids = [_ids_of(request) for request in batch.requests]
    return Call("BatchScore", batch, partial(_convert.batch_scores, item_ids=item_ids))


def recommend(
    user: v1.User | Embedding,
    k: int,
    filter: FilterLike | None,
    exclude_item_ids: ItemIds,
    exclude_item_keys: ItemKeys,
    return_attributes: Sequence[str],
    include_embeddings: bool,
    cache_mode: CacheMode,
    release: str,
) -> Call[Recommendations]:
    request = v1.RecommendRequest(
        k=k,
        filter=filter_of(filter),
        exclude_item_ids=_ids("exclude_item_ids", exclude_item_ids),
        exclude_item_keys=_keys(exclude_item_keys),
        release=release,
        cache_mode=_cache_mode(cache_mode),
        include_embeddings=include_embeddings,
        return_attributes=_ids("return_attributes", return_attributes),
    )
    _set_user(request, user)
    return Call("Recommend", request, _convert.recommendations)


def search_items(
    item: str | v1.Item | Embedding,
    k: int,
    filter: FilterLike | None,
    exclude_item_ids: ItemIds,
    exclude_item_keys: ItemKeys,
    return_attributes: Sequence[str],
    include_embeddings: bool,
    release: str,
) -> Call[SearchResults]:
    request = v1.SearchItemsRequest(
        k=k,
        filter=filter_of(filter),
        exclude_item_ids=_ids("exclude_item_ids", exclude_item_ids),
        exclude_item_keys=_keys(exclude_item_keys),
        release=release,
        include_embeddings=include_embeddings,
        return_attributes=_ids("return_attributes", return_attributes),
    )
    if isinstance(item, str):
        request.item_id = item
    elif isinstance(item, Embedding):
        request.embedding.CopyFrom(_embedding(item))
    else:
        request.item.CopyFrom(item)
    return Call("SearchItems", request, _convert.search_results)


def get_serving_info(release: str) -> Call[ServingInfo]:
    return Call("GetServingInfo", v1.GetServingInfoRequest(release=release), _convert.serving_info)


def list_releases(page_token: str) -> Call[tuple[tuple[ReleaseStatus, ...], str | None]]:
    return Call("ListReleases", v1.ListReleasesRequest(page_token=page_token), _convert.release_page)


def load_release(release: str) -> Call[ReleaseStatus]:
    request = v1.LoadReleaseRequest(release=release)
    return Call("LoadRelease", request, lambda response: _convert.release_status(response.status))


def activate_release(release: str, expected_active: str) -> Call[str]:
    request = v1.ActivateReleaseRequest(release=release, expected_active=expected_active)
    return Call("ActivateRelease", request, lambda response: str(response.previous), sent_once=True)


def rollback_release(from_release: str) -> Call[str]:
    request = v1.RollbackReleaseRequest(from_release=from_release)
    return Call("RollbackRelease", request, lambda response: str(response.active), sent_once=True)


def set_traffic_split(shares: Mapping[str, float]) -> Call[dict[str, float]]:
    request = v1.SetTrafficSplitRequest(shares=shares)
    return Call("SetTrafficSplit", request, lambda response: dict(response.shares), sent_once=True)


def _set_user(request: v1.ScoreRequest | v1.RecommendRequest, user: v1.User | Embedding) -> None:
    if isinstance(user, Embedding):
        request.embedding.CopyFrom(_embedding(user))
    else:
        request.user.CopyFrom(user)


def _embedding(embedding: Embedding) -> v1.Embedding:
    values = np.asarray(embedding.values, dtype=np.float32)
    return v1.Embedding(values=values.tolist(), release=embedding.release)


def _cache_mode(mode: CacheMode) -> Any:
    return int(mode)  # stubs type the enum's numbers as a type of their own


def _ids(name: str, ids: ItemIds) -> list[str]:
    if isinstance(ids, str):  # a text is a sequence of texts, too: one id for each of its letters
        raise TypeError(f"{name} is a list of texts, not one text")
    return ids.tolist() if isinstance(ids, np.ndarray) else list(ids)


def _keys(keys: ItemKeys) -> list[int]:
    if not isinstance(keys, np.ndarray):
        return list(keys)
    if keys.size and keys.dtype.kind not in "ui":  # a double cannot hold most keys: it names other items
        raise TypeError(f"item keys are uint64, not {keys.dtype}")
    return list(keys.astype(np.uint64).tolist())


def _ids_of(request: v1.ScoreRequest) -> tuple[str, ...]:
    """The ids of the candidates; empty when the request names keys."""
    return tuple(request.item_ids) or tuple(item.item_id for item in request.items)

"""From response messages to results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from twotower import v1
from twotower._errors import ErrorReason, status_code, without_reason
from twotower._result import (
    AttributeValue,
    BatchScores,
    Embedding,
    FeatureSpec,
    FeatureUse,
    FloatArray,
    IndexArray,
    ItemEmbedding,
    ItemEmbeddings,
    Limits,
    Problem,
    Recommendations,
    ReleaseInfo,
    ReleaseState,
    ReleaseStatus,
    ScoredItem,
    Scores,
    SearchResults,
    ServingInfo,
    Similarity,
    Source,
    TowerSchema,
    UserEmbedding,
    UserEmbeddings,
)

Scalar = TypeVar("Scalar", bound=np.generic)


def user_embedding(response: v1.GetUserEmbeddingResponse) -> UserEmbedding:
    return UserEmbedding(
        values=_floats(response.embedding.values),
        release=response.release,
        source=Source(response.source),
        age_ms=_age_ms(response),
        feature_use=_feature_use(response.feature_use) if response.HasField("feature_use") else None,
    )


def item_embedding(response: v1.GetItemEmbeddingResponse) -> ItemEmbedding:
    return ItemEmbedding(_floats(response.embedding.values), response.release, Source(response.source))


def user_embeddings(response: v1.BatchGetUserEmbeddingsResponse) -> UserEmbeddings:
    rows = _rows(response)
    return UserEmbeddings(
        rows=rows,
        releases=tuple(response.releases),
        release_indices=_aligned(response.release_indices, len(rows), np.uint32),
        sources=tuple(Source(source) for source in response.sources) or (Source.UNSPECIFIED,) * len(rows),
        ages_ms=_aligned(response.ages_ms, len(rows), np.uint64),
        problems=_problems(response.problems),
    )


def item_embeddings(response: v1.BatchGetItemEmbeddingsResponse, item_ids: Sequence[str]) -> ItemEmbeddings:
    """item_ids: those of the call; empty when it named keys or sent items."""
    missing_indices = _indices(response.missing_indices)
    return ItemEmbeddings(
        rows=_rows(response),
        release=response.release,
        missing_indices=missing_indices,
        missing_ids=_named(item_ids, missing_indices),
        problems=_problems(response.problems),
    )


def scores(response: v1.ScoreResponse, item_ids: tuple[str, ...]) -> Scores:
    """item_ids: those of the call, or of the items that it sent; empty when it named keys."""
    missing_indices = _indices(response.missing_indices)
    return Scores(
        scores=_floats(response.scores),
        similarities=_floats(response.similarities),
        item_ids=item_ids,
        missing_indices=missing_indices,
        missing_ids=_named(item_ids, missing_indices),
        release=response.release,
        source=Source(response.source),
        age_ms=_age_ms(response),
        feature_use=_feature_use(response.feature_use),
        problems=_problems(response.problems),
    )


def batch_scores(response: v1.BatchScoreResponse, item_ids: Sequence[tuple[str, ...]]) -> BatchScores:
    """item_ids: as for `scores`, of each request."""
    problems = _problems(response.problems)
    failed = {problem.index for problem in problems}
    return BatchScores(
        responses=tuple(
            None if position in failed else scores(one, ids)
            for position, (one, ids) in enumerate(zip(response.responses, item_ids, strict=True))
        ),
        problems=problems,
    )


def recommendations(response: v1.RecommendResponse) -> Recommendations:
    return Recommendations(
        items=_scored_items(response.items),
        release=response.release,
        source=Source(response.source),
        age_ms=_age_ms(response),
        user_embedding=_embedding(response.user_embedding) if response.HasField("user_embedding") else None,
        feature_use=_feature_use(response.feature_use),
    )


def search_results(response: v1.SearchItemsResponse) -> SearchResults:
    return SearchResults(_scored_items(response.items), response.release)


def serving_info(response: v1.GetServingInfoResponse) -> ServingInfo:
    limits = response.limits
    return ServingInfo(
        active_release=response.active_release,
        releases=tuple(_release_info(info) for info in response.releases),
        limits=Limits(
            users=limits.users,
            items=limits.items,
            k=limits.k,
            exclusions=limits.exclusions,
            features=limits.features,
            id_bytes=limits.id_bytes,
            request_bytes=limits.request_bytes,
            response_bytes=limits.response_bytes,
        ),
        server_version=response.server_version,
        capabilities=tuple(response.capabilities),
        degraded=tuple(response.degraded),
    )


def release_page(response: v1.ListReleasesResponse) -> tuple[tuple[ReleaseStatus, ...], str | None]:
    """The releases, and the token of the next page; None = there is none."""
    return tuple(release_status(status) for status in response.releases), response.next_page_token or None


def release_status(status: v1.ReleaseStatus) -> ReleaseStatus:
    return ReleaseStatus(
        release=status.info.release,
        state=ReleaseState(status.state),
        reason=status.reason,
        served=status.served,
        servers=tuple(status.servers),
        info=_release_info(status.info) if status.info.dimension else None,  # else it has nothing but its name
    )


def _release_info(info: v1.ReleaseInfo) -> ReleaseInfo:
    return ReleaseInfo(
        release=info.release,
        dimension=info.dimension,
        similarity=Similarity(info.similarity),
        scale=info.scale,
        bias=info.bias,
        user_schema=_tower_schema(info.user_schema),
        item_schema=_tower_schema(info.item_schema),
        items=info.items,
        index_kind=info.index_kind,
        index_recall=info.index_recall,
        traffic_share=info.traffic_share,
        active=info.active,
    )


def _tower_schema(schema: v1.TowerSchema) -> TowerSchema:
    return TowerSchema(
        fingerprint=schema.fingerprint,
        features=tuple(FeatureSpec(spec.name, spec.kind, spec.wildcard) for spec in schema.features),
        dense_order=tuple(schema.dense_order),
    )


def _rows(
    response: v1.BatchGetUserEmbeddingsResponse | v1.BatchGetItemEmbeddingsResponse,
) -> FloatArray | tuple[FloatArray, ...]:
    """The matrix without a copy; the list form where the server chose it because dimensions are mixed."""
    if response.HasField("matrix"):
        matrix = response.matrix
        return np.frombuffer(matrix.values, dtype="<f4").reshape(matrix.rows, matrix.dimension)
    return tuple(_floats(embedding.values) for embedding in response.embeddings)


def _scored_items(items: Iterable[v1.ScoredItem]) -> tuple[ScoredItem, ...]:
    return tuple(
        ScoredItem(
            item_id=item.item_id,
            score=item.score,
            similarity=item.similarity,
            embedding=_embedding(item.embedding) if item.HasField("embedding") else None,
            attributes=_attributes(item.attributes),
        )
        for item in items
    )


def _attributes(attributes: Mapping[str, v1.AttributeValue]) -> Mapping[str, AttributeValue]:
    # By key: the views of protobuf's maps take several times as long.
    return MappingProxyType({name: _attribute(attributes[name]) for name in attributes})


def _attribute(value: v1.AttributeValue) -> AttributeValue:
    match value.WhichOneof("kind"):
        case "number":
            return value.number
        case "flag":
            return value.flag
        case "texts":
            return tuple(value.texts.values)
        case _:
            return value.text


def _problems(problems: Iterable[v1.Problem]) -> tuple[Problem, ...]:
    return tuple(
        Problem(
            index=problem.index,
            code=status_code(problem.code),
            reason=(reason := ErrorReason(problem.reason)),
            message=without_reason(problem.message, reason),
            field=problem.field,
        )
        for problem in problems
    )


def _embedding(embedding: v1.Embedding) -> Embedding:
    return Embedding(_floats(embedding.values), embedding.release)


def _feature_use(use: v1.FeatureUse) -> FeatureUse:
    return FeatureUse(used=use.used, missing=use.missing, unknown=use.unknown)


def _age_ms(response: v1.GetUserEmbeddingResponse | v1.ScoreResponse | v1.RecommendResponse) -> int | None:
    return response.age_ms if response.HasField("age_ms") else None


def _named(item_ids: Sequence[str], indices: IndexArray) -> tuple[str, ...]:
    return tuple(item_ids[index] for index in indices) if item_ids else ()


def _floats(values: Sequence[float]) -> FloatArray:
    return _read_only(np.array(values, dtype=np.float32))


def _indices(values: Sequence[int]) -> IndexArray:
    return _read_only(np.array(values, dtype=np.uint32))


def _aligned(values: Sequence[int], size: int, dtype: type[Scalar]) -> npt.NDArray[Scalar]:
    """The values, or zeros where the server left the whole list out."""
    return _read_only(np.array(values, dtype=dtype) if values else np.zeros(size, dtype=dtype))


def _read_only(array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    array.flags.writeable = False
    return array

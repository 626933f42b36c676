"""Messages ↔ the engine's model: the whole wire mapping.

Requests are checked here for what only the message shows: which of the alternatives is set (CONTRACT rule 7).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from twotower import v1
from twotower_server.engine.engine import Query, ScoreEntry
from twotower_server.engine.limits import DEFAULT_K, Limits
from twotower_server.engine.model import (
    Arm,
    Candidates,
    Found,
    GivenEmbedding,
    Scored,
    Selection,
    UserVector,
    Vectors,
)
from twotower_server.engine.route import Releases
from twotower_server.errors import Reason, Refused
from twotower_server.features.encode import FeatureUse
from twotower_server.features.schema import TowerSchema
from twotower_server.items.catalog import AttributeValue
from twotower_server.release.snapshot import Snapshot
from twotower_server.rpc.status import code_number, field_of, message_of
from twotower_server.rpc.wire import packed, packed_rows

# Of all problems of an answer together: a batch of nothing but problems must fit a message, too.
_PROBLEM_TEXT_BYTES = 256 << 10
# Fields of items found that are written between two looks at the event loop, in about half a millisecond.
_FIELDS_A_TURN = 500
_SIMILARITIES = {"dot": v1.SIMILARITY_DOT, "cosine": v1.SIMILARITY_COSINE}


# ---- requests


def exactly_one(alternatives: Mapping[str, object]) -> str:
    """The one alternative that is set. Raises FIELD_REQUIRED for none, FIELD_CONFLICT for several."""
    chosen = [name for name, given in alternatives.items() if given]
    if len(chosen) == 1:
        return chosen[0]
    named = ", ".join(alternatives)
    if not chosen:
        raise Refused(Reason.FIELD_REQUIRED, f"set one of {named}", next(iter(alternatives)))
    raise Refused(Reason.FIELD_CONFLICT, f"set one of {named}, not {' and '.join(chosen)}", chosen[1])


def required_user(request: v1.GetUserEmbeddingRequest) -> v1.User:
    if not request.HasField("user"):
        raise Refused(Reason.FIELD_REQUIRED, "set user", "user")
    return request.user


def query(request: v1.ScoreRequest | v1.RecommendRequest) -> Query:
    """Who is asking: a user's features, or a vector sent back."""
    has_user = request.HasField("user")
    if has_user != request.HasField("embedding"):
        return request.user if has_user else given_embedding(request.embedding)
    exactly_one({"user": has_user, "embedding": has_user})
    raise AssertionError("unreachable: both or none is refused")


def given_embedding(embedding: v1.Embedding) -> GivenEmbedding:
    return GivenEmbedding(np.array(embedding.values, np.float32), embedding.release)


def candidates(request: v1.ScoreRequest | v1.BatchGetItemEmbeddingsRequest) -> Candidates:
    # In the order of use; the general check only words the refusal.
    ids, keys, items = request.item_ids, request.item_keys, request.items
    if ids and not keys and not items:
        return Candidates(ids=ids)
    if keys and not ids and not items:
        return Candidates(keys=np.array(keys, np.uint64))
    if items and not ids and not keys:
        return Candidates(items=items)
    exactly_one({"item_ids": ids, "item_keys": keys, "items": items})
    raise AssertionError("unreachable: several or none are refused")


def score_entry(request: v1.ScoreRequest) -> ScoreEntry:
    return ScoreEntry(query(request), candidates(request), request.release, request.require_all, request.cache_mode)


def score_entries(request: v1.BatchScoreRequest) -> list[ScoreEntry | Refused]:
    """Entries of a batch; one that only the message shows to be wrong is refused alone."""
    entries: list[ScoreEntry | Refused] = []
    for entry in request.requests:
        try:
            entries.append(score_entry(entry))
        except Refused as error:
            entries.append(error)
    return entries


def nearest_to(request: v1.SearchItemsRequest) -> str | v1.Item | GivenEmbedding:
    """What to search the neighbours of: an item id, an item's features, or a vector."""
    has_item, has_embedding = request.HasField("item"), request.HasField("embedding")
    chosen = exactly_one({"item_id": request.item_id, "embedding": has_embedding, "item": has_item})
    if chosen == "item_id":
        return request.item_id
    return request.item if chosen == "item" else given_embedding(request.embedding)


def selection(request: v1.RecommendRequest | v1.SearchItemsRequest) -> Selection:
    return Selection(
        k=request.k or DEFAULT_K,
        filter=request.filter if request.HasField("filter") else None,
        exclude_ids=request.exclude_item_ids,
        exclude_keys=np.array(request.exclude_item_keys, np.uint64),
        embeddings=request.include_embeddings,
        attributes=tuple(dict.fromkeys(request.return_attributes)),  # each once, however often it is named
    )


# ---- responses


def embedding(values: NDArray[np.float32], release: str) -> v1.Embedding:
    message = v1.Embedding()
    _set_embedding(message, values, release)
    return message


def _set_embedding(message: v1.Embedding, values: NDArray[np.float32], release: str) -> None:
    message.release = release
    message.MergeFromString(packed(v1.Embedding.VALUES_FIELD_NUMBER, values))


def feature_use(use: FeatureUse | None) -> v1.FeatureUse | None:
    return None if use is None else v1.FeatureUse(used=use.used, missing=use.missing, unknown=use.unknown)


def user_embedding(user: UserVector) -> v1.GetUserEmbeddingResponse:
    response = v1.GetUserEmbeddingResponse(
        release=user.release,
        source=user.source,  # type: ignore[arg-type]
        age_ms=user.age_ms,
        feature_use=feature_use(user.use),
    )
    _set_embedding(response.embedding, user.values, user.release)
    return response


def user_embeddings(arms: Sequence[Arm], encoding: int) -> v1.BatchGetUserEmbeddingsResponse:
    """arms: those of one batch; more than one while traffic is split."""
    count = sum(len(arm.places) for arm in arms)
    sources = [v1.SOURCE_COMPUTED] * count
    refused = {arm.places[i]: error for arm in arms for i, error in arm.vectors.refused.items()}
    for place in refused:
        sources[place] = v1.SOURCE_UNSPECIFIED
    ages_ms = {arm.places[i]: age_ms for arm in arms for i, age_ms in arm.vectors.ages_ms.items()}
    for place in ages_ms:
        sources[place] = v1.SOURCE_CACHE
    response = v1.BatchGetUserEmbeddingsResponse(
        releases=[arm.vectors.release for arm in arms],
        sources=sources,
        ages_ms=[ages_ms.get(place, 0) for place in range(count)] if ages_ms else (),
        problems=problems(refused, "users"),
    )
    if len(arms) == 1:
        _add_vectors(response, arms[0].vectors, encoding)
    else:
        _add_arms(response, arms, encoding)
    return response


def item_embeddings(vectors: Vectors, encoding: int) -> v1.BatchGetItemEmbeddingsResponse:
    response = v1.BatchGetItemEmbeddingsResponse(
        release=vectors.release, missing_indices=vectors.missing, problems=problems(vectors.refused, "items")
    )
    _add_vectors(response, vectors, encoding)
    return response


def score(scored: Scored, problem_text_bytes: int = _PROBLEM_TEXT_BYTES) -> v1.ScoreResponse:
    response = v1.ScoreResponse(
        missing_indices=scored.missing,
        release=scored.user.release,
        source=scored.user.source,  # type: ignore[arg-type]
        age_ms=scored.user.age_ms,
        feature_use=feature_use(scored.user.use),
        problems=problems(scored.refused, "items", problem_text_bytes),
    )
    response.MergeFromString(
        packed(v1.ScoreResponse.SCORES_FIELD_NUMBER, scored.scores)
        + packed(v1.ScoreResponse.SIMILARITIES_FIELD_NUMBER, scored.similarities)
    )
    return response


def scores(results: Sequence[Scored | Refused]) -> v1.BatchScoreResponse:
    refused = {i: result for i, result in enumerate(results) if isinstance(result, Refused)}
    text_bytes = _PROBLEM_TEXT_BYTES // max(len(results), 1)
    return v1.BatchScoreResponse(
        responses=[
            v1.ScoreResponse() if isinstance(result, Refused) else score(result, text_bytes) for result in results
        ],
        problems=problems(refused, "requests"),
    )


async def recommended(found: Found, include_embeddings: bool) -> v1.RecommendResponse:
    user = found.user
    assert user is not None
    response = v1.RecommendResponse(
        release=found.release,
        source=user.source,  # type: ignore[arg-type]
        age_ms=user.age_ms,
        user_embedding=embedding(user.values, found.release) if include_embeddings else None,
        feature_use=feature_use(user.use),
    )
    await _add_items(response, found)
    return response


async def nearest(found: Found) -> v1.SearchItemsResponse:
    response = v1.SearchItemsResponse(release=found.release)
    await _add_items(response, found)
    return response


def problems(refused: Mapping[int, Refused], entries: str, text_bytes: int = _PROBLEM_TEXT_BYTES) -> list[v1.Problem]:
    """One a failed entry, by index; `entries` names the request's list.

    Messages and fields are written until `text_bytes` are used up; from there on the message is the reason alone.
    """
    found = []
    for i, error in sorted(refused.items()):
        problem = v1.Problem(index=i, code=code_number(error.reason), reason=int(error.reason))  # type: ignore[arg-type]
        if text_bytes > 0:
            problem.message = message_of(error)
            problem.field = field_of(error.within(f"{entries}[{i}]"))
            text_bytes -= problem.ByteSize()
        else:
            problem.message = error.reason.name
        found.append(problem)
    return found


def serving_info(
    releases: Releases,
    shown: Iterable[Snapshot],
    limits: Limits,
    version: str,
    capabilities: Sequence[str],
    degraded: Sequence[str],
) -> v1.GetServingInfoResponse:
    return v1.GetServingInfoResponse(
        active_release=releases.active.release,
        releases=[release_info(releases, snapshot) for snapshot in shown],
        limits=v1.Limits(
            users=limits.users,
            items=limits.items,
            k=limits.k,
            exclusions=limits.exclusions,
            features=limits.features,
            id_bytes=limits.id_bytes,
            request_bytes=limits.request_bytes,
            response_bytes=limits.response_bytes,
        ),
        server_version=version,
        capabilities=capabilities,
        degraded=degraded,
    )


def release_info(releases: Releases, snapshot: Snapshot) -> v1.ReleaseInfo:
    manifest = snapshot.manifest
    return v1.ReleaseInfo(
        release=manifest.release,
        dimension=manifest.dimension,
        similarity=_SIMILARITIES[manifest.similarity],
        scale=manifest.calibration.scale,
        bias=manifest.calibration.bias,
        user_schema=_tower_schema(snapshot.schema.user),
        item_schema=_tower_schema(snapshot.schema.item),
        items=len(snapshot.items),
        index_kind=manifest.index.kind,
        index_recall=manifest.index.recall or 0.0,
        traffic_share=releases.shares.get(manifest.release, 0.0),
        active=snapshot is releases.active,
    )


def _tower_schema(schema: TowerSchema) -> v1.TowerSchema:
    return v1.TowerSchema(
        fingerprint=schema.fingerprint,
        features=[v1.FeatureSpec(name=f.name, kind=f.kind, wildcard=f.wildcard) for f in schema.features],
        dense_order=[f.name for f in schema.numeric],
    )


def _add_vectors(
    response: v1.BatchGetUserEmbeddingsResponse | v1.BatchGetItemEmbeddingsResponse, vectors: Vectors, encoding: int
) -> None:
    """Vectors of a batch, in the encoding that was asked for; what failed is zero in a matrix, empty in a list."""
    if encoding == v1.EMBEDDING_ENCODING_MATRIX:
        rows, dimension = vectors.values.shape
        content = vectors.values.astype("<f4", copy=False).tobytes()
        response.matrix.CopyFrom(v1.EmbeddingMatrix(values=content, rows=rows, dimension=dimension))
        return
    end = v1.Embedding(release=vectors.release).SerializeToString()
    failed = {*vectors.refused, *vectors.missing}
    response.MergeFromString(
        packed_rows(response.EMBEDDINGS_FIELD_NUMBER, v1.Embedding.VALUES_FIELD_NUMBER, vectors.values, end, failed)
    )


def _add_arms(response: v1.BatchGetUserEmbeddingsResponse, arms: Sequence[Arm], encoding: int) -> None:
    """Vectors of several releases, each at its place; a list when their dimensions differ."""
    places = np.concatenate([arm.places for arm in arms])
    order = np.argsort(places)
    releases = np.repeat(np.arange(len(arms)), [len(arm.places) for arm in arms])
    response.release_indices.extend(releases[order].tolist())
    if encoding == v1.EMBEDDING_ENCODING_MATRIX and len({arm.vectors.values.shape[1] for arm in arms}) == 1:
        values = np.concatenate([arm.vectors.values for arm in arms])[order]
        _add_vectors(response, Vectors(values, ""), encoding)
        return
    embeddings = [v1.Embedding()] * len(places)
    for arm in arms:
        for i, place in enumerate(arm.places):
            if i not in arm.vectors.refused:
                embeddings[place] = embedding(arm.vectors.values[i], arm.vectors.release)
    response.embeddings.extend(embeddings)


async def _add_items(response: v1.RecommendResponse | v1.SearchItemsResponse, found: Found) -> None:
    """Adds what was found; of many items, or items with much to tell, some at a time."""
    fields = 1 + (found.embeddings is not None) + max(map(len, found.attributes or ()), default=0)
    count = max(1, _FIELDS_A_TURN // fields)
    for start in range(0, len(found.item_ids), count):
        if start:
            await asyncio.sleep(0)
        _add_some(response, found, slice(start, start + count))


def _add_some(response: v1.RecommendResponse | v1.SearchItemsResponse, found: Found, some: slice) -> None:
    # Added in place: a list given to the constructor is copied, item by item.
    add = response.items.add
    numbers = zip(found.scores[some].tolist(), found.similarities[some].tolist(), strict=True)
    items = [
        add(item_id=id, score=score, similarity=similarity)
        for id, (score, similarity) in zip(found.item_ids[some], numbers, strict=True)
    ]
    if found.embeddings is not None:
        for item, values in zip(items, found.embeddings[some], strict=True):
            _set_embedding(item.embedding, values, found.release)
    if found.attributes is not None:
        for item, attributes in zip(items, found.attributes[some], strict=True):
            for name, value in attributes.items():
                item.attributes[name].CopyFrom(_attribute(value))


def _attribute(value: AttributeValue) -> v1.AttributeValue:
    if isinstance(value, bool):
        return v1.AttributeValue(flag=value)
    if isinstance(value, str):
        return v1.AttributeValue(text=value)
    if isinstance(value, list):
        return v1.AttributeValue(texts=v1.StringList(values=value))
    return v1.AttributeValue(number=value)

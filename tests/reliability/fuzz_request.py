"""Every RPC that a server offers, as its reflection says, with requests that it can serve and words that it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.reliability.fuzz_message import Words
from tests.rpc.messages import ITEM, USER, item, user
from tests.rpc.recomputed import item_key
from twotower import v1

# Items whose catalog entries may be changed and deleted; others must stay as they are.
CHANGED = tuple(f"changed-{i}" for i in range(40))
_IDS = [f"i{i}" for i in range(0, 300, 13)]
_ATTRIBUTES = ("title", "in_stock", "category", "price", "tags", "item_id", "")
_RELEASES = ("dot", "cosine", "", "nope")
_USER = user(USER, user_id="u1")
_VECTOR = v1.Embedding(release="dot", values=[0.1] * 8)
_FILTER = v1.Filter(
    all_of=[
        v1.AnyOf(
            conditions=[
                v1.Condition(attribute="in_stock", flag=True),
                v1.Condition(attribute="price", range=v1.Range(min=1.0, max=20.0, max_exclusive=True), negate=True),
                v1.Condition(attribute="tags", any_text=["t1", "t2"]),
            ]
        )
    ]
)
_SCORES = (
    v1.ScoreRequest(user=_USER, item_ids=_IDS[:5]),
    v1.ScoreRequest(embedding=_VECTOR, item_keys=[item_key(id) for id in _IDS[:5]]),
    v1.ScoreRequest(user=_USER, items=[item(ITEM)] * 2, release="cosine", require_all=True),
)
_ATTRIBUTE_VALUES = {
    "title": v1.AttributeValue(text="t"),
    "tags": v1.AttributeValue(texts=v1.StringList(values=["t1"])),
    "in_stock": v1.AttributeValue(flag=True),
}
_RIGHT: tuple[Message, ...] = (
    v1.GetUserEmbeddingRequest(user=_USER),
    v1.GetUserEmbeddingRequest(user=user({"age": 3.0, "tags": ["a"]}), release="cosine"),
    v1.BatchGetUserEmbeddingsRequest(users=[_USER] * 3, encoding=v1.EMBEDDING_ENCODING_MATRIX),
    v1.GetItemEmbeddingRequest(item_id="i7"),
    v1.GetItemEmbeddingRequest(item=item(ITEM)),
    v1.BatchGetItemEmbeddingsRequest(item_ids=_IDS[:3]),
    v1.BatchGetItemEmbeddingsRequest(items=[item(ITEM)] * 3),
    *_SCORES,
    v1.BatchScoreRequest(requests=_SCORES),
    v1.RecommendRequest(user=_USER, k=5, filter=_FILTER, include_embeddings=True, return_attributes=_ATTRIBUTES[:5]),
    v1.RecommendRequest(embedding=_VECTOR, exclude_item_ids=_IDS),
    v1.SearchItemsRequest(item_id="i7", k=5, filter=_FILTER),
    v1.SearchItemsRequest(item=item(ITEM), return_attributes=_ATTRIBUTES[:5]),
    v1.SearchItemsRequest(embedding=_VECTOR, include_embeddings=True),
    v1.GetServingInfoRequest(release="dot"),
    v1.UpsertItemsRequest(
        changes=[v1.ItemChange(item=item(ITEM, item_id=CHANGED[0]), attributes=_ATTRIBUTE_VALUES, sequence=1)]
    ),
    v1.UpsertItemsRequest(changes=[v1.ItemChange(item=v1.Item(item_id=CHANGED[1]), embedding=_VECTOR)] * 2),
    v1.DeleteItemsRequest(item_ids=CHANGED[:2]),
    v1.ListReleasesRequest(page_size=1),
    v1.LoadReleaseRequest(release="cosine"),
    v1.ActivateReleaseRequest(release="cosine"),
    v1.ActivateReleaseRequest(release="dot"),
    v1.RollbackReleaseRequest(from_release="cosine"),
    v1.SetTrafficSplitRequest(shares={"dot": 0.5, "cosine": 0.5}),
    v1.SetTrafficSplitRequest(),
)


@dataclass(frozen=True, slots=True)
class Rpc:
    """request, answer: the classes of its messages. right: serialized requests that can be served."""

    service: str
    name: str
    request: type[Message]
    answer: type[Message]
    streams: bool
    right: tuple[bytes, ...]
    words: Words

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


def rpcs_of(channel: grpc.Channel) -> list[Rpc]:
    """Of all services, by name."""
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    words = _words(v1.TwoTowerServiceStub(channel).GetServingInfo(v1.GetServingInfoRequest()))
    found = []
    for service in sorted(database.get_services()):
        known = words if service != "twotower.v1.CatalogService" else {**words, **_catalog_words()}
        for method in pool.FindServiceByName(service).methods:
            right = tuple(
                message.SerializeToString()
                for message in _RIGHT
                if message.DESCRIPTOR.full_name == method.input_type.full_name
            )
            request, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
            streams = method.client_streaming or method.server_streaming
            found.append(Rpc(service, method.name, request, answer, streams, right, known))
    return found


def _words(info: v1.GetServingInfoResponse) -> Words:
    schemas = [schema for release in info.releases for schema in (release.user_schema, release.item_schema)]
    names = sorted({feature.name for schema in schemas for feature in schema.features})
    names += [name.removeprefix("user_") for name in names] + ["user_interest_film", "user_user_age", "cross_x"]
    words: dict[str, Sequence[object]] = dict.fromkeys(("features", "string_features"), tuple(names))
    words |= dict.fromkeys(("item_id", "item_ids", "exclude_item_ids"), (*_IDS, "nope"))
    words |= dict.fromkeys(("item_keys", "exclude_item_keys"), (*map(item_key, _IDS), 0))
    words |= dict.fromkeys(("release", "from_release", "expected_active", "shares"), _RELEASES)
    words |= dict.fromkeys(("attribute", "return_attributes", "attributes"), _ATTRIBUTES)
    words["schema_fingerprint"] = sorted({schema.fingerprint for schema in schemas})
    words["dense_features"] = [31.0, 0.07, 21.0, float("nan")]
    words["any_text"] = ["books", "t1", "Title 3"]
    words["service"] = ["", "twotower.v1.TwoTowerService", "grpc.health.v1.Health"]
    return words


def _catalog_words() -> Mapping[str, Sequence[object]]:
    return dict.fromkeys(("item_id", "item_ids"), CHANGED)

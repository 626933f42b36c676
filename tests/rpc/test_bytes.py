"""What arrives as bytes: damaged or hand-made messages, and calls that this server does not know."""

from __future__ import annotations

import random
import struct
from typing import Any

import grpc
import pytest

from tests.conftest import Running
from tests.rpc.messages import USER, user
from tests.rpc.recomputed import Recomputed, item_key
from tests.rpc.refusal import refused
from twotower import v1

RPCS = [
    "GetUserEmbedding",
    "BatchGetUserEmbeddings",
    "GetItemEmbedding",
    "BatchGetItemEmbeddings",
    "Score",
    "BatchScore",
    "Recommend",
    "SearchItems",
    "GetServingInfo",
]
DELIMITED, FIXED32, FIXED64, VARINT = 2, 5, 1, 0


def raw(server: Running, rpc: str, service: str = "TwoTowerService") -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
    """Calls with bytes as they are."""
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = server.channel.unary_unary(f"/twotower.v1.{service}/{rpc}")
    return call


def tag(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def field(number: int, content: bytes) -> bytes:
    return tag(number, DELIMITED) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    head = b""
    while number > 0x7F:
        head += bytes([number & 0x7F | 0x80])
        number >>= 7
    return head + bytes([number])


NOT_UTF8 = b"i\xff\xfe"
ENTRY = field(1, b"user_age") + tag(2, FIXED64) + struct.pack("<d", 1.0)
HAND_MADE: list[tuple[str, bytes]] = [
    ("GetItemEmbedding", field(1, NOT_UTF8)),
    ("GetItemEmbedding", field(1, b"\xed\xa0\x80")),  # a lone surrogate
    ("GetItemEmbedding", field(1, b"\xc0\x80")),  # zero, in two bytes
    ("GetItemEmbedding", field(3, NOT_UTF8) + field(1, b"i1")),
    ("GetUserEmbedding", field(1, field(1, NOT_UTF8) + field(2, ENTRY))),
    ("GetUserEmbedding", field(1, field(2, field(1, NOT_UTF8) + tag(2, FIXED64) + bytes(8)))),
    ("GetUserEmbedding", field(1, field(3, field(1, b"user_city") + field(2, field(1, NOT_UTF8))))),
    ("BatchGetItemEmbeddings", field(1, b"i1") + field(1, NOT_UTF8)),
    ("Score", field(1, field(2, ENTRY)) + field(3, NOT_UTF8)),
    ("BatchScore", field(1, field(1, field(2, ENTRY)) + field(3, NOT_UTF8))),
    ("Recommend", field(1, field(2, ENTRY)) + field(5, NOT_UTF8)),
    ("Recommend", field(1, field(2, ENTRY)) + field(10, NOT_UTF8)),
    ("SearchItems", field(1, NOT_UTF8)),
    ("GetServingInfo", field(1, NOT_UTF8)),
    # Lengths that lead out of the message, a tag that is none, a group that never ends
    ("Score", field(3, b"i1")[:-1]),
    ("Score", tag(3, DELIMITED) + b"\xff" * 10),
    ("Score", b"\x00\x00"),
    ("Score", tag(15, 3)),
]


@pytest.mark.parametrize(("rpc", "data"), HAND_MADE, ids=range(len(HAND_MADE)))
def test_bytes_that_are_no_message(server: Running, rpc: str, data: bytes) -> None:
    message = refused(raw(server, rpc), data, "UNSPECIFIED")
    assert f"{rpc} request" in message and "UTF-8" in message


@pytest.mark.parametrize("rpc", RPCS)
def test_random_bytes(server: Running, rpc: str) -> None:
    call, source = raw(server, rpc), random.Random(rpc)
    codes = set()
    for length in (1, 2, 5, 20, 100, 1_000, 100_000):
        for _ in range(10):
            try:
                call(source.randbytes(length))
                codes.add(grpc.StatusCode.OK)
            except grpc.RpcError as error:
                codes.add(error.code())
    # A byte or two may be an empty request with a field that nobody knows.
    assert grpc.StatusCode.INVALID_ARGUMENT in codes
    assert codes <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OK}


def test_damaged_requests(server: Running, stub: v1.TwoTowerServiceStub) -> None:
    """Bytes of good requests changed here and there: refused or served, never a bug."""
    source = random.Random(1)
    vector = v1.Embedding(values=[1.0] * 8, release="dot")
    good: list[tuple[str, Any]] = [
        ("GetUserEmbedding", v1.GetUserEmbeddingRequest(user=user(USER))),
        ("Score", v1.ScoreRequest(user=user(USER), item_keys=[1, 2, 3])),
        ("BatchScore", v1.BatchScoreRequest(requests=[v1.ScoreRequest(embedding=vector, item_ids=["i1"])] * 3)),
        ("Recommend", v1.RecommendRequest(embedding=vector, k=3, exclude_item_keys=[1], return_attributes=["title"])),
    ]
    refusals = {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
    for rpc, request in good:
        data = request.SerializeToString()
        for _ in range(200):
            damaged = bytearray(data)
            for _ in range(source.randint(1, 3)):
                damaged[source.randrange(len(damaged))] = source.randrange(256)
            try:
                raw(server, rpc)(bytes(damaged))
            except grpc.RpcError as error:
                assert error.code() in refusals, (rpc, bytes(damaged), error)


def test_fields_that_nobody_knows_are_ignored(server: Running, stub: v1.TwoTowerServiceStub) -> None:
    """As newer clients send them: of every wire type, a group included."""
    vector = v1.Embedding(values=[1.0] * 8, release="dot")
    newer = tag(999, VARINT) + b"\x05" + field(998, b"new") + tag(997, FIXED32) + bytes(4)
    newer += tag(996, FIXED64) + bytes(8) + tag(995, 3) + tag(1, VARINT) + b"\x01" + tag(995, 4)
    request = v1.ScoreRequest(embedding=vector, item_keys=[item_key("i1")])
    expected = stub.Score(request)
    data = newer + field(2, newer + vector.SerializeToString() + newer) + newer
    data += field(4, struct.pack("<Q", item_key("i1"))) + newer
    assert v1.ScoreResponse.FromString(raw(server, "Score")(data)) == expected


def test_numbers_one_by_one_are_read_as_packed_ones_are(server: Running, dot: Recomputed) -> None:
    """Both encodings of a repeated number are protobuf, and both may be mixed."""
    values = [float(value) for value in dot.user(USER)]
    one_by_one = b"".join(tag(1, FIXED32) + struct.pack("<f", value) for value in values[:5])
    vector = one_by_one + field(1, struct.pack("<3f", *values[5:])) + field(2, b"dot")
    keys = [item_key(id) for id in dot.item_ids[:6]]
    data = field(2, vector) + b"".join(tag(4, FIXED64) + struct.pack("<Q", key) for key in keys[:2])
    data += field(4, struct.pack("<3Q", *keys[2:5])) + tag(4, FIXED64) + struct.pack("<Q", keys[5])
    packed = v1.ScoreRequest(embedding=v1.Embedding(values=values, release="dot"), item_keys=keys)
    assert raw(server, "Score")(data) == raw(server, "Score")(packed.SerializeToString())


def test_the_last_of_two_users_is_merged_into_the_first(server: Running, dot: Recomputed) -> None:
    """As protobuf says of a message that comes twice."""
    data = field(1, field(1, b"u1") + field(2, ENTRY)) + field(1, field(1, b"u2"))
    got = v1.GetUserEmbeddingResponse.FromString(raw(server, "GetUserEmbedding")(data))
    assert list(got.embedding.values) == pytest.approx(dot.user({"user_age": 1.0}).tolist(), rel=1e-5)


@pytest.mark.parametrize("number", [3, 99, 2**31 - 1, -1])
def test_an_unknown_enum_number_is_the_default(stub: v1.TwoTowerServiceStub, number: Any) -> None:
    users = v1.BatchGetUserEmbeddingsRequest(users=[user(USER)])
    expected = stub.BatchGetUserEmbeddings(users)
    users.encoding = users.cache_mode = number
    assert stub.BatchGetUserEmbeddings(users) == expected
    items = v1.BatchGetItemEmbeddingsRequest(item_ids=["i1"], encoding=number)
    assert stub.BatchGetItemEmbeddings(items).embeddings
    for request in (
        v1.ScoreRequest(user=user(USER), item_ids=["i1"], cache_mode=number),
        v1.RecommendRequest(user=user(USER), k=1, cache_mode=number),
    ):
        call = stub.Score if isinstance(request, v1.ScoreRequest) else stub.Recommend
        assert call(request).source == v1.SOURCE_COMPUTED


def test_an_rpc_that_is_not_in_the_contract(server: Running) -> None:
    for service, rpc in (("TwoTowerService", "GetTheAnswer"), ("NoService", "Score")):
        with pytest.raises(grpc.RpcError) as caught:
            raw(server, rpc, service)(b"")
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED

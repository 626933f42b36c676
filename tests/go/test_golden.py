"""The golden files against the server's own code and the Python client; clients/go reads the same files.

hashing.json and errors.json are read by clients/go/twotower, vectors.json and scores.json by clients/go/vectors.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import numpy as np
import pytest

from tests.go.make_golden import DOCUMENTS, GOLDEN
from tests.redis.running import RedisServer
from tests.supervisor.running import PATIENCE_S
from twotower import v1
from twotower._errors import ErrorReason, error_of
from twotower._retry import Attempts, Deadline, RetryPolicy
from twotower_server.cache.policy import NO_VERSION, CacheKey
from twotower_server.cache.redis import redis_key
from twotower_server.errors import Reason
from twotower_server.features.encode import Encoder
from twotower_server.features.row import Row, Strings
from twotower_server.features.schema import TowerSchema
from twotower_server.index.similarity import best, similarities
from twotower_server.items.ids import item_key, item_keys
from twotower_server.items.redis import RedisKeys
from twotower_server.items.redis_vectors import RedisVectors
from twotower_server.release.calibration import Calibration, scores
from twotower_server.release.vectors import unit_length
from twotower_server.rpc.status import CODES, code_number

FILES: dict[str, dict[str, list[dict[str, Any]]]] = {
    name: json.loads((GOLDEN / f"{name}.json").read_text("utf-8")) for name in DOCUMENTS
}
PREFIX = "twotower:"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_golden_file_is_what_its_maker_writes(name: str) -> None:
    assert DOCUMENTS[name]() == FILES[name]


def encoder(buckets: int) -> Encoder:
    """Of a tower that reads a category alone."""
    feature = {"name": "user_city", "kind": "categorical", "buckets": buckets, "missing": {"rule": "marker"}}
    return Encoder(TowerSchema.from_json("user", {"transforms": "graph", "features": [feature]}))


def id_of(encoder: Encoder, row: Row) -> int:
    ids = encoder.encode_one(row).ids
    assert ids is not None
    return int(ids[0, 0])


def test_the_server_hashes_feature_values_so() -> None:
    entries = FILES["hashing"]["values"]
    encoders = {buckets: encoder(buckets) for buckets in {entry["buckets"] for entry in entries}}
    checked = 0
    for entry in entries:
        if entry["value"]:  # an empty text is a missing category
            row = Row(string_features={"city": Strings([entry["value"]])})
            assert id_of(encoders[entry["buckets"]], row) == entry["id"], entry
            checked += 1
    assert checked > 100


def test_the_server_reads_whole_numbers_as_categories_so() -> None:
    city = encoder(100_003)
    for entry in FILES["hashing"]["numbers"]:
        text = Row(string_features={"city": Strings([entry["text"]])})
        assert id_of(city, Row(features={"city": entry["number"]})) == id_of(city, text), entry


def test_the_server_makes_keys_of_item_ids_so() -> None:
    entries = FILES["hashing"]["item_ids"]
    assert [item_key(entry["item_id"]) for entry in entries] == [int(entry["key"]) for entry in entries]
    assert item_keys(entry["item_id"] for entry in entries).tolist() == [int(entry["key"]) for entry in entries]


def test_the_server_names_keys_in_redis_so() -> None:
    for entry in FILES["vectors"]["item_keys"]:
        assert RedisKeys(PREFIX).items(entry["release"]) + entry["item_id"] == entry["key"]
    for entry in FILES["vectors"]["user_keys"]:
        key = CacheKey(entry["release"], entry["feature_version"] or NO_VERSION, entry["user_id"])
        assert redis_key(PREFIX, key) == entry["key"]


def test_the_server_reads_vectors_in_redis_so(redis_server: RedisServer) -> None:
    entries = FILES["vectors"]["vectors"]
    ids = [f"i{number}" for number in range(len(entries))]
    for item_id, entry in zip(ids, entries, strict=True):
        redis_server.client.set(f"{PREFIX}item_emb:r1:{item_id}", bytes.fromhex(entry["bytes"]))

    async def read() -> np.ndarray[Any, np.dtype[np.float32]]:
        store = RedisVectors(redis_server.url, None, PREFIX, int(PATIENCE_S * 1e3))
        await store.start()
        try:
            return await store.read("r1", ids, len(entries[0]["values"]))
        finally:
            await store.close()

    found = asyncio.run(read())
    assert [row.tobytes().hex() for row in found] == [entry["bytes"] for entry in entries]
    assert found.tolist() == [entry["values"] for entry in entries]


def test_the_server_scores_so() -> None:
    for entry in FILES["scores"]["scores"]:
        similarity, wanted = np.float32(entry["similarity"]), np.float32(entry["score"])
        found = scores(np.array([similarity]), Calibration(entry["scale"], entry["bias"]))[0]
        assert found > 0
        assert abs(found - wanted) <= np.spacing(wanted), entry
    known = [entry["score"] for entry in FILES["scores"]["scores"]]
    assert known.count(1.0) >= 10 and known.count(2.0**-126) >= 10, "saturation and clamping"


@pytest.mark.parametrize("entry", FILES["scores"]["orders"], ids=lambda entry: "cosine" if entry["cosine"] else "dot")
def test_the_server_orders_so(entry: dict[str, Any]) -> None:
    ids = [item["item_id"] for item in entry["items"]]
    items = np.array([item["values"] for item in entry["items"]], np.float32)
    user = np.array(entry["user"], np.float32)
    if entry["cosine"]:
        items, user = unit_length(items), unit_length(user[None])[0]
    found = similarities(items, None, user)
    np.testing.assert_allclose(found, entry["similarities"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        scores(found, Calibration(entry["scale"], entry["bias"])), entry["scores"], rtol=0, atol=1e-6
    )
    rows, _ = best(np.arange(len(ids)), found, len(ids), lambda rows: [ids[row] for row in rows])
    assert [ids[row] for row in rows] == entry["order"]


@pytest.mark.parametrize("entry", FILES["errors"]["reasons"], ids=lambda entry: str(entry["reason"]))
def test_the_server_refuses_and_the_python_client_tries_again_so(entry: dict[str, Any]) -> None:
    name, number = entry["reason"], entry["number"]
    assert (Reason[name], ErrorReason[name], v1.ErrorReason.Value(f"ERROR_REASON_{name}")) == (number, number, number)
    assert CODES[Reason(number)].name == entry["code"]
    assert code_number(Reason(number)) == entry["code_number"]
    error = error_of(f"{name}: no", ErrorReason(number), grpc.StatusCode[entry["code"]])
    attempts = Attempts(RetryPolicy(), Deadline(PATIENCE_S))
    assert (attempts.delay_s(error) is not None) == entry["retried"]


def test_every_reason_is_in_the_golden_file() -> None:
    assert [entry["reason"] for entry in FILES["errors"]["reasons"]] == [reason.name for reason in Reason]

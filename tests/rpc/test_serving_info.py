"""GetServingInfo: what a client reads at its start."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import pytest

from tests.conftest import Running
from tests.rpc.recomputed import Recomputed
from tests.rpc.refusal import refused
from twotower import v1


def the_release(stub: v1.TwoTowerServiceStub, **fields: Any) -> v1.ReleaseInfo:
    (release,) = stub.GetServingInfo(v1.GetServingInfoRequest(**fields)).releases
    assert isinstance(release, v1.ReleaseInfo)
    return release


def test_the_server(stub: v1.TwoTowerServiceStub) -> None:
    info = stub.GetServingInfo(v1.GetServingInfoRequest())
    assert info.active_release == "dot"
    assert info.server_version == version("twotower")
    assert set(info.capabilities) >= {"dense_features", "filter", "item_keys", "matrix"}
    assert list(info.degraded) == []


def test_the_default_limits(stub: v1.TwoTowerServiceStub) -> None:
    assert stub.GetServingInfo(v1.GetServingInfoRequest()).limits == v1.Limits(
        users=10_000,
        items=10_000,
        k=10_000,
        exclusions=10_000,
        features=2_000,
        id_bytes=512,
        request_bytes=4_194_304,
        response_bytes=3_670_016,
    )


def test_limits_are_those_of_this_server(tight: v1.TwoTowerServiceStub) -> None:
    limits = tight.GetServingInfo(v1.GetServingInfoRequest()).limits
    assert (limits.users, limits.items, limits.k, limits.exclusions) == (3, 4, 300, 5)
    assert (limits.features, limits.id_bytes, limits.response_bytes) == (12, 16, 4096)


@pytest.mark.parametrize("pin", ["", "dot"])
def test_the_release(stub: v1.TwoTowerServiceStub, dot: Recomputed, pin: str) -> None:
    release = the_release(stub, release=pin)
    assert (release.release, release.active, release.traffic_share) == ("dot", True, 1.0)
    assert (release.dimension, release.similarity, release.items) == (8, v1.SIMILARITY_DOT, 300)
    assert (release.scale, release.bias) == (dot.scale, dot.bias) == (2.0, -0.5)
    assert (release.index_kind, release.index_recall) == ("exact", 1.0)


def test_a_cosine_release(cosine_stub: v1.TwoTowerServiceStub) -> None:
    release = the_release(cosine_stub)
    assert (release.release, release.similarity) == ("cosine", v1.SIMILARITY_COSINE)


@pytest.mark.parametrize("side", ["user", "item"])
def test_the_schema(server: Running, dot: Recomputed, side: str) -> None:
    schema = getattr(the_release(server.stub), f"{side}_schema")
    specs = sorted(dot.schema[side]["features"], key=lambda spec: str(spec["name"]).encode())
    assert [(f.name, f.kind, f.wildcard) for f in schema.features] == [
        (spec["name"], spec["kind"], spec["name"].endswith("*")) for spec in specs
    ]
    assert list(schema.dense_order) == [spec["name"] for spec in specs if spec["kind"] == "numeric"]
    written = json.loads((server.releases / "dot" / "schema.json").read_text("utf-8"))
    assert f"{schema.fingerprint:016x}" == written[side]["fingerprint"]


def test_schemas_that_differ_have_different_fingerprints(stub: v1.TwoTowerServiceStub) -> None:
    release = the_release(stub)
    assert 0 != release.user_schema.fingerprint != release.item_schema.fingerprint != 0


@pytest.mark.parametrize("name", ["cosine", "nowhere", "../dot", "DOT", "x" * 100_000, "é"])
def test_a_release_that_is_not_loaded(stub: v1.TwoTowerServiceStub, name: str) -> None:
    message = refused(stub.GetServingInfo, v1.GetServingInfoRequest(release=name), "RELEASE_NOT_LOADED", "release")
    assert message.endswith("loaded are dot")

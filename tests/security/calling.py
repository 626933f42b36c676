"""Calls of a server as one caller, and how they ended."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.http.calling import TIMEOUT_S, Answer, read
from tests.rpc.messages import USER, user
from twotower import v1


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one call: status code, and what it said."""

    code: grpc.StatusCode
    message: str


class Rpc:
    """One RPC of each role, as one caller."""

    def __init__(self, channel: grpc.Channel, *metadata: tuple[str, str]) -> None:
        self._channel = channel
        self._metadata = metadata

    def read(self) -> Outcome:
        request = v1.GetUserEmbeddingRequest(user=user(USER))
        return self._call(v1.TwoTowerServiceStub(self._channel).GetUserEmbedding, request)

    def info(self) -> Outcome:
        return self._call(v1.TwoTowerServiceStub(self._channel).GetServingInfo, v1.GetServingInfoRequest())

    def catalog(self) -> Outcome:
        """Deletes nothing."""
        request = v1.DeleteItemsRequest(item_ids=["no such item"])
        return self._call(v1.CatalogServiceStub(self._channel).DeleteItems, request)

    def release(self) -> Outcome:
        return self._call(v1.ReleaseServiceStub(self._channel).ListReleases, v1.ListReleasesRequest())

    def health(self) -> Outcome:
        request = health_pb2.HealthCheckRequest()
        return self._call(health_pb2_grpc.HealthStub(self._channel).Check, request)

    def codes(self) -> tuple[grpc.StatusCode, grpc.StatusCode, grpc.StatusCode]:
        """What reading, changing items and listing releases ends with."""
        return self.read().code, self.catalog().code, self.release().code

    def _call(self, rpc: grpc.UnaryUnaryMultiCallable[object, object], request: object) -> Outcome:
        try:
            rpc(request, metadata=self._metadata, timeout=TIMEOUT_S, wait_for_ready=False)
        except grpc.RpcError as error:
            return Outcome(error.code(), str(error.details()))
        return Outcome(grpc.StatusCode.OK, "")


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The header of a token; "" = none."""
    return (("authorization", f"Bearer {token}"),) if token else ()


@contextmanager
def plain(target: str, token: str = "") -> Iterator[Rpc]:
    """A caller without TLS."""
    with grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield Rpc(channel, *bearer(token))


@contextmanager
def encrypted(
    target: str, roots: bytes, token: str = "", certificate: bytes | None = None, key: bytes | None = None
) -> Iterator[Rpc]:
    """A caller with TLS, and with a certificate where one is given."""
    credentials = grpc.ssl_channel_credentials(roots, key, certificate)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "localhost")]
    with grpc.secure_channel(target, credentials, options) as channel:
        yield Rpc(channel, *bearer(token))


def http_call(
    target: str, path: str, token: str = "", tls: ssl.SSLContext | None = None, body: object = None
) -> Answer:
    """GET, or POST where there is a body."""
    host, _, port = target.rpartition(":")
    connection = (
        HTTPConnection(host, int(port), timeout=TIMEOUT_S)
        if tls is None
        else HTTPSConnection(host, int(port), timeout=TIMEOUT_S, context=tls)
    )
    headers = dict(bearer(token))
    try:
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers)
        return read(connection)
    finally:
        connection.close()


PREDICT = "/v1/models/user_tower:predict"
INSTANCES = {"instances": [{"user_age": 31}]}

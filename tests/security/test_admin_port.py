"""--admin-listen: what changes something is served there, and there alone."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.http.calling import TIMEOUT_S
from tests.security.calling import plain
from tests.security.conftest import Start
from twotower_server.config import Config, ConfigError

OK, DENIED, NOWHERE = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED


def services(target: str) -> set[str]:
    """Those that reflection names."""
    with grpc.insecure_channel(target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = next(stub.ServerReflectionInfo(iter([request]), timeout=TIMEOUT_S))
    return {service.name for service in answer.list_services_response.service if service.name.startswith("twotower.")}


def test_catalog_and_release_services_leave_the_main_port(start: Start, remote: str) -> None:
    server = start("--admin-listen", ":0", "--workers", "2")
    assert server.ports["admin_target"] != server.target
    with plain(server.target) as caller:
        assert caller.codes() == (OK, NOWHERE, NOWHERE)
    with plain(server.ports["admin_target"]) as caller:
        assert caller.codes() == (NOWHERE, OK, OK)
        assert caller.health().code is OK
    with plain(server.at(remote, "admin_target")) as caller:
        assert caller.codes() == (NOWHERE, DENIED, DENIED)
    assert services(server.target) == {"twotower.v1.TwoTowerService"}
    assert services(server.ports["admin_target"]) == {"twotower.v1.CatalogService", "twotower.v1.ReleaseService"}


def test_it_can_be_kept_to_this_machine(start: Start, remote: str) -> None:
    server = start("--admin-listen", "127.0.0.1:0")
    with plain(server.ports["admin_target"]) as caller:
        assert caller.release().code is OK
    with plain(server.at(remote, "admin_target")) as caller:
        assert caller.release().code is grpc.StatusCode.UNAVAILABLE


def test_a_port_that_is_taken_is_named_by_its_option() -> None:
    with pytest.raises(ConfigError, match="admin_listen and listen have the port 7"):
        Config(Path("r"), listen=":7", admin_listen="localhost:7")  # type: ignore[arg-type]


def test_an_authority_of_clients_needs_tls() -> None:
    with pytest.raises(ConfigError, match="tls_client_ca is set without tls_certificate"):
        Config(Path("r"), tls_client_ca="clients.pem")  # type: ignore[arg-type]

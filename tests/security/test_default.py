"""A server that was told nothing about callers: everybody reads, this machine does the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tests.security.calling import INSTANCES, PREDICT, Rpc, http_call, plain
from tests.security.conftest import Started, start_in

OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture(scope="module")
def server(releases: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with ExitStack() as held:
        yield start_in(held, tmp_path_factory.mktemp("default"), releases)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_callers_on_this_machine_may_do_everything(server: Started, host: str) -> None:
    with plain(server.at(host)) as caller:
        assert caller.codes() == (OK, OK, OK)


@pytest.mark.parametrize("token", ["", "a-token-that-nobody-granted"])
def test_callers_from_elsewhere_may_read_alone(server: Started, remote: str, token: str) -> None:
    with plain(server.at(remote), token) as caller:
        assert caller.codes() == (OK, DENIED, DENIED)
        assert caller.info().code is OK
        assert caller.health().code is OK
        message = caller.catalog().message
    assert message.startswith("UNSPECIFIED: this server takes changes of items and releases from its own machine alone")
    assert "--tokens" in message
    answer = http_call(server.at(remote, "http_target"), PREDICT, token, body=INSTANCES)
    assert len(answer.predictions) == 8


def test_a_caller_from_elsewhere_cannot_say_that_it_is_here(server: Started, remote: str) -> None:
    with grpc.insecure_channel(server.at(remote)) as channel:
        claims = ("x-forwarded-for", "127.0.0.1"), ("forwarded", "for=127.0.0.1"), ("x-real-ip", "::1")
        assert Rpc(channel, *claims).catalog().code is DENIED

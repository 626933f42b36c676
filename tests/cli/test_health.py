"""`twotower health` asks a real server, as the health check of a container does."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Command
from tests.supervisor.running import Server
from twotower_server.cli.exit_code import ExitCode


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that nobody serves."""
    with socket.socket() as bound:  # bound and not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_a_server_that_is_ready(start_server: Callable[..., Server], run_twotower: Command) -> None:
    address = start_server("--http-listen", "localhost:0").ready()["http_target"]
    assert run_twotower("health", "--url", f"http://{address}/readyz") == (ExitCode.OK, "ready\n", "")
    code, _, why = run_twotower("health", "--url", f"http://{address}/no-such-path")
    assert (code, why) == (ExitCode.FAILED, f"twotower health: not ready: http://{address}/no-such-path answers 404\n")


def test_no_server(run_twotower: Command, monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setenv("TWOTOWER_METRICS_LISTEN", f"127.0.0.1:{free_port}")
    # A proxy would answer for everybody.
    monkeypatch.setenv("http_proxy", "http://localhost:1")
    code, _, why = run_twotower("health")
    assert code == ExitCode.FAILED
    assert f"no answer from http://127.0.0.1:{free_port}/readyz: " in why
    assert "refused" in why


def test_a_server_that_says_nothing(run_twotower: Command, silent_target: str) -> None:
    code, _, why = run_twotower("health", "--url", f"http://{silent_target}/readyz", "--timeout-s", "0.1")
    assert code == ExitCode.FAILED
    assert "timed out" in why


@pytest.mark.parametrize("url", ["localhost:9090/readyz", "/readyz", "ftp://localhost/readyz"])
def test_what_is_no_url(run_twotower: Command, url: str) -> None:
    code, _, why = run_twotower("health", "--url", url)
    assert code == ExitCode.USAGE
    assert "write http://HOST:PORT/readyz" in why


def test_an_address_that_is_none(run_twotower: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOTOWER_METRICS_LISTEN", "everywhere")
    code, _, why = run_twotower("health")
    assert (code, why.startswith("twotower health: TWOTOWER_METRICS_LISTEN: 'everywhere' has no port")) == (2, True)

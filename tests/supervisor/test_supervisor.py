"""What the supervisor does with its workers, seen from outside, with real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.supervisor.running import Server, alive, until

StartServer = Callable[..., Server]


def ask(port: int) -> int:
    """The process id of a worker that answers on the port."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        return int(connection.makefile().readline())


def answered_by_another(port: int, pid: int) -> bool:
    try:
        return ask(port) != pid
    except (ConnectionError, ValueError):
        return False


def test_a_server_says_where_it_serves_and_ends_in_order(start_tiny: StartServer) -> None:
    server = start_tiny("serve")
    ready = server.ready()
    assert ready["event"] == "serving"
    assert ready["release"] == "r1"
    assert ready["target"] == f"127.0.0.1:{ready['port']}"
    assert ask(ready["port"]) in server.children()
    assert f"serving r1 on 127.0.0.1:{ready['port']}" in server.log()
    server.send(signal.SIGTERM)
    assert server.ended() == 0
    assert "stopped" in server.log()


def test_ctrl_c_in_a_terminal_ends_it_in_order_too(start_tiny: StartServer) -> None:
    server = start_tiny("serve")
    server.ready()
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.ended() == 0
    assert "Traceback" not in server.log()


def test_a_killed_worker_is_replaced_on_the_same_port(start_tiny: StartServer) -> None:
    server = start_tiny("serve")
    port = server.ready()["port"]
    first = ask(port)
    os.kill(first, signal.SIGKILL)
    until(lambda: answered_by_another(port, first))
    assert not alive(first)
    assert "worker 0: was killed by SIGKILL; another starts" in server.log()


def test_several_workers_share_the_port(start_tiny: StartServer) -> None:
    server = start_tiny("serve", "--workers", "2")
    port = server.ready()["port"]
    assert len(server.children()) == 2
    seen: set[int] = set()
    until(lambda: seen.add(ask(port)) or len(seen) == 2)  # type: ignore[func-returns-value]
    server.send(signal.SIGTERM)
    assert server.ended() == 0
    assert not any(alive(pid) for pid in seen)


@pytest.mark.parametrize("entry", ["serve", "serve_stubbornly"])
def test_no_worker_outlives_a_killed_supervisor(start_tiny: StartServer, entry: str) -> None:
    server = start_tiny(entry)
    server.ready()
    (worker,) = server.children()
    server.send(signal.SIGKILL)
    server.ended()
    until(lambda: not alive(worker))


def test_a_worker_that_does_not_end_is_killed_after_the_grace(start_tiny: StartServer) -> None:
    server = start_tiny("serve_stubbornly", "--grace-s", "0")
    server.ready()
    (worker,) = server.children()
    server.send(signal.SIGTERM)
    assert server.ended() == 1
    assert not alive(worker)
    assert "worker 0 does not end; killing it" in server.log()


def test_a_second_signal_ends_it_at_once(start_tiny: StartServer) -> None:
    server = start_tiny("serve_stubbornly", "--grace-s", "3600")
    server.ready()
    server.send(signal.SIGTERM)
    until(lambda: "may finish within 3600 s" in server.log())
    server.send(signal.SIGTERM)
    assert server.ended() == 1


def test_a_crash_loop_at_the_start_is_given_up_with_the_reason(start_tiny: StartServer) -> None:
    server = start_tiny("crash")
    assert server.ended() == 1
    assert server.log().endswith("worker 0 failed 5 times in a row; at last: ended with exit code 7\n")


def test_a_crash_loop_after_the_start_is_given_up_with_the_reason(start_tiny: StartServer) -> None:
    server = start_tiny("serve_once")
    port = server.ready()["port"]

    def ended() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
        return server.process.poll() is not None

    until(ended)
    assert server.ended() == 1
    assert server.log().endswith("worker 0 failed 5 times in a row; at last: was killed by SIGSEGV\n")


def test_a_worker_that_refuses_the_release_ends_the_start(start_tiny: StartServer) -> None:
    server = start_tiny("refuse")
    assert server.ended() == 3
    assert server.log().endswith("release r1: its files have changed\n")


def test_a_worker_gets_the_configuration_and_one_thread_a_library(start_tiny: StartServer) -> None:
    server = start_tiny("tell_environment", "--grace-s", "2.5")
    assert server.ended() == 1
    assert server.log().endswith("threads 1, grace 2.5, worker 0\n")


def test_a_second_server_on_the_port_is_refused(start_tiny: StartServer) -> None:
    first = start_tiny("serve")
    port = first.ready()["port"]
    second = start_tiny("serve", "--listen", f"127.0.0.1:{port}")
    assert second.ended() == 4
    assert f"port {port} is in use by another twotower server (process {first.process.pid})" in second.log()
    assert ask(port) in first.children()


def test_a_port_is_free_again_at_once(start_tiny: StartServer) -> None:
    first = start_tiny("serve")
    port = first.ready()["port"]
    ask(port)  # the worker closes this connection first, which leaves it in TIME_WAIT
    first.send(signal.SIGTERM)
    assert first.ended() == 0
    second = start_tiny("serve", "--listen", f"127.0.0.1:{port}")
    assert second.ready()["port"] == port


def test_no_active_release(start_tiny: StartServer, releases: Path) -> None:
    (releases / "active").unlink()
    server = start_tiny("serve")
    # The folder is there, so the hint names what could be activated.
    assert server.ended() == 5
    assert "r1" in server.log()


def test_an_active_release_that_is_not_there(start_tiny: StartServer, releases: Path) -> None:
    (releases / "active").write_text("r2\n")
    server = start_tiny("serve")
    assert server.ended() == 5
    assert "the active release r2 is not in" in server.log()
    assert "which has r1" in server.log()


def test_no_folder_of_releases(start_tiny: StartServer, tmp_path: Path) -> None:
    server = start_tiny("serve", "--releases", str(tmp_path / "nowhere"))
    assert server.ended() == 5
    assert "nowhere is no folder" in server.log()


def test_a_tls_file_that_cannot_be_read(start_tiny: StartServer, tmp_path: Path) -> None:
    server = start_tiny("serve", "--tls-certificate", str(tmp_path / "c"), "--tls-key", str(tmp_path / "k"))
    assert server.ended() == 2
    assert "--tls-certificate" in server.log()

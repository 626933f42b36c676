"""`twotower query` as a process of its own, and its ways to a server: releases, TLS, none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.cli.conftest import Query, StartServer
from tests.conftest import Running
from twotower_server.cli.exit_code import ExitCode

OF_THE_SERVER = ("faiss", "grpc_health", "grpc_reflection", "onnxruntime", "pyarrow", "redis", "uvloop", "xxhash")
USER = ("--feature", "age=34", "--feature", "gender=f")


def test_a_release_can_be_pinned(query: Query, cosine_server: Running) -> None:
    for release, target in (("dot", None), ("cosine", cosine_server.target)):
        code, out, _ = query("user", *USER, "--release", release, target=target)
        assert code == ExitCode.OK and out.startswith(f"release {release} ")
        assert out.splitlines()[0].endswith(" norm 1.0000") == (release == "cosine")


@pytest.mark.parametrize(
    "arguments",
    [
        ("user", *USER),
        ("item", "--item", "i1"),
        ("score", *USER, "--item", "i1"),
        ("recommend", *USER),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_release_that_is_not_loaded(query: Query, arguments: tuple[str, ...]) -> None:
    code, out, err = query(*arguments, "--release", "r9")
    assert (code, out) == (ExitCode.FAILED, "")
    assert err == "twotower query: RELEASE_NOT_LOADED: release 'r9' is not loaded; loaded are dot\n"


def test_tls(start_server: StartServer, query: Query, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    paths = {name: tmp_path / f"{name}.pem" for name in ("root", "certificate", "key", "other")}
    authority.cert_pem.write_to_path(paths["root"])
    trustme.CA().cert_pem.write_to_path(paths["other"])
    certificate.private_key_pem.write_to_path(paths["key"])
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(paths["certificate"], append=True)
    server = start_server("--tls-certificate", str(paths["certificate"]), "--tls-key", str(paths["key"]))
    target = str(server.ready()["target"])
    asking = ("recommend", "--feature", "age=34", "--k", "1")
    for options in (["--root-certificates", str(paths["root"])], ["--tls", "--root-certificates", str(paths["root"])]):
        code, out, err = query(*asking, *options, target=target)
        assert (code, err) == (ExitCode.OK, "") and out.startswith("release r1 ")
    for options in ([], ["--tls"], ["--root-certificates", str(paths["other"])]):
        code, out, err = query(*asking, *options, target=target)
        assert (code, out) == (ExitCode.FAILED, "")
        assert "UNAVAILABLE" in err and "needs --tls, or --root-certificates" in err


def process(*arguments: str | bytes, **options: Any) -> subprocess.Popen[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    return subprocess.Popen(
        [sys.executable, "-m", "twotower_server.cli.main", "query", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environ,
        encoding="utf-8",
        **options,
    )


def test_a_process_of_its_own(server: Running) -> None:
    with process("recommend", *USER, "--k", "2", "--attribute", "title", "--target", server.target) as asking:
        out, err = asking.communicate(timeout=60)
    assert (asking.returncode, err) == (ExitCode.OK, "")
    assert out.count("Title ") == 2


def test_without_a_server_two_lines_say_what_to_do() -> None:
    with process("recommend", *USER, "--target", "localhost:1") as asking:
        out, err = asking.communicate(timeout=60)
    assert (asking.returncode, out) == (ExitCode.FAILED, "")
    reason, advice = err.splitlines()
    assert reason.startswith("twotower query: UNAVAILABLE: ")
    assert advice.startswith("No server was reached at localhost:1. Start one by `twotower serve`")


def test_failed_handshakes_are_told_once(server: Running) -> None:
    """gRPC would log each of them."""
    with process("recommend", *USER, "--target", server.target, "--tls") as asking:
        out, err = asking.communicate(timeout=60)
    assert (asking.returncode, out) == (ExitCode.FAILED, "")
    assert len(err.splitlines()) == 2


def test_a_reader_that_goes_away(server: Running) -> None:
    with process("recommend", *USER, "--k", "3", "--json", "--target", server.target) as asking:
        assert asking.stdout is not None and asking.stderr is not None
        asking.stdout.close()
        assert asking.stderr.read() == ""
    assert asking.returncode == ExitCode.FAILED


def test_arguments_that_are_not_utf_8(server: Running) -> None:
    for option in (b"--user-id", b"--release"):
        with process("user", *USER, option, b"\xff", "--target", server.target) as asking:
            out, err = asking.communicate(timeout=60)
        assert (asking.returncode, out) == (ExitCode.USAGE, "")
        assert err == "twotower query: a text in the arguments is not UTF-8\n"


def test_it_needs_nothing_of_the_server(server: Running) -> None:
    code = f"""
import sys
sys.modules.update(dict.fromkeys({OF_THE_SERVER}))
from twotower_server.cli.main import main
sys.exit(main())
"""
    command = [sys.executable, "-c", code, "query", "user", *USER, "--target", server.target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")

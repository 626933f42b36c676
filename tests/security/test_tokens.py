"""A server with a file of tokens: nobody does anything without an entry, here or elsewhere."""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
import trustme

import twotower
from tests.security.calling import INSTANCES, PREDICT, http_call, plain
from tests.security.conftest import Start, Started, start_in
from tests.supervisor.running import PATIENCE_S, Server, until
from twotower import v1

OK = grpc.StatusCode.OK
NOBODY, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
READER, EDITOR, TRAINER, ALL = "reader" * 4, "editor" * 4, "trainer" * 4, "everything" * 4
WRONG = "wrong" * 4


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def write_tokens(folder: Path, more: str = "") -> Path:
    entries = [(READER, '"read"'), (EDITOR, '"catalog"'), (TRAINER, '"release"'), (ALL, '"read", "catalog", "release"')]
    file = folder / "tokens.toml"
    text = "".join(
        f'[[token]]\nname = "name of {token[:4]}"\nsha256 = "{digest(token)}"\nroles = [{roles}]\n'
        for token, roles in entries
    )
    file.write_text(text + more)
    file.chmod(0o600)
    return file


@pytest.fixture(scope="module")
def server(releases: Path, server_tls: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """Without TLS: what it asks of callers is the same."""
    folder = tmp_path_factory.mktemp("tokens")
    with ExitStack() as held:
        yield start_in(held, folder, releases, "--tokens", write_tokens(folder))


@pytest.mark.parametrize(
    ("token", "codes"),
    [
        ("", (NOBODY, NOBODY, NOBODY)),
        (WRONG, (NOBODY, NOBODY, NOBODY)),
        (READER, (OK, DENIED, DENIED)),
        (EDITOR, (DENIED, OK, DENIED)),
        (TRAINER, (DENIED, DENIED, OK)),
        (ALL, (OK, OK, OK)),
    ],
)
def test_each_token_may_do_what_its_entry_says(server: Started, remote: str, token: str, codes: object) -> None:
    for host in ("127.0.0.1", remote):
        with plain(server.at(host), token) as caller:
            assert caller.codes() == codes
            assert caller.info().code is caller.read().code
            assert caller.health().code is OK


def test_a_refusal_says_what_to_do_and_never_the_token(server: Started) -> None:
    with plain(server.target) as caller:
        assert caller.read().message == (
            "UNSPECIFIED: this needs the role read: send a token that has it (authorization: Bearer …)"
        )
    with plain(server.target, WRONG) as caller:
        assert caller.read().message.startswith("UNSPECIFIED: the token is unknown")
        assert WRONG not in caller.read().message
    with plain(server.target, READER) as caller:
        assert caller.catalog().message.startswith("UNSPECIFIED: name of read lacks the role catalog")


def test_http_answers_401_and_403(server: Started) -> None:
    target = server.at("127.0.0.1", "http_target")
    for path in ("/healthz", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready"):
        assert http_call(target, path).status == 200
    for token in ("", WRONG):
        for path in ("/v2", "/v2/models/score", "/metrics", "/no/such/place"):
            answer = http_call(target, path, token)
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="twotower"'
        answer = http_call(target, PREDICT, token, body=INSTANCES)
        assert answer.status == 401
        assert WRONG not in answer.error
    denied = http_call(target, PREDICT, EDITOR, body=INSTANCES)
    assert (denied.status, denied.headers["WWW-Authenticate"]) == (403, None)
    assert denied.error.startswith("UNSPECIFIED: name of edit lacks the role read")
    assert len(http_call(target, PREDICT, READER, body=INSTANCES).predictions) == 8
    assert http_call(target, "/metrics", READER).status == 200
    assert http_call(target, "/no/such/place", READER).status == 404


def test_a_warning_tells_of_tokens_in_clear_text(server: Started, remote: str) -> None:
    with plain(server.at(remote), READER) as caller:
        assert caller.read().code is OK
    warned = re.findall("the token of name of read came over a network in clear text", server.server.log())
    assert len(warned) == 1


def test_reading_can_be_opened_to_everybody(start: Start, remote: str, tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path, '[anonymous]\nroles = ["read"]\n')
    server = start("--tokens", tokens)
    for host in ("127.0.0.1", remote):
        with plain(server.at(host)) as caller:
            assert caller.codes() == (OK, NOBODY, NOBODY)
    assert len(http_call(server.at(remote, "http_target"), PREDICT, body=INSTANCES).predictions) == 8
    with plain(server.target, WRONG) as caller:
        assert caller.read().code is NOBODY


def test_sighup_reads_the_file_again_in_every_worker(start: Start, tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path)
    server = start("--tokens", tokens, "--workers", "2")

    def code(token: str) -> grpc.StatusCode:
        with plain(server.target, token) as caller:
            return caller.read().code

    assert code(READER) is OK
    assert code(WRONG) is NOBODY
    text = tokens.read_text()
    tokens.write_text(
        text.replace(hashlib.sha256(READER.encode()).hexdigest(), hashlib.sha256(WRONG.encode()).hexdigest())
    )
    server.server.send(signal.SIGHUP)
    # Each call dials anew, and meets either worker.
    until(lambda: all(code(WRONG) is OK and code(READER) is NOBODY for _ in range(10)))

    tokens.write_text("[[token]]\n")
    server.server.send(signal.SIGHUP)
    until(lambda: "needs either token or sha256" in server.server.log())
    assert code(WRONG) is OK
    assert len(server.server.children()) == 2


def test_a_wrong_file_ends_the_start_with_its_reason(releases: Path, tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path, f'[[token]]\nname = "x"\ntoken = "{WRONG}"\nroles = ["reed"]\n')
    command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(releases), "--data", str(tmp_path / "data")]
    server = Server([*command, "--listen", "localhost:0", "--tokens", str(tokens)], tmp_path / "log", {})
    try:
        assert server.ended() == 2
        assert server.log() == (
            f"twotower serve: --tokens: {tokens}: [[token]] number 5 needs roles: a list of read, catalog, release\n"
        )
    finally:
        server.close()


def test_the_python_client_is_told_apart_from_an_outage(
    start: Start, authority: trustme.CA, server_tls: tuple[str, ...], tmp_path: Path
) -> None:
    server = start("--tokens", write_tokens(tmp_path), *server_tls)
    tls = twotower.Tls(root_certificates=authority.cert_pem.bytes())
    target = server.at("localhost")
    with twotower.Client(target, timeout_s=PATIENCE_S, tls=tls, token=READER) as client:
        assert client.get_user_embedding(v1.User(user_id="u1", features={"user_age": 31.0})).release == "dot"
        with pytest.raises(twotower.AccessDenied) as refused:
            list(client.releases.list())
        assert refused.value.code is DENIED
        assert refused.value.message.startswith("name of read lacks the role release")
    for token in (WRONG, None):
        with (
            twotower.Client(target, timeout_s=PATIENCE_S, tls=tls, token=token) as client,
            pytest.raises(twotower.AccessDenied) as refused,
        ):
            client.get_user_embedding(v1.User(user_id="u1", features={"user_age": 31.0}))
        assert refused.value.code is NOBODY
    # A token that is renewed is asked for before each call.
    tokens = iter([WRONG, READER])
    with twotower.Client(target, timeout_s=PATIENCE_S, tls=tls, token=lambda: next(tokens)) as client:
        with pytest.raises(twotower.AccessDenied):
            client.get_user_embedding(v1.User(user_id="u1", features={"user_age": 31.0}))
        assert client.get_user_embedding(v1.User(user_id="u1", features={"user_age": 31.0})).release == "dot"


def test_a_file_for_everybody_is_warned_of(start: Start, tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path)
    tokens.chmod(0o644)
    server = start("--tokens", tokens)
    assert "can be read by every user of this machine: chmod o-r it" in server.server.log()

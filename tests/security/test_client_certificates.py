"""A server with --tls-client-ca: each client shows a certificate, and is who it says."""

from __future__ import annotations

import signal
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
import trustme

import twotower
from tests.security.calling import INSTANCES, PREDICT, encrypted, http_call
from tests.security.certificates import Pem, issue_client
from tests.security.conftest import Start, Started, start_in
from tests.supervisor.running import PATIENCE_S, until
from twotower import v1

OK, NOT_CONNECTED = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
DENIED, NOBODY = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
TOKEN = "a-token-that-edits-items"
GRANTS = f"""
[[certificate]]
identity = "spiffe://example.org/trainer"
roles = ["read", "release"]

[[certificate]]
identity = "editor.example.org"
roles = ["read", "catalog"]

[[certificate]]
identity = "a common name"
roles = ["read"]

[[token]]
name = "token"
token = "{TOKEN}"
roles = ["catalog"]
"""
# Certificates by what they are issued for: the first of URI, DNS name and common name counts.
NAMES = {
    "uri": {"uri": "spiffe://example.org/trainer", "dns": "editor.example.org", "common_name": "a common name"},
    "dns": {"dns": "editor.example.org", "common_name": "spiffe://example.org/trainer"},
    "common name": {"common_name": "a common name"},
    "stranger": {"dns": "stranger.example.org", "common_name": "editor.example.org"},
    "nameless": {},
}


@pytest.fixture(scope="module")
def clients() -> trustme.CA:
    """Signs the certificates of clients."""
    return trustme.CA()


@pytest.fixture(scope="module")
def server(
    clients: trustme.CA, releases: Path, server_tls: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("certificates")
    clients.cert_pem.write_to_path(folder / "clients.pem")
    (folder / "tokens.toml").write_text(GRANTS)
    (folder / "tokens.toml").chmod(0o600)
    options = ("--tls-client-ca", folder / "clients.pem", "--tokens", folder / "tokens.toml")
    with ExitStack() as held:
        yield start_in(held, folder, releases, *server_tls, *options)


def context(authority: trustme.CA, folder: Path, shown: Pem | None) -> ssl.SSLContext:
    found = ssl.create_default_context()
    authority.configure_trust(found)
    if shown is not None:
        found.load_cert_chain(*shown.write(folder))
    return found


@pytest.mark.parametrize(
    ("name", "codes", "http"),
    [
        ("uri", (OK, DENIED, OK), 200),
        ("dns", (OK, OK, DENIED), 200),
        ("common name", (OK, DENIED, DENIED), 200),
        ("stranger", (DENIED, DENIED, DENIED), 403),
        ("nameless", (NOBODY, NOBODY, NOBODY), 401),
    ],
)
def test_a_client_is_who_its_certificate_says(
    server: Started, authority: trustme.CA, clients: trustme.CA, tmp_path: Path, name: str, codes: object, http: int
) -> None:
    shown = issue_client(clients, **NAMES[name])
    with encrypted(server.target, authority.cert_pem.bytes(), "", shown.certificate, shown.key) as caller:
        assert caller.codes() == codes
        assert caller.health().code is OK
    tls = context(authority, tmp_path, shown)
    target = server.at("127.0.0.1", "http_target")
    assert http_call(target, PREDICT, tls=tls, body=INSTANCES).status == http
    assert http_call(target, "/healthz", tls=tls).status == 200


def test_a_token_decides_where_one_is_sent(server: Started, authority: trustme.CA, clients: trustme.CA) -> None:
    shown = issue_client(clients, **NAMES["uri"])
    roots = authority.cert_pem.bytes()
    with encrypted(server.target, roots, TOKEN, shown.certificate, shown.key) as caller:
        assert caller.codes() == (DENIED, OK, DENIED)
    with encrypted(server.target, roots, f"{TOKEN}x", shown.certificate, shown.key) as caller:
        assert caller.codes() == (NOBODY, NOBODY, NOBODY)


def test_without_a_certificate_of_the_authority_nobody_comes_in(
    server: Started, authority: trustme.CA, tmp_path: Path
) -> None:
    roots = authority.cert_pem.bytes()
    forged = issue_client(trustme.CA(), **NAMES["uri"])
    with encrypted(server.target, roots, TOKEN) as caller:
        assert caller.read().code is NOT_CONNECTED
    with encrypted(server.target, roots, TOKEN, forged.certificate, forged.key) as caller:
        assert caller.read().code is NOT_CONNECTED
    target = server.at("127.0.0.1", "http_target")
    # Probes have no certificate; they learn no more than whether the server is well.
    tls = context(authority, tmp_path, None)
    assert http_call(target, "/readyz", tls=tls).status == 200
    for token in ("", TOKEN):
        answer = http_call(target, PREDICT, token, tls=tls, body=INSTANCES)
        assert answer.status == 401
        assert "client certificate" in answer.error
    with pytest.raises((ssl.SSLError, ConnectionError)):
        http_call(target, "/readyz", tls=context(authority, tmp_path, forged))


def test_the_python_client_shows_its_certificate(server: Started, authority: trustme.CA, clients: trustme.CA) -> None:
    shown = issue_client(clients, **NAMES["dns"])
    tls = twotower.Tls(authority.cert_pem.bytes(), shown.certificate, shown.key)
    with twotower.Client(server.at("localhost"), timeout_s=PATIENCE_S, tls=tls) as client:
        assert client.get_user_embedding(v1.User(features={"user_age": 31.0})).release == "dot"
        with pytest.raises(twotower.AccessDenied, match=r"editor\.example\.org lacks the role release"):
            client.releases.list()


def test_sighup_takes_new_certificates_and_authorities(start: Start, tmp_path: Path) -> None:
    """Connections that are open stay; new ones meet the new certificate, and the new authority of clients."""
    old, new = trustme.CA(), trustme.CA()

    def install(authority: trustme.CA) -> Pem:
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
        issued.private_key_pem.write_to_path(tmp_path / "server.key")
        authority.cert_pem.write_to_path(tmp_path / "clients.pem")
        return issue_client(authority, "someone")

    before = install(old)
    files = {"certificate": "server.pem", "key": "server.key", "client-ca": "clients.pem"}
    server = start(*(part for name, file in files.items() for part in (f"--tls-{name}", tmp_path / file)))
    target = server.at("127.0.0.1", "http_target")

    def comes_in(authority: trustme.CA, shown: Pem) -> bool:
        with encrypted(server.target, authority.cert_pem.bytes(), "", shown.certificate, shown.key) as caller:
            by_rpc = caller.read().code is OK
        try:
            answer = http_call(target, PREDICT, tls=context(authority, tmp_path, shown), body=INSTANCES)
        except (ssl.SSLError, ConnectionError):
            return by_rpc and False
        return by_rpc and answer.status == 200

    with encrypted(server.target, old.cert_pem.bytes(), "", before.certificate, before.key) as staying:
        assert staying.read().code is OK
        assert comes_in(old, before)
        after = install(new)
        server.server.send(signal.SIGHUP)
        until(lambda: comes_in(new, after))
        assert not comes_in(old, before)
        assert not comes_in(new, before)
        assert staying.read().code is OK

    (tmp_path / "server.pem").write_text("no certificate")
    server.server.send(signal.SIGHUP)
    until(lambda: "are no PEM certificate chain" in server.server.log())
    assert comes_in(new, after)

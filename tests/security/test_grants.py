"""The file of tokens: what it grants, and what is said of one that is wrong."""

from __future__ import annotations

import hashlib
import hmac
import logging
from pathlib import Path

import pytest

from twotower_server.access.caller import Caller
from twotower_server.access.grants import Grants
from twotower_server.config import ConfigError

SECRET = "s3cret-s3cret-s3cret-s3cret"
DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()


def load(folder: Path, text: str) -> Grants:
    file = folder / "tokens.toml"
    file.write_text(text)
    file.chmod(0o600)
    return Grants.load(file)


def test_tokens_certificates_and_anybody(tmp_path: Path) -> None:
    grants = load(
        tmp_path,
        f"""
        [[token]]
        name = "ranking"
        sha256 = "{DIGEST.upper()}"
        roles = ["read"]

        [[token]]
        name = "ranking"
        token = "another-one-of-the-same"
        roles = ["read", "catalog"]

        [[certificate]]
        identity = "spiffe://example.org/trainer"
        roles = ["release"]

        [anonymous]
        roles = ["read"]
        """,
    )
    assert grants.by_token(SECRET) == Caller("ranking", frozenset({"read"}))
    assert grants.by_token("another-one-of-the-same") == Caller("ranking", frozenset({"read", "catalog"}))
    assert grants.by_token(SECRET[:-1]) is None
    assert grants.by_token(DIGEST) is None
    assert grants.by_token("") is None
    assert grants.by_token("\udcff\u00e4") is None
    assert grants.certificates["spiffe://example.org/trainer"].roles == {"release"}
    assert grants.anonymous == {"read"}


def test_an_empty_file_grants_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Grants((), {}, frozenset())


def test_every_entry_is_compared_whichever_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [f'[[token]]\nname = "n{i}"\ntoken = "{SECRET}-{i}"\nroles = []\n' for i in range(5)]
    grants = load(tmp_path, "".join(entries))
    compared: list[bytes] = []
    real = hmac.compare_digest

    def compare(known: bytes, shown: bytes) -> bool:
        compared.append(known)
        return real(known, shown)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for token in (f"{SECRET}-0", f"{SECRET}-4", "wrong"):
        compared.clear()
        grants.by_token(token)
        assert len(compared) == 5


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f'[[token]]\nname = "a"\ntoken = "{SECRET}\nroles = []', r"is not TOML \(at line 3, column \d+\)"),
        (f'{SECRET} = "a"', "something else is there"),
        (f'token = "{SECRET}"', r"write each token under \[\[token\]\]"),
        (f'token = ["{SECRET}"]', r"write each token under \[\[token\]\]"),
        (f'[[token]]\n{SECRET} = "a"', r"\[\[token\]\] number 1 may have name, roles, sha256, token, and has"),
        (f'[[token]]\nname = "a"\ntoken = "{SECRET}"', r"\[\[token\]\] number 1 needs roles: a list of read, catalog"),
        (f'[[token]]\nname = "a"\ntoken = "{SECRET}"\nroles = ["{SECRET}"]', "number 1 needs roles"),
        (f'[[token]]\nname = "a"\ntoken = "{SECRET}"\nroles = "read"', "number 1 needs roles"),
        (f'[[token]]\nname = "a"\ntoken = "{SECRET}"\nroles = [1]', "number 1 needs roles"),
        (f'[[token]]\ntoken = "{SECRET}"\nroles = []', "number 1 needs name: a text of 1 to 256"),
        (f'[[token]]\nname = "anonymous@{SECRET}"\ntoken = "{SECRET}"\nroles = []', "cannot begin with anonymous@"),
        (f'[[token]]\nname = "a\\n{SECRET}"\ntoken = "{SECRET}"\nroles = []', "needs name"),
        ('[[token]]\nname = "a"\nroles = []', "needs either token or sha256"),
        (f'[[token]]\nname = "a"\ntoken = "{SECRET}"\nsha256 = "{DIGEST}"\nroles = []', "either token or sha256"),
        (f'[[token]]\nname = "a"\nsha256 = "{SECRET}"\nroles = []', "sha256 must be 64 hexadecimal digits"),
        ('[[token]]\nname = "a"\ntoken = "too-short"\nroles = []', "token must have 16 or more"),
        (f'[[token]]\nname = "a"\ntoken = "{SECRET} {SECRET}"\nroles = []', "no space"),
        ('[[token]]\nname = "a"\ntoken = 12345678901234567890\nroles = []', "token must have 16 or more"),
        (
            f'[[token]]\nname = "a"\ntoken = "{SECRET}"\nroles = []\n'
            f'[[token]]\nname = "b"\nsha256 = "{DIGEST}"\nroles = []',
            "number 2 has the token of an entry before it",
        ),
        (f'[[certificate]]\nidentity = "{SECRET}"\nroles = []\n' * 2, "number 2 has the identity"),
        (f'[anonymous]\nname = "{SECRET}"\nroles = []', r"\[anonymous\] must have roles, and nothing else"),
        (f'anonymous = "{SECRET}"', r"\[anonymous\] must have roles"),
        (f'a = {"[" * 2000}"{SECRET}"', "is not TOML"),
        (f"# {SECRET}{'x' * (1 << 20)}", "is larger than 1048576 bytes"),
    ],
)
def test_a_wrong_file_is_refused_without_telling_what_stands_in_it(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as refused:
        load(tmp_path, text)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None or refused.value.__suppress_context__


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--tokens: .*no\.toml cannot be read: No such file"):
        Grants.load(tmp_path / "no.toml")
    (tmp_path / "latin.toml").write_bytes(b'[[token]]\nname = "\xe4"')
    with pytest.raises(ConfigError, match="is not UTF-8"):
        Grants.load(tmp_path / "latin.toml")


def test_a_file_that_everybody_can_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(tmp_path, "")
    assert not caplog.records
    (tmp_path / "tokens.toml").chmod(0o604)
    with caplog.at_level(logging.WARNING):
        Grants.load(tmp_path / "tokens.toml")
    assert "can be read by every user of this machine: chmod o-r it" in caplog.text

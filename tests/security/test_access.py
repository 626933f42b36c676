"""Who may do what, by what they show and where they are."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from twotower_server.access.access import Access
from twotower_server.access.caller import Caller, Role
from twotower_server.config import ConfigError
from twotower_server.errors import PermissionDenied, Unauthenticated

READER, EDITOR, WRONG = "reader-reader-reader", "editor-editor-editor", "wrong-wrong-wrong-wrong"
TOKENS = f"""
[[token]]
name = "reader"
token = "{READER}"
roles = ["read"]

[[token]]
name = "editor"
token = "{EDITOR}"
roles = ["catalog"]

[[certificate]]
identity = "trainer.example.org"
roles = ["release"]
"""
OPEN = f'{TOKENS}\n[anonymous]\nroles = ["read"]\n'


def access(folder: Path, text: str, *, is_encrypted: bool = True) -> Access:
    file = folder / "tokens.toml"
    file.write_text(text)
    file.chmod(0o600)
    return Access(file, is_encrypted=is_encrypted)


def test_without_a_file_everybody_reads_and_this_machine_does_the_rest() -> None:
    default = Access(None)
    assert default.caller("127.0.0.1").roles == {"read", "catalog", "release"}
    assert default.caller("::1").roles == {"read", "catalog", "release"}
    remote = default.caller("10.0.0.7")
    assert remote == Caller("anonymous@10.0.0.7", frozenset({"read"}))
    # A token that nobody could have granted gives nothing, and harms nothing.
    assert default.caller("10.0.0.7", [f"Bearer {READER}"]) == remote
    # A certificate names who it is, and without a file of grants no more.
    shown = default.caller("10.0.0.7", certificate="trainer.example.org")
    assert shown == Caller("trainer.example.org", frozenset({"read"}))
    for caller in (remote, shown):
        refused = default.refusal(caller, Role.CATALOG)
        assert isinstance(refused, PermissionDenied)
        assert "its own machine alone" in refused.message
        assert "--tokens" in refused.message


def test_with_a_file_nobody_may_what_it_does_not_grant(tmp_path: Path) -> None:
    granted = access(tmp_path, TOKENS)
    for host in ("127.0.0.1", "::1", "unix", "10.0.0.7"):
        nobody = granted.caller(host)
        assert nobody == Caller(f"anonymous@{host}", frozenset())
        assert isinstance(granted.refusal(nobody, Role.READ), Unauthenticated)
    assert granted.caller("127.0.0.1", [f"Bearer {READER}"]) == Caller("reader", frozenset({"read"}))
    assert granted.caller("10.0.0.7", [f"bearer  {EDITOR} "]) == Caller("editor", frozenset({"catalog"}))
    assert granted.caller("10.0.0.7", certificate="trainer.example.org").roles == {"release"}
    stranger = granted.caller("10.0.0.7", certificate="stranger.example.org")
    assert stranger == Caller("stranger.example.org", frozenset())
    refused = granted.refusal(stranger, Role.READ)
    assert isinstance(refused, PermissionDenied)
    assert refused.message.startswith("stranger.example.org lacks the role read")


@pytest.mark.parametrize(
    "authorization",
    [
        [f"Bearer {WRONG}"],
        ["Bearer "],
        ["Bearer"],
        [""],
        [READER],
        [f"Basic {READER}"],
        [f"Bearer {READER} {READER}"],
        [f"Bearer {READER}", f"Bearer {READER}"],
        ["Bearer \udcff"],
    ],
)
def test_a_wrong_token_is_refused_whatever_else_is_shown(tmp_path: Path, authorization: list[str]) -> None:
    granted = access(tmp_path, OPEN)
    assert granted.caller("127.0.0.1", certificate="trainer.example.org").roles == {"release"}
    with pytest.raises(Unauthenticated) as refused:
        granted.caller("127.0.0.1", authorization, "trainer.example.org")
    assert READER not in str(refused.value)
    assert WRONG not in str(refused.value)


def test_anybody_gets_what_the_file_gives_everybody(tmp_path: Path) -> None:
    granted = access(tmp_path, OPEN)
    assert granted.caller("10.0.0.7").roles == {"read"}
    assert granted.caller("10.0.0.7", certificate="stranger.example.org").roles == {"read"}
    assert isinstance(granted.refusal(granted.caller("10.0.0.7"), Role.CATALOG), Unauthenticated)


def test_reading_the_file_again_swaps_what_is_granted_and_a_wrong_one_changes_nothing(tmp_path: Path) -> None:
    granted = access(tmp_path, TOKENS)
    (tmp_path / "tokens.toml").write_text(TOKENS.replace(READER, "another-another-another"))
    granted.reload()
    with pytest.raises(Unauthenticated):
        granted.caller("127.0.0.1", [f"Bearer {READER}"])
    assert granted.caller("127.0.0.1", ["Bearer another-another-another"]).identity == "reader"
    (tmp_path / "tokens.toml").write_text("[[token]]")
    with pytest.raises(ConfigError):
        granted.reload()
    assert granted.caller("127.0.0.1", ["Bearer another-another-another"]).identity == "reader"


def test_a_token_in_clear_text_from_elsewhere_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        access(tmp_path, TOKENS).caller("10.0.0.7", [f"Bearer {READER}"])
        plain = access(tmp_path, TOKENS, is_encrypted=False)
        plain.caller("127.0.0.1", [f"Bearer {READER}"])
        assert not caplog.records
        for _ in range(3):
            plain.caller("10.0.0.7", [f"Bearer {READER}"])
    assert len(caplog.records) == 1
    assert "the token of reader came over a network in clear text" in caplog.text
    assert READER not in caplog.text

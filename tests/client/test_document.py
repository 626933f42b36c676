"""The examples of docs/python-client.md, run one after the other against a real server of two releases."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import trustme

import twotower
from tests.client.conftest import StartSwitchable

DOCUMENT = Path(__file__).parents[2] / "docs" / "python-client.md"
EXAMPLES = [
    (match.start(), match[1]) for match in re.finditer(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
]


def test_every_example_runs(
    start_switchable: StartSwitchable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.chdir(tmp_path)
    server = start_switchable()
    text = DOCUMENT.read_text()
    names: dict[str, Any] = {}
    for start, example in EXAMPLES:
        line = text.count("\n", 0, start) + 1
        # The line numbers of a failure are then those of the document.
        code = "\n" * line + example.replace("localhost:50051", server.target)
        code = code.replace("2026-05-01", "dot").replace("2026-05-02", "cosine")
        # No test of time: a machine that is busy with other tests must not fail here.
        code = code.replace("timeout_s=0.2", "timeout_s=30")
        exec(compile(code, str(DOCUMENT), "exec"), names)
    said = capsys.readouterr().out
    assert "1 VALUE_NOT_FINITE users[1].features[age] " in said
    assert "FILTER_INVALID filter.all_of[0].conditions[0].attribute " in said
    assert "(3, 8) ('gone',)\n" in said
    assert "cosine AVAILABLE 0 \ndot ACTIVE " in said


def test_the_document_shows_every_call() -> None:
    shown = "".join(example for _, example in EXAMPLES)
    for name in vars(twotower.Client.__base__) | vars(twotower.Client):
        if not name.startswith("_"):
            assert f".{name}(" in shown or name in ("from_channel", "releases"), name
    for name in vars(twotower.Releases):
        if not name.startswith("_"):
            assert f".releases.{name}(" in shown, name

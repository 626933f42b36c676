"""The Go example is built with the Go toolchain and calls the real server through the Go client."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.go.conftest import MODULE


@pytest.fixture(scope="module")
def recommend(go: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as a program."""
    program = tmp_path_factory.mktemp("go") / "recommend"
    built = _run(go, "build", "-o", str(program), "./examples/recommend", folder=MODULE)
    assert built.returncode == 0, built.stderr
    return program


def test_example_prints_embedding_scores_and_recommendations(recommend: Path, server: Any) -> None:
    done = _run(str(recommend), server.target)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^release \S+: \d+ items, dimension \d+, active true$", done.stdout, re.MULTILINE)
    user = re.search(r"^user u1: (\d+) values by release (\S+), (\d+) features used$", done.stdout, re.MULTILINE)
    assert user is not None, done.stdout
    assert int(user[1]) > 0
    assert int(user[3]) >= 1

    recommended = re.findall(r"^recommended (\d): (\S+) score (\d\.\d{4})$", done.stdout, re.MULTILINE)
    assert [int(rank) for rank, _, _ in recommended] == [1, 2, 3, 4, 5]
    values = [float(score) for _, _, score in recommended]
    assert values == sorted(values, reverse=True)
    assert all(0 < value <= 1 for value in values)
    # Score, asked by id, agrees with the search.
    scored = re.findall(r"^scored (\S+): (\d\.\d{4})$", done.stdout, re.MULTILINE)
    assert [item_id for item_id, _ in scored] == [item_id for _, item_id, _ in recommended]
    assert [float(score) for _, score in scored] == pytest.approx(values, abs=1e-4)


def test_example_scores_the_items_that_it_is_given(recommend: Path, server: Any) -> None:
    done = _run(str(recommend), server.target, "no such item")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "scored no such item: 0.0000"


def test_example_names_the_call_that_failed(recommend: Path, server: Any) -> None:
    done = _run(str(recommend), server.target, *["i1"] * 10_001)
    assert done.returncode == 1
    assert "scoring: twotower: LIMIT_EXCEEDED: " in done.stderr


def _run(*command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)

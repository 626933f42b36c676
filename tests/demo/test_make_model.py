"""The command that makes the checked-in model: all of it, and the same every time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra [train]")

from twotower_server.demo.make_model import FILES, make_model
from twotower_server.demo.release import MODEL_FOLDER
from twotower_server.release.model import Model

pytestmark = pytest.mark.train


def test_one_seed_gives_one_model_of_the_checked_in_schema(tmp_path: Path) -> None:
    lines: list[str] = []
    one, two = tmp_path / "one", tmp_path / "two"
    make_model(one, lines.append, epochs=1)
    make_model(two, lines.append, epochs=1)
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()} == set(FILES)
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    made, checked_in = Model.open(one), Model.open(MODEL_FOLDER)
    assert made.dimension == checked_in.dimension
    # Measured, not learned: the number of epochs does not matter, and the processor only in the last digits.
    pairs = zip(made.schema.user.features, checked_in.schema.user.features, strict=True)
    for ours, theirs in (*pairs, *zip(made.schema.item.features, checked_in.schema.item.features, strict=True)):
        assert ours.transform.numbers == pytest.approx(theirs.transform.numbers)
        assert replace(ours, transform=theirs.transform) == theirs
    assert sum(line.startswith("epoch") for line in lines) == 2

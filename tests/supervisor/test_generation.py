"""A generation: one whole statement of what is served."""

from __future__ import annotations

import os
from pathlib import Path

from twotower_server.supervisor.generation import Generation, Loaded, refusal_path

SPLIT = Generation(12, "a", {"a": Loaded("/releases/a", 0), "b": Loaded("/releases/b ü", 1023)}, {"a": 0.1, "b": 0.9})


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    SPLIT.write(tmp_path)
    alone = Generation(13, "b", {"b": SPLIT.loaded["b"]})
    alone.write(tmp_path)
    assert Generation.read(tmp_path, 12) == SPLIT
    assert Generation.read(tmp_path, 13) == alone


def test_nothing_is_left_of_one_that_is_removed(tmp_path: Path) -> None:
    SPLIT.write(tmp_path)
    refusal_path(tmp_path, 12).write_text("why")
    Generation.remove(tmp_path, 12)
    assert os.listdir(tmp_path) == []
    Generation.remove(tmp_path, 12)

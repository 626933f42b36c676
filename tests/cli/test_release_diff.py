"""`twotower release diff` prints what differs between two real releases."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import ATTRIBUTES, ITEMS, Command
from tests.model_folder import SCHEMA, item_table, write_model
from twotower_server.cli.exit_code import ExitCode
from twotower_server.release.build import Recipe, build_release

Diff = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the releases `old` and `new`, which differ in everything, and `same`, built as `old` was."""
    folder = tmp_path_factory.mktemp("compared")
    schema = copy.deepcopy(SCHEMA)
    age, gender = schema["user"]["features"][0], schema["user"]["features"][3]
    age["missing"], gender["vocabulary"] = {"rule": "constant", "value": 30.5}, ["m", "x", "1"]
    schema["item"]["features"].pop(2)
    models = [
        write_model(folder / "model-old"),
        write_model(folder / "model-new", schema=schema, similarity="cosine", seed=2),
    ]
    pq.write_table(item_table(ITEMS), folder / "old.parquet")
    pq.write_table(item_table(ITEMS + 1).slice(8), folder / "new.parquet")
    releases = folder / "releases"
    build_release(Recipe("old", models[0], folder / "old.parquet", attributes=ATTRIBUTES), releases)
    build_release(Recipe("same", models[0], folder / "old.parquet", attributes=ATTRIBUTES), releases)
    build_release(Recipe("new", models[1], folder / "new.parquet", attributes=ATTRIBUTES[:4]), releases)
    return releases


@pytest.fixture
def diff(compared: Path, monkeypatch: pytest.MonkeyPatch, run_twotower: Command, tmp_path: Path) -> Diff:
    """Runs `twotower release diff`: exit code, standard output, standard error."""
    monkeypatch.setenv("TWOTOWER_RELEASES", str(compared))
    monkeypatch.setenv("TWOTOWER_DATA", str(tmp_path / "data"))

    def run(*arguments: str) -> tuple[int, str, str]:
        return run_twotower("release", "diff", *arguments)

    return run


def test_everything_differs(diff: Diff) -> None:
    code, out, err = diff("old", "new", "--k", "10")
    assert (code, err) == (ExitCode.OK, "")
    lines = [" ".join(line.split()) for line in out.splitlines() if line.strip()]
    assert lines[0] == "old new"
    for line in (
        "items 300 293 ≠",
        "dimension 8 8",
        "similarity dot cosine ≠",
        "user tower: another graph, another schema",
        "~ user_age: missing mean 38 → constant 30.5",
        "~ user_gender: vocabulary 1 added (x), 1 removed (f)",
        "item tower: another graph, another schema",
        "- item_age_days",
        "attributes:",
        "tags texts - ≠",
        "training:",
        "seed 1 2 ≠",
        "lists of 60 golden users, on the 292 items in both:",
    ):
        assert line in lines
    assert "catalog: 292 items in both; 1 added (i300), 8 removed (i" in out
    assert lines[-2].startswith("best 10: ") and lines[-1].startswith("best item: another for ")


def test_nothing_differs(diff: Diff) -> None:
    code, out, _ = diff("old", "same")
    assert code == ExitCode.OK
    assert "≠" not in out.replace("created", "").split("items")[1]
    assert out.endswith(
        "user tower: the same graph, the same schema\n"
        "item tower: the same graph, the same schema\n"
        "catalog: 300 items in both; none added or removed\n"
        "attributes: the same\n"
        "training: the same\n"
        "lists of 60 golden users, on the 300 items in both:\n"
        "  best 100: 100.0% in common in the mean, 100.0% at the least\n"
        "  best item: another for 0.0% of users\n"
    )


def test_for_programs(diff: Diff) -> None:
    code, out, _ = diff("old", "new", "--json")
    assert code == ExitCode.OK
    shown = json.loads(out)
    assert (shown["before"], shown["after"]) == ("old", "new")
    assert {"name": "items", "before": 300, "after": 293} in shown["facts"]
    assert shown["catalog"]["added_examples"] == ["i300"]
    assert shown["item"]["removed"] == ["item_age_days"]
    assert 0 < shown["moves"]["overlap_mean"] < 1


def test_a_release_that_is_not_there(diff: Diff, compared: Path) -> None:
    code, _, err = diff("old", "older")
    assert code == ExitCode.NO_RELEASE
    assert err == f"twotower release: {compared} has no release older; it has new, old, same\n"


def test_lists_of_no_length(diff: Diff) -> None:
    code, _, err = diff("old", "new", "--k", "0")
    assert code == ExitCode.USAGE
    assert "--k: must be 1 or more" in err

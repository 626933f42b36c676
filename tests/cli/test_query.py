"""`twotower query` against real servers: what it prints, and what it says when something is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twotower
from tests.cli.conftest import Query
from tests.conftest import ITEMS, Running
from tests.model_folder import DIMENSION, item_table
from twotower_server.cli import query_output
from twotower_server.cli.exit_code import ExitCode

USER = ("--feature", "age=34", "--feature", "gender=f", "--feature", "interest_sport=0.8")
SAME_USER = twotower.user(age=34, gender="f", interest={"sport": 0.8})
CATALOG = {row["item_id"]: row for row in item_table(ITEMS).to_pylist()}


@pytest.fixture
def client(server: Running) -> Iterator[twotower.Client]:
    with twotower.Client(server.target, timeout_s=30) as client:
        yield client


def float32(values: list[float]) -> list[float]:
    return list(np.array(values, np.float32).tolist())


def words(line: str) -> list[str]:
    """The cells of a line of a table."""
    return re.split(r"\s{2,}", line.strip())


# ---- user


def test_user_as_a_table(query: Query, client: twotower.Client) -> None:
    code, out, err = query("user", *USER)
    values = client.get_user_embedding(SAME_USER).values
    norm = np.linalg.norm(values)
    head, line = out.splitlines()
    assert (code, err) == (ExitCode.OK, "")
    assert head == (
        "release dot · user vector computed · features: 3 used, 6 missing, 0 unknown"
        f" · dimension {DIMENSION} · norm {norm:.4f}"
    )
    assert line.split() == [f"{value:.5f}" for value in values]


def test_user_as_json(asked: Callable[..., Any], client: twotower.Client) -> None:
    expected = client.get_user_embedding(SAME_USER)
    document = asked("user", *USER)
    assert float32(document.pop("values")) == expected.values.tolist()
    assert document == {
        "release": "dot",
        "source": "computed",
        "age_ms": None,
        "feature_use": {"used": 3, "missing": 6, "unknown": 0},
        "dimension": DIMENSION,
    }


def test_values_have_the_shortest_digits_that_mean_the_same() -> None:
    values = np.array([0.1, -1e-7, 3.0, np.float32(1) / 3], np.float32)
    assert query_output._shortest(values) == [0.1, -1e-7, 3.0, 0.33333334]


def test_features_of_every_kind(asked: Callable[..., Any], client: twotower.Client, tmp_path: Path) -> None:
    features: dict[str, twotower.FeatureValue] = {
        "age": 34,
        "user_hour": 7.5,
        "gender": "f",
        "city": "New York",
        "tags": ["a"],
        "recent_clicks": ["i7", "i9"],
        "interest": {"sport": 0.8, "film": 0.25},
        "ctr": None,
    }
    path = tmp_path / "user.json"
    path.write_text(json.dumps(features), "utf-8")
    by_flag = ["age=34", "user_hour=7.5", 'gender="f"', "city=New York", "tags=a|", "recent_clicks=i7|i9"]
    of_bag = ["--feature", "interest_sport=0.8", "--feature", "interest_film=.25"]
    expected = client.get_user_embedding(twotower.user(features=features))
    assert expected.feature_use == twotower.FeatureUse(used=7, missing=2, unknown=0)
    for arguments in (
        [*(word for one in by_flag for word in ("--feature", one)), *of_bag],
        ["--features-json", json.dumps(features)],
        ["--features-json", f"@{path}"],
        ["--features-json", json.dumps(features | {"interest": None}), *of_bag],
    ):
        document = asked("user", *arguments)
        assert float32(document["values"]) == expected.values.tolist()
        assert document["feature_use"] == {"used": 7, "missing": 2, "unknown": 0}


def test_unknown_features_are_counted(query: Query) -> None:
    _, out, _ = query("user", *USER, "--feature", "shoe_size=42")
    assert "features: 3 used, 6 missing, 1 unknown" in out


# ---- item


def test_items_as_a_table(query: Query, client: twotower.Client) -> None:
    code, out, _ = query("item", "--item", "i1", "--items", "nope,i2")
    first, second = (client.get_item_embedding(item_id).values for item_id in ("i1", "i2"))
    lines = out.splitlines()
    assert code == ExitCode.OK
    assert lines[0] == f"release dot · dimension {DIMENSION}"
    assert lines[1] == f"i1: norm {np.linalg.norm(first):.4f}"
    assert lines[2].split() == [f"{value:.5f}" for value in first]
    assert lines[3] == "nope: not in the catalog"
    assert lines[4] == f"i2: norm {np.linalg.norm(second):.4f}"
    assert lines[5].split() == [f"{value:.5f}" for value in second]


def test_items_as_json(asked: Callable[..., Any], client: twotower.Client) -> None:
    document = asked("item", "--items", "i1,nope")
    found, missing = document["items"]
    assert (document["release"], document["dimension"]) == ("dot", DIMENSION)
    assert float32(found.pop("values")) == client.get_item_embedding("i1").values.tolist()
    assert found == {"item_id": "i1", "missing": False}
    assert missing == {"item_id": "nope", "missing": True, "values": None}


def test_a_new_item(query: Query, asked: Callable[..., Any], client: twotower.Client) -> None:
    expected = client.get_item_embedding(twotower.item(price=9.5, category="books", tags=["t1"]))
    features = ("--feature", "price=9.5", "--feature", "category=books", "--feature", "tags=t1|")
    (item,) = asked("item", *features)["items"]
    assert float32(item.pop("values")) == expected.values.tolist()
    assert item == {"missing": False}
    assert query("item", *features)[1].splitlines()[1].startswith("(new item): norm ")


def test_ids_with_commas(query: Query) -> None:
    assert "a,b: not in the catalog" in query("item", "--item", "a,b")[1]


# ---- score


def test_scores_as_a_table(query: Query, client: twotower.Client) -> None:
    code, out, _ = query("score", *USER, "--items", "nope,i1,i2", "--item", "i3")
    scores = client.score(SAME_USER, ["nope", "i1", "i2", "i3"])
    assert code == ExitCode.OK
    head, _, columns, _, *rows, _ = out.splitlines()
    assert head == "release dot · user vector computed · features: 3 used, 6 missing, 0 unknown"
    assert words(columns) == ["#", "item", "score", "similarity"]
    *found, missing = map(words, rows)
    for rank, (position, cells) in enumerate(zip(scores.order(), found, strict=False), start=1):
        assert cells[:2] == [str(rank), scores.item_ids[position]]
        assert float(cells[2]) == pytest.approx(scores.scores[position], rel=0.1)
        assert float(cells[2]) > 0, "0 would look like missing"
        assert float(cells[3]) == pytest.approx(scores.similarities[position], abs=1e-4)
    assert len(found) == 3 and missing == ["nope", "not in the catalog"]


def test_scores_as_json(asked: Callable[..., Any], client: twotower.Client) -> None:
    document = asked("score", *USER, "--items", "i1,nope,i2")
    scores = client.score(SAME_USER, ["i1", "nope", "i2"])
    *found, missing = document.pop("items")
    assert document.pop("feature_use") == {"used": 3, "missing": 6, "unknown": 0}
    assert document == {"release": "dot", "source": "computed", "age_ms": None}
    assert [one["item_id"] for one in found] == [scores.item_ids[position] for position in scores.order()[:2]]
    assert float32([one["score"] for one in found]) == scores.scores[scores.order()[:2]].tolist()
    assert float32([one["similarity"] for one in found]) == scores.similarities[scores.order()[:2]].tolist()
    assert not any(one["missing"] for one in found)
    assert missing == {"item_id": "nope", "score": 0.0, "similarity": None, "missing": True}


# ---- recommend


def test_recommendations_as_a_table(query: Query, client: twotower.Client) -> None:
    attributes = ("title", "price", "in_stock", "tags")
    chosen = [word for name in attributes for word in ("--attribute", name)]
    code, out, _ = query("recommend", *USER, "--k", "5", *chosen)
    best = client.recommend(SAME_USER, 5)
    assert code == ExitCode.OK
    _, _, columns, _, *rows, _ = out.splitlines()
    starts = [re.search(rf"\b{name}\b", columns).start() for name in ("item", *attributes)]  # type: ignore[union-attr]
    assert words(columns) == ["#", "item", *attributes, "score", "similarity"]
    for item, line in zip(best.items, rows, strict=True):
        row = CATALOG[item.item_id]
        cells = [line[start:].split("  ")[0].strip() if line[start] != " " else "" for start in starts]
        price = "" if row["item_price"] is None else f"{row['item_price']:.15g}"
        stock = "true" if row["in_stock"] else "false"
        assert cells == [item.item_id, row["title"], price, stock, ", ".join(row["item_tags"])]
        assert float(line.split()[-1]) == pytest.approx(item.similarity, abs=1e-4)


def test_recommendations_as_json(asked: Callable[..., Any], client: twotower.Client) -> None:
    document = asked("recommend", *USER, "--k", "300", "--attribute", "price", "--attribute", "tags")
    best = client.recommend(SAME_USER, 300)
    items = document.pop("items")
    assert document.pop("feature_use") == {"used": 3, "missing": 6, "unknown": 0}
    assert document == {"release": "dot", "source": "computed", "age_ms": None}
    assert [one["item_id"] for one in items] == list(best.item_ids)
    assert float32([one["score"] for one in items]) == best.scores.tolist()
    assert float32([one["similarity"] for one in items]) == best.similarities.tolist()
    for one in items:
        row = CATALOG[one["item_id"]]
        expected = {"price": row["item_price"], "tags": row["item_tags"]}
        assert one["attributes"] == {name: value for name, value in expected.items() if value is not None}


def test_ten_items_by_default(asked: Callable[..., Any]) -> None:
    assert len(asked("recommend", *USER)["items"]) == 10


@pytest.mark.parametrize(
    ("filters", "holds"),
    [
        (["price<20"], lambda row: row["item_price"] is not None and row["item_price"] < 20),
        (["price>=20"], lambda row: row["item_price"] is not None and row["item_price"] >= 20),
        (["!price<20"], lambda row: row["item_price"] is not None and row["item_price"] >= 20),
        (["category=books|film"], lambda row: row["item_category"] in ("books", "film")),
        (["!category=books"], lambda row: row["item_category"] != "books"),
        (["category!=books"], lambda row: row["item_category"] != "books"),
        (["in_stock=true"], lambda row: row["in_stock"]),
        (["in_stock!=true"], lambda row: not row["in_stock"]),
        (["tags=t1|t2"], lambda row: {"t1", "t2"} & set(row["item_tags"])),
        (['title="Title 7"'], lambda row: row["title"] == "Title 7"),
        (
            ["category=music", "in_stock=true", "price>5"],
            lambda row: row["item_category"] == "music" and row["in_stock"] and (row["item_price"] or 0) > 5,
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_filters(asked: Callable[..., Any], filters: list[str], holds: Callable[[dict[str, Any]], bool]) -> None:
    arguments = [word for one in filters for word in ("--filter", one)]
    items = asked("recommend", *USER, "--k", str(ITEMS), *arguments)["items"]
    expected = {item_id for item_id, row in CATALOG.items() if holds(row)}
    assert 0 < len(expected) < ITEMS
    assert {one["item_id"] for one in items} == expected


def test_exclusions_still_give_k(asked: Callable[..., Any]) -> None:
    best = [one["item_id"] for one in asked("recommend", *USER, "--k", "6")["items"]]
    left = asked("recommend", *USER, "--k", "3", "--exclude", f"{best[0]},{best[1]}", "--exclude", best[3])["items"]
    assert [one["item_id"] for one in left] == [best[2], best[4], best[5]]


def test_nothing_matches(query: Query, asked: Callable[..., Any]) -> None:
    code, out, _ = query("recommend", *USER, "--filter", "price<-1")
    assert code == ExitCode.OK and out.splitlines()[1] == "No item matches; loosen the filter or the exclusions."
    assert asked("recommend", *USER, "--filter", "price<-1")["items"] == []


def test_titles_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    title = "[red]Größe[/red] :smile: " + "x" * 200
    item = twotower.ScoredItem("i[1]", 0.5, 2.0, None, {"[b]title": title})
    use = twotower.FeatureUse(1, 0, 0)
    found = twotower.Recommendations((item,), "dot", twotower.Source.CACHE, 70, None, use)
    query_output.show_recommendations(found, ["[b]title", "absent"], as_json=False)
    head, _, columns, _, row, _ = capsys.readouterr().out.splitlines()
    assert head.startswith("release dot · user vector cache, 70 ms old · ")
    assert words(columns) == ["#", "item", "[b]title", "absent", "score", "similarity"]
    assert words(row) == ["1", "i[1]", title, "0.5000", "2.0000"]

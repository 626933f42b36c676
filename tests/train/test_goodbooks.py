"""Real books and real shelves, by the commands of the tutorial (docs/goodbooks.md): train, build, verify, serve, query.

What is trained beats popularity, recommends sensibly, and the tutorial shows what is really answered.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.ipc
import pytest

pytest.importorskip("torch", reason="needs the extra [train]")

from tests.supervisor.running import Server
from twotower_server.features.encode import Encoder
from twotower_server.features.row import Row, Strings
from twotower_server.release.model import Model

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "goodbooks"
TUTORIAL = (ROOT / "docs" / "goodbooks.md").read_text("utf-8")
TOP = 20
COMMAND = ["-m", "twotower_server.cli.main"]
PATIENCE_S = 900

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(not DATA.is_dir(), reason="the data set goodbooks is not in ../shared/data"),
]


@dataclass(frozen=True)
class Documented:
    """A command of the tutorial, without `twotower`, and what it printed there."""

    arguments: list[str]
    printed: str


@dataclass(frozen=True)
class Trained:
    """What `twotower train` wrote, and what it printed."""

    folder: Path
    printed: str
    metrics: Mapping[str, Any]


def documented(*words: str) -> list[Documented]:
    """The commands of the tutorial that begin with these words."""
    blocks = re.findall(r"```console\n\$ twotower (.*?)```", TUTORIAL.replace("\\\n", ""), re.DOTALL)
    commands = [Documented(shlex.split(line), printed) for line, _, printed in (b.partition("\n") for b in blocks)]
    return [command for command in commands if command.arguments[: len(words)] == list(words)]


def twotower(*arguments: str) -> str:
    """Runs a command; what it prints."""
    command = [sys.executable, *COMMAND, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the commands run: the tutorial's relative paths lead where they do in the repository."""
    work = tmp_path_factory.mktemp("goodbooks") / "main"
    work.mkdir()
    (work / "docs").symlink_to(ROOT / "docs")
    (work.parent / "shared").symlink_to(ROOT.parent / "shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setenv("TWOTOWER_DATA", str(work / "data"))
        yield work


@pytest.fixture(scope="module")
def trained(folder: Path) -> Trained:
    (command,) = documented("train")
    printed = twotower(*command.arguments)
    out = folder / "books-model"
    return Trained(out, printed, json.loads((out / "model.json").read_text())["training"]["metrics"])


@pytest.fixture(scope="module")
def release(folder: Path, trained: Trained) -> Path:
    (command,) = documented("release", "build")
    assert "Built books-1: 10,000 items" in twotower(*command.arguments)
    return folder / "releases" / "books-1"


@pytest.fixture(scope="module")
def target(folder: Path, release: Path) -> Iterator[str]:
    """The address of a server of the release."""
    (command,) = documented("serve")
    server = Server([*COMMAND, *command.arguments, "--listen", "localhost:0"], folder / "log", {})
    try:
        yield server.ready()["target"]
        server.send(signal.SIGTERM)
        assert server.ended() == 0, server.log()
    finally:
        server.close()


@pytest.fixture
def ask(target: str) -> Callable[..., str]:
    """`twotower query` to that server; what it prints."""
    return lambda *arguments: twotower("query", *arguments, "--target", target)


@pytest.fixture(scope="module")
def books() -> Mapping[str, Mapping[str, str]]:
    """The rows of the table, by id."""
    with (DATA / "books.csv").open(encoding="utf-8", newline="") as file:
        return {row["book_id"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def authors(books: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    """Of every book, by id."""
    return {id: book["authors"] for id, book in books.items()}


def recommended(trained: Trained, release: Path, shelf: list[str]) -> list[str]:
    """The best books for a shelf that are not on it, from the release's own vectors."""
    model = Model.open(trained.folder)
    user = model.user_tower.run(Encoder(model.schema.user).encode_one(Row({}, {"user_shelf": Strings(shelf)})))[0]
    with pyarrow.ipc.open_file(release / "items.arrow") as reader:
        ids = reader.read_all()["item_id"].to_pylist()
    order = np.argsort(-(np.load(release / "vectors.npy") @ user), kind="stable")
    return [ids[i] for i in order if ids[i] not in shelf][:TOP]


def test_it_beats_popularity_clearly(trained: Trained) -> None:
    metrics = trained.metrics
    for k in ("10", "100"):
        assert metrics["recall"][k] > 1.15 * metrics["popularity_recall"][k]
        line = f"recall@{k:<4} {metrics['recall'][k]:.4f}   most popular items: {metrics['popularity_recall'][k]:.4f}"
        assert line in trained.printed


def books_by(authors: Mapping[str, str], *names: str) -> list[str]:
    return [id for id, who in authors.items() if any(name in who for name in names)]


@pytest.mark.parametrize(
    ("shelf_author", "kin", "least"),
    [
        ("Stephen King", ("Stephen King", "Peter Straub", "Dean Koontz", "Clive Barker", "Anne Rice"), 10),
        (
            "Isaac Asimov",
            (
                "Isaac Asimov",
                "Arthur C. Clarke",
                "Philip K. Dick",
                "Robert A. Heinlein",
                "Frank Herbert",
                "Orson Scott Card",
                "Ursula K. Le Guin",
                "Dan Simmons",
                "Neal Stephenson",
                "Larry Niven",
                "Iain M. Banks",
            ),
            10,
        ),
        (
            "Robert Jordan",
            (
                "Robert Jordan",
                "Brandon Sanderson",
                "George R.R. Martin",
                "Terry Goodkind",
                "Robin Hobb",
                "Raymond E. Feist",
                "Patrick Rothfuss",
                "David Eddings",
                "Tad Williams",
                "Steven Erikson",
                "Joe Abercrombie",
                "Terry Brooks",
                "J.R.R. Tolkien",
            ),
            10,
        ),
    ],
)
def test_a_shelf_gets_more_of_its_kind(
    shelf_author: str,
    kin: tuple[str, ...],
    least: int,
    trained: Trained,
    release: Path,
    authors: Mapping[str, str],
) -> None:
    shelf = books_by(authors, shelf_author)[:5]
    found = recommended(trained, release, shelf)
    assert len(set(found) & set(books_by(authors, *kin))) >= least, [authors[id] for id in found]


def test_harry_potter_goes_on(trained: Trained, release: Path, authors: Mapping[str, str]) -> None:
    books = [id for id in books_by(authors, "J.K. Rowling") if int(id) < 30]
    assert len(books) == 7
    found = recommended(trained, release, books[:5])
    assert set(books[5:]) <= set(found[:5]), [authors[id] for id in found]


def test_shelves_differ(trained: Trained, release: Path, authors: Mapping[str, str]) -> None:
    one, other = (books_by(authors, name)[:5] for name in ("Stephen King", "Jane Austen"))
    assert len(set(recommended(trained, release, one)) & set(recommended(trained, release, other))) <= 3


def test_the_release_is_sound_and_tells_how_it_was_trained(trained: Trained, release: Path) -> None:
    (command,) = documented("release", "verify")
    assert "release books-1 is sound" in twotower(*command.arguments)
    inspected = json.loads(twotower("release", "inspect", "--releases", str(release.parent), "--json"))
    assert inspected["verified"] and inspected["active"]
    assert inspected["manifest"]["items"] == 10_000
    assert inspected["manifest"]["training"]["metrics"] == trained.metrics


def test_the_tutorial_shows_what_was_measured(trained: Trained) -> None:
    (command,) = documented("train")
    shown = re.findall(r"recall@(\d+) +([\d.]+)   most popular items: ([\d.]+)", command.printed)
    assert [k for k, _, _ in shown] == ["10", "100"]
    for k, recall, popular in shown:
        assert float(popular) == pytest.approx(trained.metrics["popularity_recall"][k], abs=5e-5)
        # Weights differ a little between processors.
        assert float(recall) == pytest.approx(trained.metrics["recall"][k], abs=0.02)


def test_the_tutorial_shows_what_is_answered(ask: Callable[..., str]) -> None:
    def ids(table: str) -> list[str]:
        return re.findall(r"(?m)^ *(?:\d+ )? +(\d+)  ", table)

    queries = documented("query")
    assert len(queries) == 3
    for query in queries:
        shown, answered = ids(query.printed), ids(ask(*query.arguments[1:]))
        assert len(shown) == len(answered) >= 3
        assert len(set(shown) & set(answered)) >= 0.6 * len(shown), query.arguments


def test_the_tutorial_asks_in_python(ask: Callable[..., str], target: str) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL)
    command = [sys.executable, "-c", snippet.replace("localhost:50051", target)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout.splitlines()
    answer = json.loads(ask("recommend", "--feature", "shelf=126|276|729|70", "--k", "5", "--json"))
    assert [line.split()[0] for line in lines] == [item["item_id"] for item in answer["items"]]


def test_a_shelf_is_answered_with_titles(
    ask: Callable[..., str], trained: Trained, release: Path, books: Mapping[str, Mapping[str, str]]
) -> None:
    """The answer of the server is what the release's own vectors give, and the table shows what the books are."""
    shelf = books_by({id: book["authors"] for id, book in books.items()}, "Isaac Asimov")[:5]
    options = ["--feature", f"shelf={'|'.join(shelf)}", "--exclude", ",".join(shelf), "--k", str(TOP)]
    options += ["--attribute", "title", "--attribute", "authors", "--attribute", "year"]
    answer = json.loads(ask("recommend", *options, "--json"))
    assert (answer["release"], answer["feature_use"]) == ("books-1", {"used": 1, "missing": 0, "unknown": 0})
    assert [item["item_id"] for item in answer["items"]] == recommended(trained, release, shelf)
    lines = ask("recommend", *options).splitlines()[4 : 4 + TOP]
    for line, item in zip(lines, answer["items"], strict=True):
        book = books[item["item_id"]]
        assert item["attributes"]["title"] == book["title"]
        cells = re.split(r"\s{2,}", line.strip())
        assert cells[1:3] == [item["item_id"], book["title"]]


def test_filters_and_scores_read_the_table(ask: Callable[..., str], books: Mapping[str, Mapping[str, str]]) -> None:
    options = ["--feature", "shelf=2|18|24", "--attribute", "year", "--attribute", "language", "--json"]
    filters = ["--filter", "year<1950", "--filter", "language=eng|en-US"]
    found = json.loads(ask("recommend", *options, *filters))["items"]
    assert len(found) == 10
    for item in found:
        book = books[item["item_id"]]
        assert float(book["original_publication_year"]) == item["attributes"]["year"] < 1950
        assert book["language_code"] in ("eng", "en-US")
    scored = json.loads(ask("score", "--feature", "shelf=2|18|24", "--items", "23,9999999", "--json"))["items"]
    assert [(item["item_id"], item["missing"]) for item in scored] == [("23", False), ("9999999", True)]
    assert scored[0]["score"] > 0.5

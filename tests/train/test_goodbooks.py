"""Real books and real shelves: what is trained on them beats popularity, and recommends sensibly."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.ipc
import pytest

pytest.importorskip("torch", reason="needs the extra [train]")

from twotower_server.features.encode import Encoder
from twotower_server.features.row import Row, Strings
from twotower_server.items.attribute import AttributeSpec
from twotower_server.release.build import Recipe, build_release
from twotower_server.release.model import Model
from twotower_server.train import run
from twotower_server.train.config import load_config

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "goodbooks"
CONFIG = ROOT / "docs" / "examples" / "goodbooks.toml"
TOP = 20

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(not DATA.is_dir(), reason="the data set goodbooks is not beside the repository"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, run.Metrics]:
    out = tmp_path_factory.mktemp("goodbooks") / "model"
    config = load_config(CONFIG, folder=DATA)
    return out, run.train(config, out, lambda line: None)


@pytest.fixture(scope="module")
def release(trained: tuple[Path, run.Metrics], tmp_path_factory: pytest.TempPathFactory) -> Path:
    attributes = [
        AttributeSpec("title"),
        AttributeSpec("authors"),
        AttributeSpec("year", column="original_publication_year"),
        AttributeSpec("language", column="language_code"),
    ]
    recipe = Recipe("books", trained[0], DATA / "books.csv", attributes=attributes)
    return build_release(recipe, tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="module")
def authors() -> Mapping[str, str]:
    """Of every book, by id."""
    with (DATA / "books.csv").open(encoding="utf-8", newline="") as file:
        return {row["book_id"]: row["authors"] for row in csv.DictReader(file)}


def recommended(trained: tuple[Path, run.Metrics], release: Path, shelf: list[str]) -> list[str]:
    """The best books for a shelf that are not on it, from the release's own vectors."""
    model = Model.open(trained[0])
    user = model.user_tower.run(Encoder(model.schema.user).encode_one(Row({}, {"user_shelf": Strings(shelf)})))[0]
    with pyarrow.ipc.open_file(release / "items.arrow") as reader:
        ids = reader.read_all()["item_id"].to_pylist()
    order = np.argsort(-(np.load(release / "vectors.npy") @ user), kind="stable")
    return [ids[i] for i in order if ids[i] not in shelf][:TOP]


def test_it_beats_popularity_clearly(trained: tuple[Path, run.Metrics]) -> None:
    metrics = trained[1]
    assert metrics.recall["100"] > 1.15 * metrics.popularity_recall["100"]
    assert metrics.recall["10"] > 1.15 * metrics.popularity_recall["10"]


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
    trained: tuple[Path, run.Metrics],
    release: Path,
    authors: Mapping[str, str],
) -> None:
    shelf = books_by(authors, shelf_author)[:5]
    found = recommended(trained, release, shelf)
    assert len(set(found) & set(books_by(authors, *kin))) >= least, [authors[id] for id in found]


def test_harry_potter_goes_on(trained: tuple[Path, run.Metrics], release: Path, authors: Mapping[str, str]) -> None:
    books = [id for id in books_by(authors, "J.K. Rowling") if int(id) < 30]
    assert len(books) == 7
    found = recommended(trained, release, books[:5])
    assert set(books[5:]) <= set(found[:5]), [authors[id] for id in found]


def test_shelves_differ(trained: tuple[Path, run.Metrics], release: Path, authors: Mapping[str, str]) -> None:
    one, other = (books_by(authors, name)[:5] for name in ("Stephen King", "Jane Austen"))
    assert len(set(recommended(trained, release, one)) & set(recommended(trained, release, other))) <= 3

"""The checked-in towers: they fit the data, know every taste, and their vectors are no separated clusters."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from twotower_server.demo import release
from twotower_server.demo.category import CATEGORIES, NAMES
from twotower_server.demo.generate import generate_catalog
from twotower_server.demo.item import DAY_S, NOW
from twotower_server.demo.release import MODEL_FOLDER
from twotower_server.features.encode import Encoder
from twotower_server.features.row import Row, Strings
from twotower_server.features.table import feature_rows, read_batches
from twotower_server.release.model import USERS, Model
from twotower_server.train.config import load_config

Vectors = NDArray[np.float32]

TOP = 20
LISTS = 100


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.open(MODEL_FOLDER)


@pytest.fixture(scope="module")
def catalog() -> pa.Table:
    return generate_catalog().table


@pytest.fixture(scope="module")
def categories(catalog: pa.Table) -> NDArray[np.str_]:
    return np.array(catalog["item_category"].to_pylist())


@pytest.fixture(scope="module")
def item_vectors(model: Model, catalog: pa.Table) -> Vectors:
    rows = feature_rows(catalog.combine_chunks().to_batches()[0], model.schema.item)
    return _embed(model, rows, "item")


@pytest.fixture(scope="module")
def held_back(model: Model) -> list[Row]:
    """Users that training has not seen."""
    batches = read_batches(MODEL_FOLDER / USERS)
    return [row for batch in batches for row in feature_rows(batch, model.schema.user)]


@pytest.fixture(scope="module")
def user_vectors(model: Model, held_back: list[Row]) -> Vectors:
    return _embed(model, held_back, "user")


def _embed(model: Model, rows: list[Row], side: str) -> Vectors:
    tower, schema = (model.user_tower, model.schema.user) if side == "user" else (model.item_tower, model.schema.item)
    encoded = Encoder(schema).encode(rows)
    assert not encoded.refused
    vectors = tower.run(encoded)
    if model.similarity == "cosine":
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors)


def _best(user: Vectors, items: Vectors, count: int) -> NDArray[np.int64]:
    return np.argsort(-(items @ user), kind="stable")[:count]


def test_the_model_is_the_one_that_its_configuration_makes(model: Model, catalog: pa.Table) -> None:
    """Whoever changes the generator or the configuration runs `make demo-model`."""
    config = load_config(Path(release.__file__).with_name("model.toml"))
    described = json.dumps([asdict(config.model), asdict(config.training)])
    assert json.loads(described) == [model.training["model"], model.training["training"]]
    schemas = {"user": model.schema.user, "item": model.schema.item}
    for side, schema in schemas.items():
        assert {f.name: f.kind for f in schema.features} == {f.name: f.kind for f in config.features if f.side == side}
    clicks = next(f for f in model.schema.user.features if f.name == "user_recent_clicks")
    assert set(clicks.vocabulary or ()) == set(catalog["item_id"].to_pylist())


def test_the_model_is_small() -> None:
    sizes = {path.name: path.stat().st_size for path in MODEL_FOLDER.iterdir()}
    assert set(sizes) == {"schema.json", "model.json", "user_tower.onnx", "item_tower.onnx", USERS, "README.md"}
    assert max(sizes.values()) < 500_000, sizes


def test_the_schema_reads_every_feature_of_the_guide(model: Model) -> None:
    assert {feature.name for feature in model.schema.user.features} >= {
        "user_age",
        "user_gender",
        "user_ctr",
        "user_interest_*",
        "user_hour",
        "user_device_type",
        "user_recent_clicks",
    }
    assert {feature.name for feature in model.schema.item.features} >= {
        "item_category",
        "item_price",
        "item_ctr",
        "item_publish_time",
        "item_tags",
    }


def test_every_interest_has_an_id_of_its_own(model: Model) -> None:
    row = Row({f"user_interest_{name}": 1.0 for name in NAMES})
    schema = model.schema.user
    ids = Encoder(schema).encode([row]).ids
    assert ids is not None
    start = sum(f.width for f in schema.categorical[: schema.categorical.index(schema.bags[0])])
    assert len(set(ids[0, start : start + len(NAMES)].tolist())) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_one_liked_category_is_recommended(
    name: str, model: Model, item_vectors: Vectors, categories: NDArray[np.str_]
) -> None:
    liking = _embed(model, [Row({f"user_interest_{name}": 1.0})], "user")[0]
    found = Counter(categories[_best(liking, item_vectors, TOP)].tolist())
    assert found[name] >= 0.7 * TOP, found


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_profile_does_not_drown_the_liked_category(
    name: str, model: Model, item_vectors: Vectors, categories: NDArray[np.str_]
) -> None:
    features = {f"user_interest_{name}": 1.0, "user_age": 38.0, "user_hour": 18.0, "user_ctr": 0.07}
    strings = {"user_gender": Strings(["f"]), "user_device_type": Strings(["phone"])}
    found = Counter(categories[_best(_embed(model, [Row(features, strings)], "user")[0], item_vectors, TOP)].tolist())
    assert found[name] >= 0.7 * TOP, found


@pytest.mark.parametrize("name", NAMES)
def test_clicks_alone_show_a_taste(
    name: str, model: Model, item_vectors: Vectors, catalog: pa.Table, categories: NDArray[np.str_]
) -> None:
    ids = np.array(catalog["item_id"].to_pylist())
    random = np.random.default_rng(5)
    shares = []
    for _ in range(20):
        clicks = random.choice(ids[categories == name], 12, replace=False).tolist()
        user = _embed(model, [Row({}, {"user_recent_clicks": Strings(clicks)})], "user")[0]
        shares.append(np.mean(categories[_best(user, item_vectors, TOP)] == name))
    # Far above the category's share of the catalog, which is about a twelfth.
    assert np.mean(shares) > 0.35


def test_two_tastes_give_both(model: Model, item_vectors: Vectors, categories: NDArray[np.str_]) -> None:
    user = _embed(model, [Row({"user_interest_sport": 1.0, "user_interest_travel": 1.0})], "user")[0]
    found = Counter(categories[_best(user, item_vectors, 100)].tolist())
    assert found["sport"] + found["travel"] >= 60, found
    assert min(found["sport"], found["travel"]) >= 10, found


def test_age_moves_what_is_recommended(
    model: Model, held_back: list[Row], item_vectors: Vectors, catalog: pa.Table
) -> None:
    median = {category.name: category.median_price for category in CATEGORIES}
    medians = np.array([median[name] for name in catalog["item_category"].to_pylist()])
    dearer = np.log(catalog["item_price"].to_numpy() / medians)
    age_days = (NOW - catalog["item_publish_time"].to_numpy()) / DAY_S

    def recommended(age: float) -> tuple[float, float]:
        """Everybody at that age, whatever else is known of them: mean log price ratio, mean days since."""
        rows = [Row({**row.features, "user_age": age}, row.string_features) for row in held_back]
        best = np.argsort(-(_embed(model, rows, "user") @ item_vectors.T), 1)[:, :TOP]
        return float(np.mean(dearer[best])), float(np.mean(age_days[best]))

    (young_price, young_days), (old_price, old_days) = recommended(20.0), recommended(70.0)
    # The old have more to spend, the young want what is new.
    assert old_price > young_price + 0.1
    assert old_days > 1.2 * young_days


def test_neighbours_come_from_many_categories(item_vectors: Vectors, categories: NDArray[np.str_]) -> None:
    unit = item_vectors / np.linalg.norm(item_vectors, axis=1, keepdims=True)
    sample = np.arange(0, len(unit), 10)
    near = np.argsort(-(unit[sample] @ unit.T), 1)[:, 1:51]
    other = categories[near] != categories[sample][:, None]
    assert 0.15 < np.mean(other) < 0.6


def test_few_probes_miss_much_as_they_would_not_in_separated_clusters(
    item_vectors: Vectors, user_vectors: Vectors
) -> None:
    assert _recall(item_vectors, user_vectors, probes=1) < 0.6
    # The same measure on what an index is often shown with: as many vectors in as many tight clusters.
    random = np.random.default_rng(0)
    centres = random.normal(size=(LISTS, item_vectors.shape[1]))
    spread = centres[random.integers(LISTS, size=len(item_vectors))]
    spread += 0.1 * random.normal(size=spread.shape)
    clusters: Vectors = (spread / np.linalg.norm(spread, axis=1, keepdims=True)).astype(np.float32)
    assert _recall(clusters, clusters[:500], probes=1) > 0.8


def _recall(items: Vectors, queries: Vectors, probes: int) -> float:
    """recall@100 of an inverted file of LISTS lists."""
    index: Any = faiss.index_factory(items.shape[1], f"IVF{LISTS},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(items)
    index.add(items)
    index.nprobe = probes
    found = index.search(queries, 100)[1]
    exact = np.argsort(-(queries @ items.T), 1)[:, :100]
    return float(np.mean([len(set(a) & set(b)) / 100 for a, b in zip(found, exact, strict=True)]))

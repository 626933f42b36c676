"""From tables to a model folder and a release: it learns, it is whole or absent, ONNX is what PyTorch was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="needs the extra [train]")

import torch

from twotower_server import durable
from twotower_server.cli.main import main
from twotower_server.config import ConfigError
from twotower_server.errors import ReleaseRefused
from twotower_server.features.encode import Encoder
from twotower_server.features.row import Row, Strings
from twotower_server.features.schema import Feature, Missing, TowerSchema
from twotower_server.features.table import feature_rows, read_batches
from twotower_server.release.build import Recipe, build_release
from twotower_server.release.model import Model
from twotower_server.train import export, run
from twotower_server.train.config import ModelConfig, TrainConfig, load_config
from twotower_server.train.errors import TrainingFailed
from twotower_server.train.folder import Metrics
from twotower_server.train.inputs import Inputs
from twotower_server.train.model import Tower

pytestmark = pytest.mark.train


class Shop(Protocol):
    folder: Path
    config: Path


@pytest.fixture(scope="module")
def trained(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Metrics]:
    out = tmp_path_factory.mktemp("model") / "m1"
    return out, run.train(load_config(shop.config), out, lambda line: None)


def test_it_learns_the_tastes(trained: tuple[Path, Metrics]) -> None:
    metrics = trained[1]
    # A user takes one kind of four, 30 items: knowing it finds every third, popularity a quarter of that.
    assert metrics.recall["10"] > 1.8 * metrics.popularity_recall["10"]
    assert metrics.parity <= export.MAX_DIFFERENCE


def test_the_model_folder_is_what_releases_are_built_from(
    trained: tuple[Path, Metrics], shop: Shop, tmp_path: Path
) -> None:
    model = Model.open(trained[0])
    assert model.dimension == 8 and model.similarity == "cosine" and model.calibration.scale > 0
    assert {path.name for path in trained[0].iterdir()} == {
        "model.json",
        "schema.json",
        "user_tower.onnx",
        "item_tower.onnx",
        "users.parquet",
    }
    body = json.loads((trained[0] / "model.json").read_text())
    assert body["item_id_column"] == "sku"
    assert body["item_columns"]["item_makers"] == {"column": "makers", "separator": " & "}
    assert body["training"]["metrics"]["recall"]["10"] == trained[1].recall["10"]
    assert str(shop.folder) not in json.dumps(body)
    release = build_release(Recipe("r1", trained[0], shop.folder / "items.csv"), tmp_path / "releases")
    assert np.load(release / "vectors.npy").shape == (120, 8)


def test_held_back_users_are_read_as_they_were_written(trained: tuple[Path, Metrics]) -> None:
    model = Model.open(trained[0])
    assert model.users is not None
    rows = [row for batch in read_batches(model.users) for row in feature_rows(batch, model.schema.user)]
    assert len(rows) == trained[1].test_users
    assert any(name.startswith("user_interest_") for row in rows for name in row.features)
    assert all(len(row.string_features["user_recent"].values) <= 5 for row in rows)
    assert not Encoder(model.schema.user).encode(rows).refused


@pytest.mark.parametrize("side", ["user", "item"])
def test_graphs_obey_the_contract(side: str, trained: tuple[Path, Metrics]) -> None:
    content = (trained[0] / f"{side}_tower.onnx").read_bytes()
    graph = onnx.load_from_string(content)
    assert graph.ir_version <= 10
    assert [(o.domain, o.version <= 21) for o in graph.opset_import] == [("", True)]
    assert not any(t.external_data for t in graph.graph.initializer)
    assert [o.name for o in graph.graph.output] == ["embedding"]
    assert str(Path(run.__file__).parent).encode() not in content


def test_every_missing_value_can_be_served(trained: tuple[Path, Metrics]) -> None:
    model = Model.open(trained[0])
    rows = [
        Row({"user_age": 30.0}),
        Row({"user_interest_cats": 1.0}),
        Row({}, {"user_recent": Strings(["s1", "never heard of"])}),
    ]
    encoder = Encoder(model.schema.user)
    together = model.user_tower.run(encoder.encode(rows))
    assert np.isfinite(together).all()
    for i, row in enumerate(rows):
        np.testing.assert_allclose(model.user_tower.run(encoder.encode([row]))[0], together[i], atol=1e-6)


def test_the_same_seed_gives_the_same_model(trained: tuple[Path, Metrics], shop: Shop, tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    run.train(load_config(shop.config), again, lambda line: None)
    run.train(load_config(shop.config, overrides={"training": {"seed": 2}}), other, lambda line: None)
    for name in ("user_tower.onnx", "item_tower.onnx", "schema.json"):
        assert (again / name).read_bytes() == (trained[0] / name).read_bytes(), name
    assert (other / "user_tower.onnx").read_bytes() != (again / "user_tower.onnx").read_bytes()


def test_an_existing_folder_is_kept(trained: tuple[Path, Metrics], shop: Shop) -> None:
    before = (trained[0] / "model.json").read_bytes()
    with pytest.raises(ReleaseRefused, match="exists already; name another folder"):
        run.train(load_config(shop.config), trained[0], lambda line: None)
    assert (trained[0] / "model.json").read_bytes() == before


def test_a_folder_that_cannot_be_written_costs_no_training(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lines: list[str] = []
    with pytest.raises(TrainingFailed, match="cannot be written: Not a directory"):
        run.train(load_config(shop.config), tmp_path / "file" / "m", lines.append)
    assert not lines


def test_two_trainings_do_not_write_one_folder(shop: Shop, tmp_path: Path) -> None:
    with (
        durable.new_folder(tmp_path / "m") as folder,
        pytest.raises(ReleaseRefused, match="another process is writing"),
    ):
        run.train(load_config(shop.config), tmp_path / "m")
    assert folder.name != "m" and (tmp_path / "m").is_dir()


def test_a_graph_that_differs_is_not_written(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real export, then one weight of the file is changed before the check."""
    write = export.export_tower

    def spoiled(tower: object, sample: object, path: Path) -> None:
        write(tower, sample, path)  # type: ignore[arg-type]
        graph = onnx.load(path)
        for tensor in graph.graph.initializer:
            if tensor.name.endswith("layers.0.weight"):
                values = onnx.numpy_helper.to_array(tensor).copy()
                values[0] += 0.5
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        onnx.save(graph, path)

    monkeypatch.setattr(run, "export_tower", spoiled)
    config = load_config(shop.config, overrides={"training": {"epochs": 1}})
    with pytest.raises(TrainingFailed, match="differs from PyTorch"):
        run.train(config, tmp_path / "models" / "m", lambda line: None)
    assert not list((tmp_path / "models").iterdir())


def test_long_vectors_are_compared_by_their_length(tmp_path: Path) -> None:
    """Sums of large floats differ by more; what counts is how much of a vector that is."""
    schema = TowerSchema(
        "item", "graph", tuple(Feature(f"item_{i}", "numeric", Missing("constant", 0.0)) for i in range(30))
    )
    random = np.random.default_rng(0)
    rows = [Row({f"item_{i}": float(v) for i, v in enumerate(row)}) for row in random.normal(size=(300, 30))]
    inputs = Inputs(schema, rows)
    torch.manual_seed(0)
    tower = Tower(schema, {}, inputs.numeric(), ModelConfig(similarity="dot", dimension=16))
    with torch.no_grad():
        tower.layers[-1].weight.mul_(1e5)
    path = tmp_path / "item_tower.onnx"
    export.export_tower(tower, inputs.take(np.arange(4)), path)
    assert export.check_parity(tower, path, inputs, 1) <= export.MAX_DIFFERENCE
    with torch.no_grad():
        tower.layers[-1].weight[3].mul_(1.01)
    with pytest.raises(TrainingFailed, match="differs from PyTorch"):
        export.check_parity(tower, path, inputs, 1)


def with_table(shop: Shop, name: str, text: str, folder: Path) -> TrainConfig:
    """The shop's configuration with another text in one of its tables, trained for one epoch."""
    (folder / f"{name}.csv").write_text(text, "utf-8")
    overrides: dict[str, dict[str, Any]] = {"data": {name: folder / f"{name}.csv"}, "training": {"epochs": 1}}
    return load_config(shop.config, overrides=overrides)


def test_an_item_that_no_release_could_hold_is_named_before_training(shop: Shop, tmp_path: Path) -> None:
    text = (shop.folder / "items.csv").read_text()
    for row, message in (
        ("s120,,,,thing", r"items\.csv row 121, item 's120': the item has no features"),
        ("s120,art,m1,1e39,thing", r"items\.csv row 121, item 's120': item_price is 1e\+39"),
    ):
        with pytest.raises(ReleaseRefused, match=message):
            run.train(with_table(shop, "items", f"{text}{row}\n", tmp_path), tmp_path / "m")


def test_a_user_with_a_bad_value_is_named(shop: Shop, tmp_path: Path) -> None:
    lines = (shop.folder / "users.csv").read_text().splitlines()
    lines[2] = "u1,1e39,"
    with pytest.raises(ReleaseRefused, match=r"user 'u1': user_age is 1e\+39"):
        run.train(with_table(shop, "users", "\n".join(lines), tmp_path), tmp_path / "m")


def test_stopping_where_every_model_is_perfect_is_refused(shop: Shop, tmp_path: Path) -> None:
    config = load_config(shop.config, overrides={"training": {"stopping_k": 120}})
    with pytest.raises(ConfigError, match=r"stopping_k is 120, but items\.csv has 120 items"):
        run.train(config, tmp_path / "m")


def test_the_command(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m"
    options = ["train", "--config", str(shop.config), "--out", str(out)]
    assert main([*options, "--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "epoch   1/1" in printed and "most popular items" in printed
    assert main([*options, "--epochs", "0"]) == 2
    assert main(options) == 3
    assert "exists already" in capsys.readouterr().err


def test_early_stopping_keeps_the_best_weights(shop: Shop, tmp_path: Path) -> None:
    lines: list[str] = []
    overrides = {"training": {"epochs": 40, "patience": 2, "learning_rate": 0.05}}
    metrics = run.train(load_config(shop.config, overrides=overrides), tmp_path / "m", lines.append)
    training = json.loads((tmp_path / "m" / "model.json").read_text())["training"]
    epochs = [line for line in lines if line.startswith("epoch")]
    assert training["epochs"] == len(epochs) == training["best_epoch"] + 2 < 40
    recalls = [float(line.split("recall@10")[1].split()[0]) for line in epochs]
    assert metrics.validation_recall == pytest.approx(max(recalls), abs=1e-4)
    assert torch.are_deterministic_algorithms_enabled()


def test_what_is_known_of_items_reaches_their_ids_in_a_history(shop: Shop, tmp_path: Path) -> None:
    """Items that nobody took stand in a history for their categories."""
    text = shop.config.read_text().replace(
        "history = true", 'history = true\nvocabulary = {min_count = 0}\ncontent = ["item_kind"]'
    )
    config = tmp_path / "train.toml"
    # Every fourth item of a kind leaves the interactions, so its id is never trained.
    never = {f"s{i}" for i in range(120) if i // 4 % 4 == 0 and i % 17}
    lines = (shop.folder / "interactions.csv").read_text().splitlines()
    kept = [line for line in lines if line.split(",")[1] not in never]
    (tmp_path / "interactions.csv").write_text("\n".join(kept) + "\n")
    config.write_text(text)
    overrides: dict[str, dict[str, object]] = {
        "data": {name: shop.folder / f"{name}.csv" for name in ("items", "users")},
    }
    run.train(load_config(config, overrides=overrides), tmp_path / "m", lambda line: None)
    model = Model.open(tmp_path / "m")
    batch = next(read_batches(shop.folder / "items.csv"))
    rows = feature_rows(model.item_columns.apply(batch), model.schema.item)
    items = model.item_tower.run(Encoder(model.schema.item).encode(rows))
    for kind in range(4):
        history = [id for id in sorted(never) if int(id[1:]) % 4 == kind][:4]
        row = Row({}, {"user_recent": Strings(history)})
        user = model.user_tower.run(Encoder(model.schema.user).encode_one(row))[0]
        best = np.argsort(-(items @ user))[:20]
        assert np.mean(best % 4 == kind) > 0.6, kind

"""The configuration: what is read, and that every mistake is named."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from twotower_server.config import ConfigError
from twotower_server.features.schema import Transform
from twotower_server.train import config as config_module
from twotower_server.train.config import DataConfig, ModelConfig, TrainingConfig, load_config
from twotower_server.train.feature import VocabularyRule

BASE = """
[data]
interactions = "i.csv"
items = "t.csv"
[features.user_shelf]
kind = "sequence"
history = true
[features.item_kind]
kind = "categorical"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "train.toml"
    path.write_text(text, "utf-8")
    return path


def test_defaults_and_declared_features(tmp_path: Path) -> None:
    config = load_config(
        write(
            tmp_path,
            BASE
            + '[features.item_price]\nkind = "numeric"\nclip = [0, inf]\nmissing = {constant = 3}\n'
            + 'transform = {type = "min_max", min = 0, max = 10}\n'
            + "[model]\nembedding = 12\n",
        )
    )
    assert config.data.interactions == tmp_path / "i.csv"
    assert config.data.users is None
    assert config.model.hidden == (128, 64) and config.model.dimension == 32
    kind, price, shelf = config.features
    assert kind.vocabulary == VocabularyRule() and kind.embedding == 12 and kind.missing == "marker"
    assert price.transform == Transform("min_max", (0.0, 10.0))
    assert price.clip == (0.0, None)
    assert (price.missing, price.missing_value) == ("constant", 3)
    assert shelf.history and shelf.side == "user" and (shelf.missing, shelf.missing_value) == ("constant", [])


def test_the_command_line_wins_and_data_names_the_folder(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, BASE),
        folder=Path("elsewhere"),
        overrides={"data": {"items": Path("mine.csv")}, "training": {"epochs": 3, "seed": None}},
    )
    assert config.data.interactions == Path("elsewhere/i.csv")
    assert config.data.items == Path("mine.csv")
    assert config.training.epochs == 3 and config.training.seed == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE + "[training]\nepoch = 3\n", "did you mean epochs"),
        (BASE + "[training]\nepochs = 0\n", "training.epochs must be a whole number from 1"),
        (BASE + "[training]\nlearning_rate = nan\n", "training.learning_rate must be a number"),
        (BASE + '[model]\nsimilarity = "l2"\n', "cosine or dot"),
        (BASE + "[model]\nhidden = 64\n", "must be a list of widths"),
        (BASE + '[features.price]\nkind = "numeric"\n', "begins with user_, item_ or scene_"),
        (BASE + '[features.item_price]\nkind = "number"\n', "must be one of numeric"),
        (BASE + '[features.item_price]\nkind = "numeric"\nclip = [5, 1]\n', "clip must be"),
        (BASE + '[features.item_price]\nkind = "numeric"\nbuckets = 5\n', "has no setting buckets"),
        (BASE + '[features.item_x]\nkind = "categorical"\nmissing = "mean"\n', 'must be "marker" or'),
        (BASE + '[features.item_x]\nkind = "categorical"\nvocabulary = ["a"]\nbuckets = 3\n', "either"),
        (BASE + '[features.item_x]\nkind = "sequence"\nhistory = true\n', "only a user has a history"),
        (BASE + '[features."item_x_*"]\nkind = "weighted_bag"\n', "needs buckets"),
        (BASE + '[features.user_age]\nkind = "numeric"\n', "which data.users does not name"),
        (
            BASE + '[features.item_x]\nkind = "categorical"\ntable = "item_kind"\nbuckets = 3\n',
            "share the table 'item_kind'",
        ),
        (BASE.replace("true", 'true\ncontent = ["item_price"]'), "content names 'item_price'"),
        (
            BASE.replace("true", 'true\ntable = "t"\ncontent = ["item_kind"]')
            + '[features.item_b]\nkind = "categorical"\n[features.user_b]\nkind = "sequence"\n'
            + 'history = true\ntable = "t"\ncontent = ["item_b"]\n',
            "their content must be the same",
        ),
        (BASE + '[features.item_b]\nkind = "categorical"\ntable = 5\n', "table must be the name of a table"),
        (BASE.replace("true", "true\ncontent = [5]"), "content must be a list of item features"),
        (BASE + '[features.item_x]\nkind = "categorical"\nvocabulary = ["a", "a"]\n', "names 'a' twice"),
        (BASE + '[features.item_x]\nkind = "multi_value"\nmissing = {constant = [1]}\n', "does not fit the kind"),
        (BASE + '[features.item_x]\nkind = "numeric"\nmissing = {constant = nan}\n', "does not fit the kind"),
        (
            BASE + '[features."item_x_*"]\nkind = "weighted_bag"\nbuckets = 9\nmissing = {constant = {a = "b"}}\n',
            "does not fit the kind",
        ),
        (
            BASE + '[features.item_x]\nkind = "numeric"\ntransform = {type = "standardize", mean = inf, std = 1}\n',
            "transform.mean must be a finite number",
        ),
        (BASE + '[features.item_x]\nkind = "numeric"\nclip = [nan, 1]\n', "clip must be"),
        ('[data]\nitems = "t.csv"\n', "data.interactions must name a file"),
        ('[data]\nitems = "t.csv"\ninteractions = "i.csv"\n', "no feature of the user is declared"),
        ("data = [", "is not TOML"),
    ],
)
def test_a_mistake_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        load_config(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.toml")


def test_the_help_is_a_valid_configuration_of_defaults(tmp_path: Path) -> None:
    text = (config_module.__doc__ or "").partition("three files.")[2]
    config = load_config(write(tmp_path, text))
    assert (config.model, config.training) == (ModelConfig(), TrainingConfig())
    named = set(tomllib.loads(text)["model"]) | set(tomllib.loads(text)["training"])
    assert named == {f.name for f in (*fields(ModelConfig), *fields(TrainingConfig))}
    assert config.data == DataConfig(tmp_path / "interactions.csv", tmp_path / "items.csv", tmp_path / "users.csv")


def test_the_example_is_valid() -> None:
    example = Path(__file__).parents[2] / "docs" / "examples" / "goodbooks.toml"
    assert {f.name for f in load_config(example).side("user")} == {"user_shelf"}

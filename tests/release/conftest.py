"""Model folders and tables to build from, and copies of releases that a test may damage."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ATTRIBUTES, ITEMS
from tests.model_folder import item_table
from twotower_server.release.build import Recipe, build_release
from twotower_server.release.format import FILES, MANIFEST, file_entry

Build = Callable[..., Path]


@pytest.fixture(scope="session")
def model(releases: Path) -> Path:
    """The model folder of the release `dot`, with 60 held-back users. Do not change it."""
    return releases.parent / "model-dot"


@pytest.fixture
def own_model(model: Path, tmp_path: Path) -> Path:
    """A model folder that a test may damage."""
    return Path(shutil.copytree(model, tmp_path / "model"))


@pytest.fixture
def items(tmp_path: Path) -> Path:
    """The table of the releases `dot` and `cosine`."""
    pq.write_table(item_table(ITEMS), tmp_path / "items.parquet")
    return tmp_path / "items.parquet"


@pytest.fixture
def build(model: Path, tmp_path: Path) -> Build:
    """Builds a release `r1` of a table of items (a file, or what becomes one) and the options of a Recipe."""

    def run(items: Path | pa.Table, name: str = "r1", *, model: Path = model, **options: Any) -> Path:
        if isinstance(items, pa.Table):
            path = tmp_path / "items.parquet"
            pq.write_table(items, path)
            items = path
        return build_release(Recipe(name, model, items, **options), tmp_path / "releases")

    return run


@pytest.fixture
def dot(releases: Path, tmp_path: Path) -> Path:
    """A copy of the release `dot`, which a test may damage."""
    return Path(shutil.copytree(releases / "dot", tmp_path / "releases" / "dot"))


@pytest.fixture
def cosine(releases: Path, tmp_path: Path) -> Path:
    """A copy of the release `cosine`, which a test may damage."""
    return Path(shutil.copytree(releases / "cosine", tmp_path / "releases" / "cosine"))


@pytest.fixture(scope="session")
def ivf_releases(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the releases `one` and `two`: 4,000 other items each, an index that is not exact."""
    folder = tmp_path_factory.mktemp("ivf")
    for name, seed in (("one", 31), ("two", 32)):
        pq.write_table(item_table(4_000, seed), folder / "items.parquet")
        recipe = Recipe(name, model, folder / "items.parquet", attributes=ATTRIBUTES, index="ivf_sq8")
        build_release(recipe, folder / "releases")
    return folder / "releases"


def manifest_of(release: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((release / MANIFEST).read_text("utf-8"))
    return found


def write_manifest(release: Path, manifest: dict[str, Any]) -> None:
    """Writes a manifest that holds its own SHA-256, worked out by hand."""
    body = {name: value for name, value in manifest.items() if name != "sha256"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    (release / MANIFEST).write_text(json.dumps({**body, "sha256": hashlib.sha256(text.encode()).hexdigest()}))


def seal(release: Path) -> None:
    """Makes the manifest name the files as they are, so that only a deeper check finds what a test has changed."""
    manifest = manifest_of(release)
    for name in FILES:
        entry = file_entry(release / name)
        manifest["files"][name] = {"sha256": entry.sha256, "size_bytes": entry.size_bytes}
    write_manifest(release, manifest)

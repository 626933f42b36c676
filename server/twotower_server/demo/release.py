"""Building the demo release: the generated catalog through the checked-in towers."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from twotower_server.demo.generate import generate_catalog, write_items
from twotower_server.errors import ReleaseRefused
from twotower_server.items.attribute import AttributeSpec
from twotower_server.release.build import Recipe, build_release
from twotower_server.release.fleet import Fleet
from twotower_server.release.format import ITEM_TOWER, SCHEMA, USER_TOWER
from twotower_server.release.model import MODEL
from twotower_server.release.progress import Progress
from twotower_server.release.repository import LocalRepository

# The model folder that `make demo-model` writes, part of the package.
MODEL_FOLDER = Path(__file__).parent / "model"
PREFIX = "demo-"
# What filters and answers call the columns of the catalog.
ATTRIBUTES = (
    AttributeSpec("title"),
    AttributeSpec("category", column="item_category"),
    AttributeSpec("tags", column="item_tags"),
    AttributeSpec("brand", column="item_brand"),
    AttributeSpec("price", column="item_price"),
    AttributeSpec("publish_time", column="item_publish_time"),
    AttributeSpec("in_stock"),
)


def release_name() -> str:
    """Named after the model, so that another model gets another release: releases never change."""
    digest = hashlib.sha256()
    for name in (MODEL, SCHEMA, USER_TOWER, ITEM_TOWER):
        digest.update((MODEL_FOLDER / name).read_bytes())
    return PREFIX + digest.hexdigest()[:8]


def ensure_release(releases: Path, progress: Progress) -> tuple[str, bool]:
    """Makes the demo release the active one of `releases`, building it when it is absent.

    Returns its name, and whether it was built now. Raises ReleaseRefused when the folder holds others.
    """
    name = release_name()
    fleet = Fleet(LocalRepository(releases))
    existing = fleet.repository.names()
    if any(not other.startswith(PREFIX) for other in existing):
        raise ReleaseRefused(
            f"{releases} holds other releases ({', '.join(existing)}); serve them with "
            f"`twotower serve --releases {releases}`, or name another folder for the demo by --releases"
        )
    if name not in existing:
        releases.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            items = Path(folder, "items.parquet")
            write_items(generate_catalog(), items)
            build_release(Recipe(name, MODEL_FOLDER, items, attributes=ATTRIBUTES), releases, progress)
    if not existing or fleet.active() != name:
        fleet.activate(name)
    return name, name not in existing

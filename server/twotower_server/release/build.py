"""Building a release: a model folder and a table of items become one verified folder.

Items are read, embedded and written in batches, so a catalog never has to fit in memory:

    table → batches → features → item tower → vectors and attributes as they come
          → sorted by item key → index, measured on held-back users → golden samples → checksums → renamed into place
"""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twotower_server import durable
from twotower_server.errors import ReleaseRefused, TwoTowerError
from twotower_server.features.encode import Encoder
from twotower_server.features.row import Row
from twotower_server.features.table import count_rows, feature_rows, read_batches
from twotower_server.index.faiss import build_index
from twotower_server.items.catalog import AttributeSpec, CatalogWriter
from twotower_server.items.ids import item_keys
from twotower_server.release import format as files
from twotower_server.release.calibration import scores
from twotower_server.release.fleet import Fleet
from twotower_server.release.format import Manifest, check_name, file_entry
from twotower_server.release.golden import SAMPLES, Golden
from twotower_server.release.model import Model
from twotower_server.release.progress import Progress, Silent
from twotower_server.release.repository import ACTIVE, LocalRepository
from twotower_server.release.vectors import VectorSpool, open_vectors, unit_length, unusable_rows

# Held-back users that the index is measured on.
MAX_QUERIES = 1_000
# 2^64 divided by the golden ratio, made odd (Knuth's multiplicative hashing).
_SHUFFLE = np.uint64(0x9E37_79B9_7F4A_7C15)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to build.

    model:   folder written by `twotower train`. items: table of items (CSV, Parquet, Arrow).
    users:   table of held-back users; None = the model's own.
    attributes: columns kept for filters and answers.
    index:   auto, exact or ivf_sq8. recall: wanted recall@100 of the index.
    log_position: of the last catalog change that the items already contain.
    """

    name: str
    model: Path
    items: Path
    users: Path | None = None
    attributes: Sequence[AttributeSpec] = ()
    index: str = "auto"
    recall: float = 0.95
    log_position: int = 0


def build_release(recipe: Recipe, releases: Path, progress: Progress | None = None, *, activate: bool = False) -> Path:
    """Builds `<releases>/<name>` and returns it; killed at any point it leaves nothing under that name.

    Raises ReleaseRefused, naming the row or file, when the parts do not fit, TwoTowerError when it cannot be written.
    """
    progress = progress or Silent()
    check_name(recipe.name)
    model = Model.open(recipe.model, threads=os.cpu_count() or 1)
    users = _users(model, recipe.users)
    try:
        with durable.new_folder(releases / recipe.name) as folder:
            _write(folder, recipe, model, users, progress)
    except durable.BeingWritten:
        raise ReleaseRefused(
            f"another process is building the release {recipe.name} in {releases}; wait for it, or choose another name"
        ) from None
    except FileExistsError:
        raise ReleaseRefused(
            f"{releases} has a release {recipe.name} already; releases never change, choose another name"
        ) from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise TwoTowerError(
            f"the release {recipe.name} cannot be written to {releases}: {reason}; nothing of it was kept. "
            "Make room, or name another folder"
        ) from error
    if activate:
        try:
            Fleet(LocalRepository(releases)).activate(recipe.name)
        except OSError as error:
            raise TwoTowerError(
                f"{recipe.name} is built, but {releases / ACTIVE} cannot be written: {error.strerror}"
            ) from error
    return releases / recipe.name


def _write(folder: Path, recipe: Recipe, model: Model, users: list[Row], progress: Progress) -> None:
    for name in (files.SCHEMA, files.USER_TOWER, files.ITEM_TOWER):
        shutil.copyfile(model.folder / name, folder / name)
    progress.start("embedding items", count_rows(recipe.items))
    count, samples = _write_items(folder, recipe, model, progress)
    vectors = open_vectors(folder / files.VECTORS, count, model.dimension)
    progress.start("embedding held-back users", len(users))
    users, queries = _embed_users(model, users)
    progress.advance(len(users))
    progress.start("building the index", count)
    index = build_index(
        vectors,
        folder / files.INDEX,
        kind=recipe.index,
        queries=queries,
        wanted_recall=recipe.recall,
        on_stage=progress.start,
        on_progress=progress.advance,
    )
    progress.start("golden samples", 1)
    _write_golden(folder, model, users[:SAMPLES], queries[:SAMPLES], samples)
    progress.advance(1)
    progress.start("checksums", len(files.FILES))
    entries = {}
    for name in files.FILES:
        entries[name] = file_entry(folder / name)
        progress.advance(1)
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    Manifest(
        release=recipe.name,
        dimension=model.dimension,
        similarity=model.similarity,
        calibration=model.calibration,
        items=count,
        index=index,
        log_position=recipe.log_position,
        created=created,
        training=model.training,
        files=entries,
    ).dump(folder)


def _write_items(folder: Path, recipe: Recipe, model: Model, progress: Progress) -> tuple[int, Mapping[str, Row]]:
    """Streams the table into items.arrow and vectors.npy. Returns the number of items, and golden ones by id."""
    encoder = Encoder(model.schema.item)
    samples = _Samples()
    row = 0
    with CatalogWriter(folder, recipe.attributes) as catalog, VectorSpool(folder, model.dimension) as spool:
        for batch in read_batches(recipe.items):
            with _naming(recipe.items):
                ids = model.item_columns.ids(batch, row)
                rows = feature_rows(model.item_columns.apply(batch), model.schema.item, row)
                encoded = encoder.encode(rows)
                if encoded.refused:
                    i = min(encoded.refused)
                    raise ReleaseRefused(f"row {row + i + 1}, item {ids[i]!r}: {encoded.refused[i].message}")
                spool.add(_kept(model, model.item_tower.run(encoded), ids))
                catalog.add(ids, batch)
            samples.add(ids, rows)
            row += len(ids)
            progress.advance(len(ids))
        progress.start("sorting the catalog", 1)
        with _naming(recipe.items):
            order = catalog.finish(folder / files.ITEMS)
        spool.finish(folder / files.VECTORS, order)
        progress.advance(1)
    return row, samples.rows()


@contextmanager
def _naming(table: Path) -> Iterator[None]:
    """What is refused inside is a fault of this table."""
    try:
        yield
    except ReleaseRefused as error:
        raise ReleaseRefused(f"{table.name}: {error}") from None


class _Samples:
    """Keeps some items, spread over the catalog whatever the order of the table is.

    Those with the smallest keys would be its first rows, so keys are shuffled first: multiplied by an odd number.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[int, str, Row]] = []

    def add(self, ids: Sequence[str], rows: Sequence[Row]) -> None:
        places = item_keys(ids) * _SHUFFLE
        smallest = np.argsort(places)[:SAMPLES].tolist()
        self._kept += [(int(places[i]), ids[i], rows[i]) for i in smallest]
        self._kept = sorted(self._kept, key=lambda kept: kept[0])[:SAMPLES]

    def rows(self) -> dict[str, Row]:
        return {id: row for _, id, row in self._kept}


def _users(model: Model, table: Path | None) -> list[Row]:
    """Raw features of the first MAX_QUERIES held-back users."""
    path = table or model.users
    if path is None:
        raise ReleaseRefused(
            f"{model.folder} has no users.parquet; name a table of held-back users (a few hundred) with --users: "
            "golden samples and the recall of the index are measured on them"
        )
    rows: list[Row] = []
    for batch in read_batches(path, MAX_QUERIES):
        with _naming(path):
            rows += feature_rows(batch, model.schema.user, len(rows))
        if len(rows) >= MAX_QUERIES:
            break
    if not rows:
        raise ReleaseRefused(f"{path} has no rows")
    return rows[:MAX_QUERIES]


def _embed_users(model: Model, users: list[Row]) -> tuple[list[Row], NDArray[np.float32]]:
    """Users with at least one feature, and their vectors: float32 [n, dimension]."""
    encoder = Encoder(model.schema.user)
    refused = encoder.encode(users).refused
    kept = [user for i, user in enumerate(users) if i not in refused]
    if not kept:
        raise ReleaseRefused(f"no held-back user can be embedded: {refused[0].message}")
    vectors = model.user_tower.run(encoder.encode(kept))
    return kept, _kept(model, vectors, [f"held-back user {i + 1}" for i in range(len(kept))])


def _kept(model: Model, vectors: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float32]:
    """Vectors as the release keeps them. Raises ReleaseRefused for one that is not finite."""
    if model.similarity == "cosine":
        with np.errstate(invalid="ignore"):  # of an infinite vector nothing finite is made
            vectors = unit_length(vectors)
    bad = unusable_rows(vectors)
    if bad.size:
        raise ReleaseRefused(
            f"the tower gives no vector of finite length for {names[bad[0]]!r}; are its values in range?"
        )
    return vectors


def _write_golden(
    folder: Path, model: Model, users: list[Row], user_vectors: NDArray[np.float32], items: Mapping[str, Row]
) -> None:
    encoded = Encoder(model.schema.item).encode(list(items.values()))
    item_vectors = _kept(model, model.item_tower.run(encoded), list(items))
    expected = scores(user_vectors @ item_vectors.T, model.calibration)
    Golden(users, user_vectors, list(items), list(items.values()), item_vectors, expected).dump(folder / files.GOLDEN)

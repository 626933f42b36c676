"""The release folder: its files and its manifest, `release.json`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from twotower_server.errors import ReleaseRefused
from twotower_server.index.base import IndexEntry
from twotower_server.release.calibration import Calibration

RELEASE_FORMAT = 1

MANIFEST = "release.json"
SCHEMA = "schema.json"
USER_TOWER = "user_tower.onnx"
ITEM_TOWER = "item_tower.onnx"
ITEMS = "items.arrow"
VECTORS = "vectors.npy"
INDEX = "index.faiss"
GOLDEN = "golden.json"
FILES = (SCHEMA, USER_TOWER, ITEM_TOWER, ITEMS, VECTORS, INDEX, GOLDEN)
# The large ones. A copy of a release may lack them: vectors are loaded from Redis then, and an index is built.
OMISSIBLE = (VECTORS, INDEX)

MAX_DIMENSION = 16_384
MAX_MANIFEST_BYTES = 16 << 20

Similarity = Literal["dot", "cosine"]

_NAME = re.compile(r"[a-z0-9._-]{1,63}")
_RESERVED = {".", "..", "active"}  # two are not names in a folder, one is the pointer beside the releases
_HASH_CHUNK_BYTES = 1 << 20


def check_name(name: str) -> str:
    """Returns the name of a release, or raises ReleaseRefused when it cannot be one."""
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise ReleaseRefused(
            f"{name!r} cannot name a release: use 1 to 63 of a-z, 0-9, '.', '_' and '-', and not {', '.join(_RESERVED)}"
        )
    return name


def parse_similarity(value: Any, where: str) -> Similarity:
    """Returns the similarity that a file states, or raises ReleaseRefused, naming the file."""
    if value not in get_args(Similarity):
        raise ReleaseRefused(f"{where}.similarity must be dot or cosine, not {value!r}")
    similarity: Similarity = value
    return similarity


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What the manifest says of one file."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """`release.json`; it holds its own SHA-256, too.

    items:        rows of the catalog. dimension: columns of every vector.
    log_position: the last catalog change that the items already contain (0: none).
    created:      UTC, ISO 8601. training: provenance as training wrote it.
    """

    release: str
    dimension: int
    similarity: Similarity
    calibration: Calibration
    items: int
    index: IndexEntry
    log_position: int
    created: str
    training: Mapping[str, Any]
    files: Mapping[str, FileEntry]

    def to_json(self) -> dict[str, Any]:
        body = {
            "format": RELEASE_FORMAT,
            "release": self.release,
            "dimension": self.dimension,
            "similarity": self.similarity,
            "calibration": self.calibration.to_json(),
            "items": self.items,
            "index": {
                "kind": self.index.kind,
                "recall": self.index.recall,
                "parameters": dict(self.index.parameters),
            },
            "log_position": self.log_position,
            "created": self.created,
            "training": dict(self.training),
            "files": {n: {"sha256": f.sha256, "size_bytes": f.size_bytes} for n, f in self.files.items()},
        }
        return {**body, "sha256": _digest(body)}

    @classmethod
    def from_json(cls, data: object) -> Manifest:
        """Raises ReleaseRefused, naming the field, when the manifest is not valid."""
        if not isinstance(data, dict):
            raise ReleaseRefused(f"{MANIFEST} must be an object")
        if data.get("format") != RELEASE_FORMAT:
            raise ReleaseRefused(f"{MANIFEST} has format {data.get('format')!r}, this server reads {RELEASE_FORMAT}")
        if data.get("sha256") != _digest(data):
            raise ReleaseRefused(f"{MANIFEST} has changed: its own SHA-256 is another; a release is never edited")
        return cls(
            release=check_name(_typed(data, "release", str)),
            dimension=_count(data, "dimension", 1, MAX_DIMENSION),
            similarity=parse_similarity(data.get("similarity"), MANIFEST),
            calibration=Calibration.from_json(data.get("calibration"), MANIFEST),
            items=_count(data, "items", 1, 2**31 - 1),
            index=_index(_typed(data, "index", dict)),
            log_position=_count(data, "log_position", 0, 2**63 - 1),
            created=_typed(data, "created", str),
            training=_typed(data, "training", dict),
            files=_files(_typed(data, "files", dict)),
        )

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Reads and checks `release.json` of a release folder."""
        path = folder / MANIFEST
        if not path.is_file():
            raise ReleaseRefused(f"{folder.name} is not a release: it has no {MANIFEST}")
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ReleaseRefused(f"{MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
        return cls.from_json(read_json(path))

    @classmethod
    def parse(cls, text: str) -> Manifest:
        """Reads and checks what `release.json` holds."""
        return cls.from_json(parse_json(text, MANIFEST))

    def dump(self, folder: Path) -> None:
        (folder / MANIFEST).write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", "utf-8")


def lacking(folder: Path) -> list[str]:
    """The large files that a copy of a release was made without."""
    return [name for name in OMISSIBLE if not (folder / name).exists()]


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises ReleaseRefused, naming the file, when it is missing or no JSON."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise ReleaseRefused(f"{path.name} is missing") from None
    except OSError as error:
        raise ReleaseRefused(f"{path.name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ReleaseRefused(f"{path.name} is not JSON: {error}") from None
    return parse_json(text, path.name)


def parse_json(text: str, name: str) -> Any:
    """What a text holds. Raises ReleaseRefused, naming its file, when it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReleaseRefused(f"{name} is not JSON: {error}") from None


def file_entry(path: Path) -> FileEntry:
    """Hashes a file, in bounded memory."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(digest.hexdigest(), size)


def _digest(data: Mapping[str, Any]) -> str:
    """SHA-256 of everything that a manifest says but this: of its JSON without spaces, keys sorted, in ASCII."""
    body = {name: value for name, value in data.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _index(data: Mapping[str, Any]) -> IndexEntry:
    recall = data.get("recall")
    if isinstance(recall, bool) or not isinstance(recall, int | float) or not 0 <= recall <= 1:
        raise ReleaseRefused(f"{MANIFEST}: index.recall must be a number from 0 to 1, not {recall!r}")
    return IndexEntry(_typed(data, "kind", str), recall, _typed(data, "parameters", dict))


def _files(data: Mapping[str, Any]) -> dict[str, FileEntry]:
    # The set is fixed, so a manifest cannot name a path outside its folder.
    if set(data) != set(FILES):
        raise ReleaseRefused(f"{MANIFEST}.files must name {', '.join(FILES)}, not {', '.join(sorted(data))}")
    entries = {}
    for name in FILES:
        entry = data[name]
        if not isinstance(entry, dict):
            raise ReleaseRefused(f"{MANIFEST}.files.{name} must be an object")
        entries[name] = FileEntry(_typed(entry, "sha256", str), _count(entry, "size_bytes", 0, 2**63 - 1))
    return entries


def _typed(data: Mapping[str, Any], name: str, kind: type) -> Any:
    if not isinstance(data.get(name), kind):
        raise ReleaseRefused(f"{MANIFEST}: {name} is missing or not of type {kind.__name__}")
    return data[name]


def _count(data: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ReleaseRefused(f"{MANIFEST}: {name} must be a whole number from {low} to {high}, not {value!r}")
    return value

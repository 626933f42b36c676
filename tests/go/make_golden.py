"""Writes the golden files that the server, the clients and the Go packages must all agree with:

    .venv/bin/python -m tests.go.make_golden

    hashing.json  values of a hashed feature: XXH3-64 of their UTF-8 bytes, and the id that the tower reads, 3 + hash
                  modulo buckets; whole numbers that stand for categories, and their texts; keys of item ids
    vectors.json  vectors and their bytes in Redis; names of keys in Redis
    scores.json   similarity and score under a calibration; vectors, their similarities, scores and order
    errors.json   reasons, their numbers and gRPC codes, and whether a client tries again

Numbers of 64 bits are texts, since JSON has doubles only; numbers of 32 bits are the doubles that they equal. Entries
may be added, none may ever change. routing.json has a maker of its own.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterable, Sequence
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_intdigest

from tests.go.make_routing import LENGTHS, TEXTS

GOLDEN = Path(__file__).parents[1] / "golden"
FIRST_ID = 3  # before it: padding, missing, unknown
SMALLEST = 2.0**-126

# CONTRACT rule 9: the last column. Numbers are those of google.rpc.Code.
ERRORS = (
    ("UNSPECIFIED", 0, "INVALID_ARGUMENT", 3, False),
    ("FIELD_REQUIRED", 1, "INVALID_ARGUMENT", 3, False),
    ("FIELD_CONFLICT", 2, "INVALID_ARGUMENT", 3, False),
    ("VALUE_NOT_FINITE", 3, "INVALID_ARGUMENT", 3, False),
    ("FEATURE_TYPE", 4, "INVALID_ARGUMENT", 3, False),
    ("FEATURE_UNKNOWN", 5, "INVALID_ARGUMENT", 3, False),
    ("NO_KNOWN_FEATURE", 6, "INVALID_ARGUMENT", 3, False),
    ("SCHEMA_MISMATCH", 7, "FAILED_PRECONDITION", 9, False),
    ("DIMENSION_MISMATCH", 8, "INVALID_ARGUMENT", 3, False),
    ("LIMIT_EXCEEDED", 9, "INVALID_ARGUMENT", 3, False),
    ("FILTER_INVALID", 10, "INVALID_ARGUMENT", 3, False),
    ("ITEM_NOT_FOUND", 11, "NOT_FOUND", 5, False),
    ("RELEASE_NOT_FOUND", 12, "NOT_FOUND", 5, False),
    ("RELEASE_NOT_LOADED", 13, "FAILED_PRECONDITION", 9, False),
    ("RELEASE_MISMATCH", 14, "FAILED_PRECONDITION", 9, False),
    ("ITEM_KEY_COLLISION", 15, "ALREADY_EXISTS", 6, False),
    ("OVERLOADED", 16, "RESOURCE_EXHAUSTED", 8, True),
    ("NOT_READY", 17, "UNAVAILABLE", 14, True),
    ("STORE_UNAVAILABLE", 18, "UNAVAILABLE", 14, True),
    ("DEADLINE", 19, "DEADLINE_EXCEEDED", 4, False),
    ("INTERNAL", 20, "INTERNAL", 13, False),
)

Document = dict[str, list[dict[str, Any]]]


def hashing() -> Document:
    chosen = random.Random(11)
    texts = [*TEXTS, "", "1", "-7", *("".join(chosen.choices("abcxyz019-_", k=length)) for length in LENGTHS[::7])]
    return {
        "values": [
            {"value": text, "hash": str(_hash(text)), "buckets": buckets, "id": FIRST_ID + _hash(text) % buckets}
            for text in texts
            for buckets in (1, 16, 100_003)
        ],
        "numbers": [{"number": float(text), "text": text} for text in ("0", "1", "-7", "1234567", str(2**53))],
        "item_ids": [{"item_id": text, "key": str(_hash(text))} for text in texts],
    }


def vectors() -> Document:
    chosen = random.Random(12)
    lists = [
        [1.0, -1.0, 0.5, -0.25],
        [0.0, -0.0, _float32(0.1), _float32(1 / 3)],
        [2.0**-126, -(2.0**-149), (2 - 2**-23) * 2.0**127, -(2 - 2**-23) * 2.0**127],
        *([_float32(chosen.gauss(0, 1)) for _ in range(4)] for _ in range(5)),
    ]
    return {
        "vectors": [{"values": values, "bytes": struct.pack("<4f", *values).hex()} for values in lists],
        "item_keys": [
            {"release": release, "item_id": item_id, "key": f"twotower:item_emb:{release}:{item_id}"}
            for release in ("2026-05-01", "r.1_a")
            for item_id in ("i1", "a:b", "用户", " ", "x/{y}")
        ],
        "user_keys": [
            {"release": "r1", "feature_version": "", "user_id": "u:1", "key": "twotower:user_emb:r1:-:u:1"},
            {"release": "r1", "feature_version": "v7", "user_id": "Ελένη", "key": "twotower:user_emb:r1:v7:Ελένη"},
        ],
    }


def scores() -> Document:
    chosen = random.Random(13)
    calibrations = ((1.0, 0.0), (8.5, -3.1), (0.05, 2.0), (1000.0, 0.0))
    similarities = (0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 17.0, -17.0, 40.0, -90.0, 1e4, -1e4, 3e38, -3e38, 1e-30)
    kept = [_float32(value) for value in (*similarities, *(chosen.gauss(0, 3) for _ in range(20)))]
    return {
        "scores": [
            {"scale": scale, "bias": bias, "similarity": value, "score": _score(scale, bias, value)}
            for scale, bias in calibrations
            for value in kept
        ],
        "orders": [_order(chosen, cosine=cosine) for cosine in (False, True)],
    }


def errors() -> Document:
    names = ("reason", "number", "code", "code_number", "retried")
    return {"reasons": [dict(zip(names, entry, strict=True)) for entry in ERRORS]}


DOCUMENTS = {"hashing": hashing, "vectors": vectors, "scores": scores, "errors": errors}


def _order(chosen: random.Random, *, cosine: bool) -> dict[str, Any]:
    """A user and items: some alike, so that their ids decide, and one of zeros. Cosine: of any length."""
    user = [_float32(chosen.gauss(0, 2)) for _ in range(7)]
    items = [[_float32(chosen.gauss(0, 2)) for _ in range(7)] for _ in range(20)]
    items += [items[3], items[3], [0.0] * 7]
    ids = [f"i{number}" for number in range(len(items))]
    chosen.shuffle(ids)
    scale, bias = 1.5, -0.5
    values = [_similarity(user, item, cosine=cosine) for item in items]
    order = sorted(range(len(items)), key=lambda i: (-values[i], ids[i]))
    return {
        "cosine": cosine,
        "scale": scale,
        "bias": bias,
        "user": user,
        "items": [{"item_id": item_id, "values": item} for item_id, item in zip(ids, items, strict=True)],
        "similarities": values,
        "scores": [_score(scale, bias, value) for value in values],
        "order": [ids[i] for i in order],
    }


def _similarity(user: Sequence[float], item: Sequence[float], *, cosine: bool) -> float:
    with localcontext(prec=50):
        dot = _dot(user, item)
        length = (_dot(user, user) * _dot(item, item)).sqrt() if cosine else Decimal(1)
        return _float32(float(dot / length)) if length else 0.0


def _dot(a: Sequence[float], b: Sequence[float]) -> Decimal:
    return sum((Decimal(x) * Decimal(y) for x, y in zip(a, b, strict=True)), Decimal(0))


def _score(scale: float, bias: float, similarity: float) -> float:
    """CONTRACT rule 5, to 50 digits."""
    with localcontext(prec=50):
        exponent = -Decimal(scale) * Decimal(similarity) - Decimal(bias)
        if exponent > 1_000:
            return SMALLEST
        return max(_float32(float(1 / (1 + exponent.exp()))), SMALLEST)


def _float32(value: float) -> float:
    """The nearest float32."""
    nearest: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return nearest


def _hash(text: str) -> int:
    return xxh3_64_intdigest(text.encode())


def _lines(document: Document) -> Iterable[str]:
    for name, entries in document.items():
        lines = ",\n".join(f"    {json.dumps(entry, ensure_ascii=False)}" for entry in entries)
        yield f'  "{name}": [\n{lines}\n  ]'


def main() -> None:
    for name, make in DOCUMENTS.items():
        (GOLDEN / f"{name}.json").write_text("{\n" + ",\n".join(_lines(make())) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main()

"""Writes tests/golden/routing.json, with which the server and the Go client must both agree:

    .venv/bin/python -m tests.go.make_routing

    positions  key, XXH3-64 of its UTF-8 bytes, and the place in [0, 1) that follows; exact decimals, as texts
    splits     shares of the traffic by release, and for each key the release that serves it

Callers in Go and servers of every version share this hash: entries may be added, none may ever change.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Mapping
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_intdigest

GOLDEN = Path(__file__).parents[1] / "golden" / "routing.json"
# XXH3-64 goes another way for 0, 1-3, 4-8, 9-16, 17-128, 129-240 and more bytes, and works in blocks of 1,024.
LENGTHS = (*range(301), 512, 1023, 1024, 1025)
TEXTS = (
    "u1",
    "user 42",
    "Zürich",
    "用户-42",
    "Ελένη",
    "👩‍🚀",
    "e\u0301",
    "\u00e9",
    "a\0b",
    "日本語の長い利用者名" * 10,
)
KEYS = [*(f"u{number}" for number in range(60)), *TEXTS[1:-1]]


def hash_of(key: str) -> int:
    return xxh3_64_intdigest(key.encode())


def position_of(key: str) -> Decimal:
    """The upper 53 bits of the hash / 2^53."""
    with localcontext(prec=60):
        return Decimal(hash_of(key) >> 11) / 2**53


def arm_of(key: str, shares: Mapping[str, float]) -> str:
    """The first release, in bytewise order of the names, whose shares sum to more than the key's position."""
    *names, last = sorted(shares, key=str.encode)
    end = 0.0
    for name in names:
        end += shares[name]
        if position_of(key) < Decimal(end):
            return name
    return last


def document() -> dict[str, list[dict[str, Any]]]:
    chosen = random.Random(7)
    keys = ["".join(chosen.choices(string.ascii_letters + string.digits + "-_.:/", k=length)) for length in LENGTHS]
    at_an_end = float(position_of("u1"))  # an end belongs to the arm behind it
    splits = [
        {"dot": 1.0},
        {"cosine": 0.3, "dot": 0.7},
        {"a": 0.1, "b": 0.2, "c": 0.7},
        {"r9": 0.25, "r10": 0.25, "r_1": 0.2, "r-1": 0.15, "r.1": 0.15},
        {"a": at_an_end, "b": 1 - at_an_end},
        {"new": 0.000001, "old": 0.999999},
    ]
    return {
        "positions": [
            {"key": key, "hash": str(hash_of(key)), "position": str(position_of(key))} for key in (*keys, *TEXTS)
        ],
        "splits": [{"shares": shares, "arms": {key: arm_of(key, shares) for key in KEYS}} for shares in splits],
    }


def main() -> None:
    parts = []
    for name, entries in document().items():
        lines = ",\n".join(f"    {json.dumps(entry)}" for entry in entries)
        parts.append(f'  "{name}": [\n{lines}\n  ]')
    GOLDEN.write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main()

"""XXH3-64, the one hash of the product: features to buckets, schemas to fingerprints, item ids to keys."""

from __future__ import annotations

from xxhash import xxh3_64_intdigest


def bucket(value: str, buckets: int) -> int:
    """The bucket of a value: XXH3-64 (seed 0) of its UTF-8 bytes, modulo `buckets`."""
    return xxh3_64_intdigest(value.encode()) % buckets

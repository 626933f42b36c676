"""Builds the golden release of a format version, once, when the version is new:

    .venv/bin/python -m tests.release.make_golden

Every later version must open it (tests/release/test_golden_release.py), so it is never built again.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from tests.conftest import ATTRIBUTES
from tests.model_folder import item_table, write_model
from twotower_server.release.build import Recipe, build_release
from twotower_server.release.format import RELEASE_FORMAT

GOLDEN = Path(__file__).parents[1] / "golden"
ITEMS = 120
USERS = 12


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pq.write_table(item_table(ITEMS), folder / "items.parquet")
        model = write_model(folder / "model", similarity="cosine", users=USERS)
        name = f"release-v{RELEASE_FORMAT}"
        print(build_release(Recipe(name, model, folder / "items.parquet", None, ATTRIBUTES, "ivf_sq8"), GOLDEN))


if __name__ == "__main__":
    main()

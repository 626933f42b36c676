"""Trains the demo's towers again and replaces the checked-in model: `make demo-model`.

The data is generated (generate.py) and trained on as model.toml says, in about a minute. One seed gives the same files
on one kind of processor; on another, sums of floats may differ in their last digits, and so may the weights. The tests
in tests/demo say what a model must know; run them before it is committed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from twotower_server.demo.generate import generate
from twotower_server.demo.release import MODEL_FOLDER
from twotower_server.release.format import ITEM_TOWER, SCHEMA, USER_TOWER
from twotower_server.release.model import MODEL, USERS
from twotower_server.train.config import load_config
from twotower_server.train.run import train

CONFIG = Path(__file__).with_name("model.toml")
FILES = (MODEL, SCHEMA, USER_TOWER, ITEM_TOWER, USERS)


def make_model(out: Path, report: Callable[[str], None] = print, *, epochs: int | None = None) -> None:
    """Generates, trains, and writes the five files of a model folder into `out`.

    report: hears a line a step. epochs: at most so many; None = as model.toml says.
    """
    with tempfile.TemporaryDirectory() as folder:
        data, model = Path(folder, "data"), Path(folder, "model")
        report("generating items, users and clicks")
        generate(data)
        config = load_config(CONFIG, folder=data, overrides={"training": {"epochs": epochs}})
        train(config, model, report)
        _forget_date(model / MODEL)
        out.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(model / name, out / name)


def _forget_date(path: Path) -> None:
    """The same model is the same file whenever it is made; the release's name follows from it."""
    body = json.loads(path.read_text("utf-8"))
    del body["training"]["date"]
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m twotower_server.demo.make_model",
        description="Train the demo's towers again.",
    )
    parser.add_argument("--out", type=Path, default=MODEL_FOLDER, metavar="DIR", help="default: the checked-in model")
    args = parser.parse_args(arguments)
    make_model(args.out, lambda line: print(line, flush=True))
    print(f"the demo's model is in {args.out}; tests/demo say whether it is good enough to commit")
    return 0


if __name__ == "__main__":
    sys.exit(main())

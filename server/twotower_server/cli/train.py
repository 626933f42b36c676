"""`twotower train`: interactions and feature tables → a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from twotower_server.cli.exit_code import ExitCode
from twotower_server.train import config as config_module

_EPILOG = f"""\
{config_module.__doc__}
Tables are CSV, Parquet or Arrow. Users who are held back are never learned from: some decide when to stop,
the others measure the result against showing everybody the most popular items. `twotower release build`
turns the folder into a release.

example:
  twotower train --config docs/examples/goodbooks.toml --data ../shared/data/goodbooks --out books-model
"""


def add_parser(subparsers: Any) -> None:
    """Adds the command to `twotower`."""
    parser = subparsers.add_parser(
        "train",
        help="train the towers of a model",
        description="Trains a user tower and an item tower, and writes a model folder.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="what to train, as TOML; see below")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="model folder to write; must not exist")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder that the files of [data] are in (default: that of --config)",
    )
    parser.add_argument("--interactions", type=Path, metavar="FILE", help="instead of data.interactions")
    parser.add_argument("--items", type=Path, metavar="FILE", help="instead of data.items")
    parser.add_argument("--users", type=Path, metavar="FILE", help="instead of data.users")
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of training.epochs; at most so many")
    parser.add_argument("--seed", type=int, metavar="N", help="instead of training.seed")


def run(args: argparse.Namespace) -> int:
    """Trains; the exit code."""
    overrides = {
        "data": {"interactions": args.interactions, "items": args.items, "users": args.users},
        "training": {"epochs": args.epochs, "seed": args.seed},
    }
    config = config_module.load_config(args.config, folder=args.data, overrides=overrides)
    # PyTorch takes seconds to import: help and wrong configurations do not wait for it.
    from twotower_server.train.run import train

    train(config, args.out, lambda line: print(line, flush=True))
    return ExitCode.OK

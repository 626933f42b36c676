"""`twotower release`: builds, lists, inspects and verifies releases; the other commands are in modules of their own."""

from __future__ import annotations

import argparse
import datetime
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

from twotower_server.cli import release_diff, release_fleet, release_output
from twotower_server.cli.exit_code import ExitCode
from twotower_server.cli.progress import ProgressBars
from twotower_server.cli.release_arguments import (
    EXIT_CODES,
    Task,
    add_command,
    add_data,
    add_json,
    add_option,
    add_optional_name,
    add_redis,
    share,
)
from twotower_server.cli.release_output import Listed
from twotower_server.config import load
from twotower_server.errors import Refused, ReleaseRefused, TwoTowerError
from twotower_server.features.schema import Schema
from twotower_server.index.faiss import Kind
from twotower_server.items.attribute import AttributeSpec
from twotower_server.items.catalog import Catalog
from twotower_server.release.build import Recipe, build_release
from twotower_server.release.complete import read_stored
from twotower_server.release.fleet import Fleet
from twotower_server.release.format import ITEMS, SCHEMA, Manifest
from twotower_server.release.repository import read_manifest
from twotower_server.release.stamp import is_stamped, write_stamp
from twotower_server.release.verify import Check, verify_release

_DESCRIPTION = """\
A release is one folder of towers, feature schema, item vectors, index and calibration that belong together.
It never changes: another training, or another catalog, is another release.
"""

_EXAMPLES = """\
examples:
  export TWOTOWER_RELEASES=releases
  twotower release build --name books-2 --model books-model --items books.csv --attribute title
  twotower release verify books-2
  twotower release diff books-1 books-2
  twotower release activate books-2
  twotower release rollback
  twotower release prune --keep 3
"""

_BUILD = """\
Build a release from a model folder, which `twotower train` writes, and a table of items. Killed at any point it
leaves nothing under the release's name.
"""

_TABLES = """\
Tables are CSV, Parquet or Arrow, named by their ending (.csv, .parquet, .arrow, .feather), and read in batches. Each
feature is a column of its name, or of the name that the model's training gave it. A list is text separated by |.

attributes (what filters compare and answers show):
  --attribute title                    the column title
  --attribute price=item_price         the column item_price, called price
  --attribute year:number              text of a CSV file read as numbers; kinds are text, number, flag, texts
  --attribute tags=item_tags:texts     text separated by | as a list

example:
  twotower release build --releases releases --name books-1 --model books-model --items books.csv \\
    --attribute title --attribute year=original_publication_year:number --activate
"""

_LIST = """\
List the releases, which one is active, how a split divides the traffic, and which servers have them loaded.
"""

_VERIFY = """\
Verify that a release agrees with itself: checksums, schema and graphs, catalog, vectors, golden samples, recall of the
index. What is verified here is not verified again when `twotower serve` starts on this machine with the same --data.
A release that was copied without its vectors is loaded from the Redis of --redis first.
"""


def add_parser(subparsers: Any) -> None:
    """Adds `release` and its commands to the subparsers of `twotower`."""
    parser = subparsers.add_parser(
        "release",
        help="build, verify, compare and switch releases",
        description=_DESCRIPTION,
        epilog=f"{_EXAMPLES}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="release", required=True, metavar="COMMAND")

    build = add_command(commands, "build", _build, "build a release", _BUILD, _TABLES)
    build.add_argument("--name", help="of a-z, 0-9, '.', '_', '-' (default: the time, such as 20260131-142530)")
    build.add_argument("--model", type=Path, required=True, metavar="DIR", help="folder that `twotower train` wrote")
    build.add_argument("--items", type=Path, required=True, metavar="FILE", help="table of the items")
    build.add_argument(
        "--users", type=Path, metavar="FILE", help="table of held-back users (default: users.parquet of the model)"
    )
    build.add_argument(
        "--attribute",
        action="append",
        default=[],
        type=_attribute,
        metavar="NAME[=COLUMN][:KIND]",
        help="keep a column of the items; repeatable, see below",
    )
    build.add_argument(
        "--index", choices=get_args(Kind), default="auto", help="kind of index (default: auto, which goes by size)"
    )
    build.add_argument(
        "--recall", type=share, default=0.95, metavar="SHARE", help="recall@100 that a search needs (default: 0.95)"
    )
    build.add_argument(
        "--log-position",
        type=_position,
        default=0,
        metavar="N",
        help="last change of the catalog (UpsertItems, DeleteItems) that the items already contain (default: 0)",
    )
    build.add_argument(
        "--activate", action="store_true", help="make it the active release, without waiting for servers to load it"
    )
    build.add_argument("--json", action="store_true", help="print the manifest instead of a sentence")

    listed = add_command(commands, "list", _list, "list the releases", _LIST)
    add_data(listed)
    add_json(listed)

    inspect = add_command(commands, "inspect", _inspect, "show a release", "Show what a release is made of.")
    add_optional_name(inspect)
    add_data(inspect)
    add_json(inspect)

    verify = add_command(commands, "verify", _verify, "verify a release", _VERIFY)
    add_optional_name(verify)
    add_redis(verify)
    add_option(verify, "item_store", "redis: the vectors stay in Redis, of which a sample is verified (default: files)")
    add_data(verify)
    add_json(verify)

    release_diff.add_commands(commands)
    release_fleet.add_commands(commands)


def _position(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, not {text!r}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Runs the command of the parsed arguments; the exit code. Raises TwoTowerError with the reason."""
    config = load(vars(args), os.environ)
    task = Task(config, args)
    try:
        return int(args.run(task))
    except Refused as error:  # its reason is for programs that call a server
        raise TwoTowerError(error.message) from None
    except OSError as error:
        raise TwoTowerError(f"the releases cannot be used: {error}") from None
    finally:
        task.close()


def _build(task: Task) -> ExitCode:
    args, releases = task.args, task.config.releases_folder
    name = args.name or datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    recipe = Recipe(
        name, args.model, args.items, args.users, args.attribute, args.index, args.recall, args.log_position
    )
    with ProgressBars() as bars:
        folder = build_release(recipe, releases, bars, activate=args.activate)
    release_output.show_built(Manifest.load(folder), releases, active=args.activate, as_json=args.json)
    return ExitCode.OK


def _list(task: Task) -> ExitCode:
    fleet = task.fleet
    active, shares = _traffic(fleet)
    listed = [_listed(task, name, active, shares) for name in fleet.repository.names()]
    release_output.show_list(listed, fleet.servers(), str(fleet.repository), as_json=task.args.json)
    return ExitCode.OK


def _inspect(task: Task) -> ExitCode:
    name = task.named(task.args.name)
    folder = task.fleet.repository.local(name)
    listed = _listed(task, name, *_traffic(task.fleet))
    if listed.manifest is None:
        raise ReleaseRefused(f"release {name}: {listed.refusal}")
    schema, catalog = Schema.load(folder / SCHEMA), Catalog.open(folder / ITEMS)
    release_output.show_release(listed, schema, catalog, as_json=task.args.json)
    return ExitCode.OK


def _verify(task: Task) -> ExitCode:
    name, as_json = task.named(task.args.name), task.args.json
    checks: list[Check] = []

    def passed(check: Check) -> None:
        checks.append(check)
        if not as_json:
            release_output.show_check(check)

    refusal = None
    try:
        with ProgressBars() as bars:
            folder = task.completion.whole(task.fleet.repository.local(name), bars)
        stored = partial(read_stored, task.config) if task.config.item_store == "redis" else None
        verify_release(folder, passed, read_stored=stored)
    except ReleaseRefused as error:
        refusal = str(error)
    release_output.show_verdict(name, checks, refusal, as_json=as_json)
    if refusal is not None:
        return ExitCode.RELEASE_REFUSED
    write_stamp(folder, task.config.data)
    return ExitCode.OK


def _traffic(fleet: Fleet) -> tuple[str, dict[str, float]]:
    """The active release, "" when there is none, and the shares of the traffic by release."""
    try:
        active = fleet.active()
    except ReleaseRefused:
        return "", {}
    return active, fleet.shares(active) or {active: 1.0}


def _listed(task: Task, name: str, active: str, shares: Mapping[str, float]) -> Listed:
    repository = task.fleet.repository
    try:
        manifest, refusal = read_manifest(repository, name), ""
        folder = repository.present(name)
    except ReleaseRefused as error:
        manifest, refusal, folder = None, str(error), None
    verified = folder is not None and is_stamped(task.completion.place(folder), task.config.data)
    return Listed(name, name == active, shares.get(name, 0.0), verified, manifest, refusal)


def _attribute(text: str) -> AttributeSpec:
    try:
        return AttributeSpec.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error

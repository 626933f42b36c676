"""`twotower release`: builds, lists, inspects, verifies and activates releases."""

from __future__ import annotations

import argparse
import datetime
import os
from pathlib import Path
from typing import Any, get_args

from twotower_server.cli import release_output
from twotower_server.cli.exit_code import ExitCode
from twotower_server.cli.progress import ProgressBars
from twotower_server.cli.release_output import Listed
from twotower_server.config import OPTIONS, Config, default_of, flag, load
from twotower_server.errors import ReleaseRefused
from twotower_server.features.schema import Schema
from twotower_server.index.faiss import Kind
from twotower_server.items.attribute import AttributeSpec
from twotower_server.items.catalog import Catalog
from twotower_server.release.active import active_release, release_names, set_active_release
from twotower_server.release.build import Recipe, build_release
from twotower_server.release.format import ITEMS, SCHEMA, Manifest, check_name
from twotower_server.release.stamp import is_stamped, write_stamp
from twotower_server.release.verify import Check, verify_release
from twotower_server.supervisor.errors import NoRelease

_DESCRIPTION = """\
A release is one folder of towers, feature schema, item vectors, index and calibration that belong together.
It never changes: another training, or another catalog, is another release.
"""

_EXAMPLES = """\
examples:
  twotower release build --releases releases --model books-model --items books.csv --attribute title --activate
  twotower release list --releases releases
  twotower release inspect books-1 --releases releases
  twotower release verify books-1 --releases releases
  twotower release activate books-1 --releases releases
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

_VERIFY = """\
Verify that a release agrees with itself: checksums, schema and graphs, catalog, vectors, golden samples, recall of the
index. What is verified here is not verified again when `twotower serve` starts on this machine with the same --data.
"""

_EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage, 3 release, model or table refused, 5 no such release\n"


def add_parser(subparsers: Any) -> None:
    """Adds `release` and its commands to the subparsers of `twotower`."""
    parser = subparsers.add_parser(
        "release",
        help="build, inspect, verify and activate releases",
        description=_DESCRIPTION,
        epilog=f"{_EXAMPLES}\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="release", required=True)

    build = _add_command(commands, "build", "build a release", _BUILD, f"{_TABLES}\n{_EXIT_CODES}")
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
        "--recall", type=_share, default=0.95, metavar="SHARE", help="recall@100 that a search needs (default: 0.95)"
    )
    build.add_argument("--activate", action="store_true", help="make it the active release")
    build.add_argument("--json", action="store_true", help="print the manifest instead of a sentence")

    listed = _add_command(commands, "list", "list the releases", "List the releases of a folder.", _EXIT_CODES)
    _add_data(listed)
    _add_json(listed)

    inspect = _add_command(commands, "inspect", "show a release", "Show what a release is made of.", _EXIT_CODES)
    _add_name(inspect, "(default: the active one)", optional=True)
    _add_data(inspect)
    _add_json(inspect)

    verify = _add_command(commands, "verify", "verify a release", _VERIFY, _EXIT_CODES)
    _add_name(verify, "(default: the active one)", optional=True)
    _add_data(verify)
    _add_json(verify)

    activate = _add_command(
        commands, "activate", "name the release to serve", "Name the release that servers start with.", _EXIT_CODES
    )
    _add_name(activate, "", optional=False)


def run(args: argparse.Namespace) -> int:
    """Runs the command of the parsed arguments; the exit code. Raises TwoTowerError with the reason."""
    config = load(vars(args), os.environ)
    return _COMMANDS[args.release](config, args)


def _build(config: Config, args: argparse.Namespace) -> ExitCode:
    name = args.name or datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    recipe = Recipe(name, args.model, args.items, args.users, args.attribute, args.index, args.recall)
    with ProgressBars() as bars:
        folder = build_release(recipe, config.releases, bars, activate=args.activate)
    release_output.show_built(Manifest.load(folder), config.releases, active=args.activate, as_json=args.json)
    return ExitCode.OK


def _list(config: Config, args: argparse.Namespace) -> ExitCode:
    if not config.releases.is_dir():
        raise NoRelease(f"{config.releases} is no folder; name the folder of releases by --releases")
    listed = [_listed(config, name) for name in release_names(config.releases)]
    release_output.show_list(listed, config.releases, as_json=args.json)
    return ExitCode.OK


def _inspect(config: Config, args: argparse.Namespace) -> ExitCode:
    folder = _folder(config.releases, args.name)
    listed = _listed(config, folder.name)
    if listed.manifest is None:
        raise ReleaseRefused(f"release {folder.name}: {listed.refusal}")
    schema, catalog = Schema.load(folder / SCHEMA), Catalog.open(folder / ITEMS)
    release_output.show_release(listed, schema, catalog, as_json=args.json)
    return ExitCode.OK


def _verify(config: Config, args: argparse.Namespace) -> ExitCode:
    folder = _folder(config.releases, args.name)
    checks: list[Check] = []

    def passed(check: Check) -> None:
        checks.append(check)
        if not args.json:
            release_output.show_check(check)

    refusal = None
    try:
        verify_release(folder, passed)
    except ReleaseRefused as error:
        refusal = str(error)
    release_output.show_verdict(folder.name, checks, refusal, as_json=args.json)
    if refusal is not None:
        return ExitCode.RELEASE_REFUSED
    write_stamp(folder, config.data)
    return ExitCode.OK


def _activate(config: Config, args: argparse.Namespace) -> ExitCode:
    folder = _folder(config.releases, args.name)
    Manifest.load(folder)
    set_active_release(config.releases, folder.name)
    print(
        f"{folder.name} is now the active release of {config.releases}: servers that start serve it, those that run "
        "keep theirs until they are started again"
    )
    return ExitCode.OK


_COMMANDS = {"build": _build, "list": _list, "inspect": _inspect, "verify": _verify, "activate": _activate}


def _folder(releases: Path, name: str | None) -> Path:
    """The folder of a release, of the active one when none is named. Raises NoRelease."""
    try:
        name = check_name(name) if name else active_release(releases)
    except ReleaseRefused as error:
        raise NoRelease(str(error)) from None
    names = release_names(releases)
    if name not in names:
        raise NoRelease(f"{releases} has no release {name}; it has {', '.join(names) or 'none'}")
    return releases / name


def _listed(config: Config, name: str) -> Listed:
    try:
        active = active_release(config.releases)
    except ReleaseRefused:
        active = ""
    folder = config.releases / name
    try:
        manifest, refusal = Manifest.load(folder), ""
    except ReleaseRefused as error:
        manifest, refusal = None, str(error)
    return Listed(name, name == active, is_stamped(folder, config.data), manifest, refusal)


def _add_command(commands: Any, name: str, summary: str, description: str, epilog: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_option(parser, "releases", "folder of releases (default: TWOTOWER_RELEASES)")
    return parser


def _add_name(parser: argparse.ArgumentParser, default: str, *, optional: bool) -> None:
    parser.add_argument("name", nargs="?" if optional else None, metavar="NAME", help=f"the release {default}")


def _add_data(parser: argparse.ArgumentParser) -> None:
    data = next(option for option in OPTIONS if option.name == "data")
    _add_option(parser, "data", f"{data.metadata['help']} (default: {default_of(data)})")


def _add_option(parser: argparse.ArgumentParser, name: str, help: str) -> None:
    """An option of `twotower serve`, which `config.load` parses and finds in the environment, too."""
    option = next(option for option in OPTIONS if option.name == name)
    parser.add_argument(flag(name), metavar=option.metadata["metavar"], help=help)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")


def _attribute(text: str) -> AttributeSpec:
    try:
        return AttributeSpec.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most 1, not {text!r}")
    return share

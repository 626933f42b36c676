"""What the commands of `twotower release` share: their options, and what they are run with."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from twotower_server.cli.exit_code import ExitCode
from twotower_server.config import OPTIONS, Config, default_of, flag
from twotower_server.errors import ReleaseRefused
from twotower_server.release.completion import Completion
from twotower_server.release.fleet import Fleet
from twotower_server.release.format import check_name
from twotower_server.release.repository import open_repository
from twotower_server.supervisor.errors import NoRelease

EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage, 3 release, model or table refused, 5 no such release\n"


@dataclass(frozen=True)
class Task:
    """One command to run."""

    config: Config
    args: argparse.Namespace

    @cached_property
    def fleet(self) -> Fleet:
        """The servers of --releases. Raises NoRelease when there is no such folder."""
        try:
            return Fleet(open_repository(self.config.releases, self.config.data, self.config.keep_fetched))
        except ReleaseRefused as error:
            raise NoRelease(str(error)) from None

    @cached_property
    def completion(self) -> Completion:
        """As the servers of this machine have it."""
        return Completion(self.config)

    @cached_property
    def _loading(self) -> Completion:
        return Completion(replace(self.config, item_store="files"))

    def whole(self, release: str) -> Path:
        """The folder of a release, or its copy with vectors and index. Raises as `Completion.whole`."""
        return self._loading.whole(self.fleet.repository.local(release))

    def close(self) -> None:
        """Frees what was fetched or loaded."""
        if "fleet" in vars(self):
            self.fleet.repository.use(())
            self.completion.use(())
            self._loading.use(())

    def active(self) -> str:
        """The name of the active release. Raises NoRelease."""
        try:
            return self.fleet.active()
        except ReleaseRefused as error:
            raise NoRelease(str(error)) from None

    def named(self, name: str | None) -> str:
        """The name of a release that is there; of the active one when none is named. Raises NoRelease."""
        repository = self.fleet.repository
        try:
            name = check_name(name) if name else self.active()
        except ReleaseRefused as error:
            raise NoRelease(str(error)) from None
        names = repository.names()
        if name not in names:
            raise NoRelease(f"{repository} has no release {name}; it has {', '.join(names) or 'none'}")
        return name


Run = Callable[[Task], ExitCode]


def add_command(
    commands: Any, name: str, run: Run, summary: str, description: str, epilog: str = ""
) -> argparse.ArgumentParser:
    """Adds a command with --releases."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"{epilog}\n{EXIT_CODES}" if epilog else EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add_option(parser, "releases", "folder of releases, or its URL, as s3://bucket/releases; TWOTOWER_RELEASES")
    return parser


def add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the release")


def add_optional_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="the release (default: the active one)")


def add_data(parser: argparse.ArgumentParser) -> None:
    data = next(option for option in OPTIONS if option.name == "data")
    add_option(parser, "data", f"{data.metadata['help']} (default: {default_of(data)})")


def add_redis(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name a Redis."""
    add_option(parser, "redis", "redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], rediss:// for TLS; TWOTOWER_REDIS")
    add_option(parser, "redis_ca", "PEM of the authority that has signed its certificate; TWOTOWER_REDIS_CA")
    add_option(parser, "redis_prefix", "what the keys begin with (default: twotower:)")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")


def count(text: str) -> int:
    """Type of an option: a whole number, 0 or more."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, not {text!r}")
    return int(text)


def positive(text: str) -> int:
    """Type of an option: a whole number, 1 or more."""
    number = count(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def share(text: str) -> float:
    """Type of an option: more than 0 and at most 1."""
    number = _number(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most 1, not {text!r}")
    return number


def duration(text: str) -> float:
    """Type of an option: seconds or days, 0 or more."""
    number = _number(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number, 0 or more, not {text!r}")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


def add_option(parser: argparse.ArgumentParser, name: str, help: str) -> None:
    """An option of `twotower serve`, which `config.load` parses and finds in the environment, too."""
    option = next(option for option in OPTIONS if option.name == name)
    parser.add_argument(flag(name), metavar=option.metadata["metavar"], help=help)

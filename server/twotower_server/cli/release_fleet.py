"""The commands of `twotower release` that change what the servers of a folder serve, or what is in it."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Mapping
from typing import Any

from twotower_server.cli import release_fleet_output
from twotower_server.cli.exit_code import ExitCode, UsageError
from twotower_server.cli.progress import ProgressBars
from twotower_server.cli.release_arguments import Task, add_command, add_json, add_name, count, duration, share
from twotower_server.config import parse_location
from twotower_server.errors import ReleaseRefused, TwoTowerError
from twotower_server.release.fleet import check_shares
from twotower_server.release.format import FILES, INDEX, VECTORS
from twotower_server.release.prune import fates
from twotower_server.release.repository import open_repository, read_manifest
from twotower_server.supervisor.errors import NoRelease

_ACTIVATE = """\
Make a release the active one, for all servers of the folder. Every server that lives loads it first, beside what it
serves; when one refuses it, or does not load it in time, nothing changes. Then the pointer moves, in one step, and
every server follows within its --follow-s (default: 1 s). Needs no server: those that start serve the active release.
"""

_ROLLBACK = """\
Make the release active again that was active before, in the same way as `activate`. Going back again goes further back.
"""

_SPLIT = """\
Split the traffic that pins no release, by routing key, else user id. It lasts until it is changed, or another release
becomes active. Every server that lives loads the releases first.
"""

_SPLIT_EXAMPLES = """\
examples:
  twotower release split books-1=0.9 books-2=0.1
  twotower release split --off                      all to the active release
"""

_PRUNE = """\
Remove old releases. Never removed are the active release, the one that was active before, those of a split, and those
that a living server has loaded; of the others, the newest --keep stay.
"""

_COPY = """\
Copy a release to another place: a folder, or a URL of any file system of fsspec, as s3://bucket/releases. Every file is
checked while it is copied. The manifest goes last: what is half copied is no release there, and copying again
completes it.

Without vectors it is small: servers load them from Redis, where `twotower items push` has written them.
"""

_COPY_EXAMPLES = """\
A URL needs fsspec and the package of its kind of store: pip install "twotower[remote]" s3fs. Credentials and addresses
come from where that looks for them, such as AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL.

examples:
  twotower release copy books-1 s3://bucket/releases
  twotower release copy books-1 s3://bucket/releases --without-vectors
  twotower release activate books-1 --releases s3://bucket/releases
"""


def add_commands(commands: Any) -> None:
    """Adds activate, rollback, split, prune and copy."""
    activate = add_command(commands, "activate", _activate, "make a release the active one", _ACTIVATE)
    add_name(activate)
    _add_timeout(activate)
    add_json(activate)

    rollback = add_command(commands, "rollback", _rollback, "go back to the release before", _ROLLBACK)
    rollback.add_argument(
        "--from",
        dest="from_release",
        metavar="NAME",
        help="the release to go back from: nothing changes when another is active, so that two do not go back twice",
    )
    _add_timeout(rollback)
    add_json(rollback)

    split = add_command(commands, "split", _split, "split the traffic between releases", _SPLIT, _SPLIT_EXAMPLES)
    split.add_argument("shares", nargs="*", type=_share_of, metavar="NAME=SHARE", help="shares that sum to 1")
    split.add_argument("--off", action="store_true", help="end the split")
    _add_timeout(split)
    add_json(split)

    prune = add_command(commands, "prune", _prune, "remove old releases", _PRUNE)
    prune.add_argument("--keep", type=count, default=3, metavar="N", help="keep the newest N beside those needed (3)")
    prune.add_argument(
        "--older-than", type=duration, default=0.0, metavar="DAYS", help="keep releases built less than DAYS ago"
    )
    prune.add_argument("--dry-run", action="store_true", help="only tell what would be removed")
    prune.add_argument("--yes", action="store_true", help="do not ask")
    add_json(prune)

    copy = add_command(commands, "copy", _copy, "copy a release to another place", _COPY, _COPY_EXAMPLES)
    add_name(copy)
    copy.add_argument("target", type=parse_location, metavar="URL", help="where to: a URL, or a folder")
    copy.add_argument("--without-vectors", action="store_true", help=f"leave out {VECTORS}: it is loaded from Redis")
    copy.add_argument(
        "--without-index",
        action="store_true",
        help=f"leave out {INDEX}: each machine builds its own, which takes a while",
    )


def _activate(task: Task) -> ExitCode:
    try:
        expected = task.fleet.active()
    except ReleaseRefused:
        expected = None
    return _switch_to(task, task.named(task.args.name), expected)


def _rollback(task: Task) -> ExitCode:
    active = task.active()
    if task.args.from_release not in (None, active):
        raise TwoTowerError(f"the active release is {active}, not {task.args.from_release}; nothing was changed")
    previous = task.fleet.previous(active)
    if previous is None:
        raise NoRelease(f"no release is known that was active before {active} and still exists")
    return _switch_to(task, previous, active, back=True)


def _switch_to(task: Task, release: str, expected: str | None, *, back: bool = False) -> ExitCode:
    fleet, timeout_s = task.fleet, _timeout_s(task)
    read_manifest(fleet.repository, release)
    _say_wait(task, f"load {release}")
    fleet.wait_loaded(release, timeout_s)
    before = fleet.activate(release, expected, back=back)
    late = fleet.wait_serving(release, {}, timeout_s)
    release_fleet_output.show_switch(release, before, fleet.servers(), late, as_json=task.args.json)
    return ExitCode.FAILED if late else ExitCode.OK


def _split(task: Task) -> ExitCode:
    fleet, timeout_s = task.fleet, _timeout_s(task)
    shares: Mapping[str, float] = dict(task.args.shares)
    if bool(shares) == task.args.off or len(shares) < len(task.args.shares):
        raise UsageError("name each release once with its share, as books-1=0.9 books-2=0.1, or --off")
    check_shares(shares)
    active = task.active()
    for name in shares:
        read_manifest(fleet.repository, task.named(name))
    for name in shares:
        _say_wait(task, f"load {name}")
        fleet.wait_loaded(name, timeout_s)
    fleet.set_shares(active, shares)
    late = fleet.wait_serving(active, shares, timeout_s)
    release_fleet_output.show_split(active, shares, fleet.servers(), late, as_json=task.args.json)
    return ExitCode.FAILED if late else ExitCode.OK


def _prune(task: Task) -> ExitCode:
    fleet, args = task.fleet, task.args
    task.active()  # or nothing says what is needed
    _say_wait(task, "say what is in use")
    found = fates(fleet, args.keep, datetime.timedelta(days=args.older_than))
    going = [fate for fate in found if not fate.kept]
    if not args.json:
        release_fleet_output.show_fates(found)
    removes = bool(going) and not args.dry_run and (args.yes or _agreed(len(going)))
    if removes:
        for fate in reversed(going):
            fleet.repository.delete(fate.release)
    release_fleet_output.show_pruned(found, removed=removes, as_json=args.json)
    return ExitCode.OK


def _copy(task: Task) -> ExitCode:
    args, config = task.args, task.config
    name = task.named(args.name)
    without = [file for file, left_out in ((VECTORS, args.without_vectors), (INDEX, args.without_index)) if left_out]
    target = open_repository(args.target, config.data, config.keep_fetched)
    with ProgressBars() as bars:
        bars.start(f"copying {name}", len(FILES))
        target.add(task.fleet.repository.local(name), lambda: bars.advance(1), without)
    print(f"{name} is in {target}. Activate it: twotower release activate {name} --releases {target}")
    return ExitCode.OK


def _agreed(releases: int) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("this removes releases: add --yes, or --dry-run to only see which")
    return input(f"Remove {releases} release{'s' * (releases > 1)}? [y/N] ").strip().lower() in ("y", "yes")


def _say_wait(task: Task, what: str) -> None:
    """Why it takes a while, on standard error."""
    names = [server.name for server in task.fleet.servers()]
    if names and not task.args.json:
        print(f"Waiting for {', '.join(names)} to {what}", file=sys.stderr, flush=True)


def _timeout_s(task: Task) -> float:
    given: float | None = task.args.timeout_s
    return task.config.fleet_timeout_s if given is None else given


def _add_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout-s", type=duration, metavar="SECONDS", help="give up when a server is not ready in this time (60)"
    )


def _share_of(text: str) -> tuple[str, float]:
    name, equals, number = text.rpartition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=SHARE, as books-1=0.9")
    return name, share(number)

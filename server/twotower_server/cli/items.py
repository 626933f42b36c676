"""`twotower items`: item vectors in Redis, for programs that read them there."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any, get_args

from twotower_server.cli.console import print_json
from twotower_server.cli.exit_code import ExitCode, UsageError
from twotower_server.cli.progress import ProgressBars
from twotower_server.cli.release import run
from twotower_server.cli.release_arguments import Task, add_command, add_data, add_json, add_name, add_redis, count
from twotower_server.config import ConfigError
from twotower_server.items.redis import PLAIN, RedisKeys, RedisStore
from twotower_server.release.format import check_name
from twotower_server.release.push import Pushed, ReleasePush, Verify, expire_release
from twotower_server.release.stamp import is_stamped, write_stamp
from twotower_server.release.verify import verify_release

__all__ = ["add_parser", "run"]  # run as every command that needs releases

_DESCRIPTION = (
    "Item vectors in Redis, for programs that read them there. docs/redis.md has the keys and the rights needed."
)

_EXAMPLES = """\
examples:
  export TWOTOWER_RELEASES=releases TWOTOWER_REDIS=redis://app:secret@localhost:6379/0
  twotower items push books-2 --activate
  twotower items expire books-1 --after-s 3600
"""

_PUSH = """\
Write the item vectors of a release to Redis, 7.0 or newer, standalone or a Cluster, as PREFIXitem_emb:RELEASE:ITEM_ID:
raw float32, little-endian. A push that was killed goes on where it stopped. At the end what is there is read back and
compared; what is missing or different is written again.
"""

_PUSH_EPILOG = """\
A Redis that goes away, or fails over, is waited for. The password may also come from TWOTOWER_REDIS, which other users
of the machine do not see.

plain keys (--plain): item_emb:ITEM_ID, without prefix and release, for programs that know of no releases. They hold
the active release alone. While it is rewritten, what is read is mixed from two releases.

example:
  twotower items push books-2 --redis redis://localhost:6379 --activate
"""

_EXPIRE = """\
Let the vectors of a release vanish from Redis in a while. The active release is refused.
"""

STORE_CODES = "exit codes of Redis: 7 does not answer, 8 refuses: login, rights, memory, version\n"


def add_parser(subparsers: Any) -> None:
    """Adds `items` and its commands to the subparsers of `twotower`."""
    parser = subparsers.add_parser(
        "items",
        help="write item vectors of a release to Redis",
        description=_DESCRIPTION,
        epilog=f"{_EXAMPLES}\n{STORE_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="items", required=True, metavar="COMMAND")

    push = add_command(
        commands, "push", _push, "write a release's vectors to Redis", _PUSH, f"{_PUSH_EPILOG}\n{STORE_CODES}"
    )
    add_name(push)
    add_redis(push)
    push.add_argument("--plain", action="store_true", help="write plain keys, see below")
    push.add_argument(
        "--remove-others", action="store_true", help=f"with --plain: remove keys {PLAIN}* of items it does not have"
    )
    push.add_argument(
        "--verify",
        choices=get_args(Verify),
        default="all",
        help="what to read back and compare: all (default), a sample of 10,000 items, or none",
    )
    push.add_argument("--activate", action="store_true", help="then let the key PREFIXactive name this release")
    add_data(push)
    add_json(push)

    expire = add_command(commands, "expire", _expire, "let a release's vectors vanish from Redis", _EXPIRE, STORE_CODES)
    add_name(expire)
    add_redis(expire)
    expire.add_argument("--after-s", type=count, default=3600, metavar="SECONDS", help="how soon (default: 3600)")
    add_json(expire)


def _push(task: Task) -> ExitCode:
    args = task.args
    name, keys = task.named(args.name), RedisKeys(task.config.redis_prefix)
    if args.remove_others and not args.plain:
        raise UsageError("--remove-others needs --plain")
    if args.plain and name != task.active():
        raise UsageError(f"plain keys hold the active release, which is {task.active()}: activate {name} first")
    folder = task.fleet.repository.local(name)
    with open_store(task) as store:
        if policy := store.evicts():
            print(f"warning: {store} drops keys when it is full ({policy}); vectors can vanish", file=sys.stderr)
        with ProgressBars() as bars:
            if not is_stamped(folder, task.config.data):
                bars.start("verifying the release", None)
                verify_release(folder)
                write_stamp(folder, task.config.data)
            push = ReleasePush(folder, store, keys, plain=args.plain)
            pushed = push.run(bars, args.verify)
            others = push.other_plain(bars, remove=args.remove_others) if args.plain else 0
        if args.activate:
            store.set_text(keys.active, name)
        _show_pushed(pushed, str(store), args, others)
    return ExitCode.OK


def _expire(task: Task) -> ExitCode:
    name, seconds = check_name(task.args.name), task.args.after_s
    keys = RedisKeys(task.config.redis_prefix)
    with open_store(task) as store:
        if name in (store.text(keys.active), task.active()):
            raise UsageError(f"{name} is the active release; activate another one first")
        with ProgressBars() as bars:
            expiring = expire_release(name, store, keys, seconds, bars)
        if task.args.json:
            print_json({"release": name, "expiring": expiring, "after_s": seconds})
        else:
            print(f"{expiring:,} vectors of {name} vanish from {store} in {seconds:,} s")
    return ExitCode.OK


def open_store(task: Task) -> RedisStore:
    """Connects to the Redis of --redis. Raises ConfigError, StoreRefused or StoreUnavailable."""
    config = task.config
    if config.redis is None:
        raise ConfigError("no Redis is named: add --redis redis://HOST:6379, or set TWOTOWER_REDIS")
    return RedisStore(config.redis, config.redis_ca)


def _show_pushed(pushed: Pushed, store: str, args: argparse.Namespace, others: int) -> None:
    if args.json:
        document = {**asdict(pushed), "active": args.activate}
        return print_json({**document, "plain_others": others} if args.plain else document)
    print(
        f"{store} has {pushed.items:,} vectors of {pushed.release}: {pushed.written:,} written, "
        f"{pushed.resumed:,} before, {pushed.compared:,} compared, {pushed.repaired:,} repaired"
    )
    if others:
        done = "were removed" if args.remove_others else "are still there; --remove-others removes them"
        print(f"{others:,} keys {PLAIN}* of items that {pushed.release} lacks {done}")
    if args.activate:
        print(f"{pushed.release} is its active release")

"""`twotower users`: vectors of users, computed ahead for the servers' cache."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from twotower_server.cache.policy import CachePolicy
from twotower_server.cli.console import print_json
from twotower_server.cli.exit_code import ExitCode
from twotower_server.cli.items import STORE_CODES, open_store
from twotower_server.cli.progress import ProgressBars
from twotower_server.cli.release import run
from twotower_server.cli.release_arguments import Task, add_command, add_data, add_json, add_option, add_redis
from twotower_server.errors import ReleaseRefused
from twotower_server.offline.users import refresh_users
from twotower_server.release.snapshot import Snapshot
from twotower_server.release.stamp import is_stamped, write_stamp
from twotower_server.release.verify import verify_release

__all__ = ["add_parser", "run"]  # run as every command that needs releases

_REFRESH = """\
Compute the vectors of all users of a table, and write them to the cache in Redis that servers with --user-cache-redis
read: PREFIXuser_emb:RELEASE:VERSION:USER_ID. They vanish after --user-cache-ttl-s, which must be that of the servers.

The table (.csv, .parquet, .arrow) has a column user_id, features by their full names, and feature_version where the
callers send one.
"""

_EPILOG = """\
example:
  twotower users refresh users.parquet --redis redis://localhost:6379 --user-cache-ttl-s 86400
"""


def add_parser(subparsers: Any) -> None:
    """Adds `users` and its command to the subparsers of `twotower`."""
    parser = subparsers.add_parser(
        "users",
        help="write vectors of users to the servers' cache",
        description="Vectors of users for the cache that servers share. docs/user-cache.md tells about it.",
        epilog=f"{_EPILOG}\n{STORE_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="users", required=True, metavar="COMMAND")
    refresh = add_command(
        commands, "refresh", _refresh, "compute and write the vectors of a table of users", _REFRESH,
        f"{_EPILOG}\n{STORE_CODES}",
    )  # fmt: skip
    refresh.add_argument("table", type=Path, metavar="TABLE", help="the users")
    refresh.add_argument("--release", metavar="NAME", help="the release (default: the active one)")
    add_redis(refresh)
    add_option(refresh, "user_cache_ttl_s", "how long the vectors live (default: 600); TWOTOWER_USER_CACHE_TTL_S")
    add_option(refresh, "user_cache_real_time", "as the servers have it: users with a value for one are left out")
    add_data(refresh)
    add_json(refresh)


def _refresh(task: Task) -> ExitCode:
    args, config = task.args, task.config
    folder = task.whole(task.named(args.release))
    policy = CachePolicy(config.user_cache_ttl_s, config.user_cache_by_version, config.user_cache_real_time)
    with open_store(task) as store, ProgressBars() as bars:
        if not is_stamped(folder, config.data):
            bars.start("verifying the release", None)
            verify_release(folder)
            write_stamp(folder, config.data)
        refreshed = refresh_users(Snapshot.open(folder), args.table, policy, store, config.redis_prefix, bars)
    if not refreshed.written:
        why = f"; {refreshed.reason}" if refreshed.reason else ""
        raise ReleaseRefused(
            f"{args.table} has no user to write: {refreshed.refused} cannot be embedded{why}; of "
            f"{refreshed.uncached} no vector may be kept: without a user_id, with a real-time feature, or with a "
            "feature_version that has a colon"
        )
    if args.json:
        print_json(asdict(refreshed))
    else:
        print(
            f"{store} has {refreshed.written:,} vectors of users of {refreshed.release} for {policy.ttl_s:,} s; "
            f"{refreshed.uncached:,} users are not to be cached, {refreshed.refused:,} cannot be embedded"
        )
        if refreshed.reason:
            print(f"the first of them is in {refreshed.reason}")
    return ExitCode.OK

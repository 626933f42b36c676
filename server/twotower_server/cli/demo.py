"""`twotower demo`: builds the demo release where it is absent, and serves it."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from twotower_server.cli.exit_code import ExitCode
from twotower_server.cli.progress import ProgressBars
from twotower_server.config import OPTIONS, flag, load
from twotower_server.demo.release import ensure_release
from twotower_server.supervisor import log
from twotower_server.supervisor.supervisor import Serving, serve

DEFAULT_RELEASES = Path(".twotower/releases")

_DESCRIPTION = """\
Serve a demo: 10,000 generated items, and towers trained on the tastes of 6,000 generated users. The release
is built on the first call, in seconds. When the server is ready, three commands to try it are printed.
"""

# The same question three times: what would a woman of 29 who likes sport, and travel somewhat, want to see?
_COMMANDS = """\
Serving release {release} on {target}. Try it from another terminal:

  grpcurl -plaintext -d '{{"k": 5, "return_attributes": ["title", "category"], "user": {{
      "features": {{"age": 29, "interest_sport": 1, "interest_travel": 0.4}},
      "string_features": {{"gender": {{"values": ["f"]}}}}}}}}' \\
    {target} twotower.v1.TwoTowerService/Recommend

  {python} -c '
import twotower
user = twotower.user(age=29, gender="f", interest={{"sport": 1.0, "travel": 0.4}})
with twotower.Client("{target}") as client:
    for item in client.recommend(user, 5, return_attributes=["title", "category"]).items:
        print(item.item_id, round(item.score, 3), item.attributes)
'

  {twotower} query recommend --target {target} --k 5 --attribute title --attribute category \\
    --feature age=29 --feature gender=f --feature interest_sport=1 --feature interest_travel=0.4

Ctrl-C stops the server.
"""


def add_parser(subparsers: Any) -> None:
    """Adds `demo` to the subparsers of `twotower`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo",
        help="build the demo release and serve it",
        description=_DESCRIPTION,
        epilog="The other options of `twotower serve` can be set in the environment, as TWOTOWER_WORKERS=2.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listen = next(option for option in OPTIONS if option.name == "listen")
    parser.add_argument(
        flag(listen.name),
        metavar=listen.metadata["metavar"],
        help=f"{listen.metadata['help']} (default: {listen.default})",
    )
    parser.add_argument(
        "--releases",
        default=DEFAULT_RELEASES,
        metavar="DIR",
        help="folder for the demo release (default: %(default)s)",
    )
    parser.add_argument("--build-only", action="store_true", help="build the release, do not serve it")


def run(args: argparse.Namespace) -> int:
    """Builds and serves until a signal ends it; the exit code. Raises TwoTowerError with the reason."""
    # Read first: a wrong option should not cost a build.
    config = load({"releases": args.releases, "listen": args.listen}, os.environ)
    with ProgressBars() as bars:
        release, built = ensure_release(config.releases_folder, bars)
    if built:
        print(f"Built release {release} in {config.releases}", flush=True)
    if args.build_only:
        return ExitCode.OK
    log.configure(config.log_level, config.log_format, "supervisor")
    return ExitCode.OK if serve(config, announce) else ExitCode.FAILED


def announce(serving: Serving) -> None:
    """Tells people that the server is ready, and what to try."""
    target = serving.address.target
    python = _relative(sys.executable)
    script = Path(sys.executable).with_name("twotower")
    twotower = _relative(str(script)) if script.exists() else f"{python} -m twotower_server.cli.main"
    print(_COMMANDS.format(release=serving.release, target=target, python=python, twotower=twotower), flush=True)


def _relative(program: str) -> str:
    """A program as one types it here: its name where the shell finds it, else the shortest path."""
    name = Path(program).name
    if shutil.which(name) == program:
        return shlex.quote(name)
    path = os.path.relpath(program)
    return shlex.quote(program if path.startswith("..") else path)

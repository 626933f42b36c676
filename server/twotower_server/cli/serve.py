"""`twotower serve`: the server."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from twotower_server.cli.exit_code import ExitCode
from twotower_server.config import OPTIONS, default_of, flag, load, variable
from twotower_server.supervisor import log
from twotower_server.supervisor.supervisor import Serving, serve

_DESCRIPTION = """\
Serve the active release of a folder, or of a URL such as s3://bucket/releases, from where it is fetched first. It is
verified before it is opened, once for each machine. When another becomes active there (`twotower release activate`),
it is opened beside the running one, then all calls switch to it. Log lines go to standard error. When the server is
ready, one JSON line goes to standard output:

  {"event": "serving", "release": "demo", "target": "localhost:50051", "port": 50051}

and with --http-listen also "http_target": "localhost:8080".

SIGTERM and SIGINT end the server when the calls in flight are done; sent again, at once.
"""

_EPILOG = """\
Every option can also be set in the environment (--grace-s as TWOTOWER_GRACE_S) or in the file (grace_s = 20).
Options win over the environment, the environment over the file.

exit codes: 0 stopped in order, 1 failed, 2 wrong configuration, 3 release refused, 4 port taken, 5 no release
"""


def add_parser(subparsers: Any) -> None:
    """Adds `serve` to the subparsers of `twotower`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "serve",
        help="serve the active release by gRPC",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds every option of `Config`, and `--config`. `config.load` parses the values."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"TOML file with any of the options below; {variable('config')}",
    )
    for option in OPTIONS:
        default = default_of(option)
        if isinstance(default, bool):
            parser.add_argument(
                flag(option.name),
                action=argparse.BooleanOptionalAction,
                help=f"{option.metadata['help']} (default: {'yes' if default else 'no'})",
            )
        else:
            shown = (
                ""
                if default in (None, ())
                else f" (default: {default:g})"
                if isinstance(default, float)
                else f" (default: {default})"
            )
            parser.add_argument(
                flag(option.name), metavar=option.metadata["metavar"], help=option.metadata["help"] + shown
            )


def run(args: argparse.Namespace) -> int:
    """Serves until a signal ends it; the exit code. Raises TwoTowerError with the reason."""
    config = load(vars(args), os.environ, args.config)
    log.configure(config.log_level, config.log_format, "supervisor")
    return ExitCode.OK if serve(config, announce) else ExitCode.FAILED


def announce(serving: Serving) -> None:
    """Tells programs, in one line on standard output, that the server is ready."""
    line = {
        "event": "serving",
        "release": serving.release,
        "target": serving.address.target,
        "port": serving.address.port,
    }
    if serving.http is not None:
        line["http_target"] = serving.http.target
    print(json.dumps(line), flush=True)

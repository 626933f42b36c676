"""`twotower health`: whether the server of this machine is ready; images of containers have no other program to ask."""

from __future__ import annotations

import argparse
import os
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from twotower_server.cli.exit_code import ExitCode, UsageError
from twotower_server.config import Address, variable
from twotower_server.errors import TwoTowerError

# Where containers serve health and metrics.
DEFAULT_ADDRESS = Address("", 9090)
_LISTEN = variable("metrics_listen")

_DESCRIPTION = f"""\
Ask the server of this machine by HTTP whether it is ready: on its --metrics-listen, where {_LISTEN}
says it, else on port {DEFAULT_ADDRESS.port}.

exit codes: 0 ready, 1 not ready or no server (the reason is on standard error), 2 wrong usage
"""


class NotReady(TwoTowerError):
    """The server is not ready, or there is none; the message says which."""


def add_parser(subparsers: Any) -> None:
    """Adds `health` to the subparsers of `twotower`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "health",
        help="ask whether the server of this machine is ready",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", metavar="URL", help="ask there, such as http://localhost:8080/readyz")
    parser.add_argument(
        "--timeout-s", type=float, default=2.0, metavar="SECONDS", help="wait this long (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Asks; the exit code. Raises UsageError, and NotReady with the reason."""
    url = args.url or _own_url()
    if urlsplit(url).scheme not in ("http", "https"):
        raise UsageError(f"{url!r} is no URL: write http://HOST:PORT/readyz")
    # The server is beside us: a proxy that the environment names is for other places.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        direct.open(url, timeout=args.timeout_s).close()
    except urllib.error.HTTPError as answer:
        with answer:
            raise NotReady(f"not ready: {url} answers {answer.code}") from None
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise NotReady(f"no answer from {url}: {reason}") from None
    print("ready")
    return ExitCode.OK


def _own_url() -> str:
    try:
        address = Address.parse(os.environ.get(_LISTEN) or str(DEFAULT_ADDRESS))
    except ValueError as error:
        raise UsageError(f"{_LISTEN}: {error}") from None
    return f"http://{address.target}/readyz"

"""`twotower query`: ask a running server from the shell, through the Python client."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import twotower
from twotower_server.cli import query_output
from twotower_server.cli.exit_code import ExitCode, UsageError
from twotower_server.cli.query_syntax import parse_condition, parse_feature
from twotower_server.errors import TwoTowerError

_EXAMPLES = """\
examples:
  twotower query recommend --feature age=34 --feature gender=f --k 5 --attribute title --filter 'price<20'
  twotower query score --feature age=34 --items i1,i2,i3
  twotower query user --features-json @user.json --json
  twotower query item --item i1
"""

_FEATURES = """\
features:
  --feature age=34                 a number; the server reads age of a user as user_age, price of an item as item_price
  --feature gender=f               a text; what looks like a number is a text in quotes: --feature 'zip="10115"'
  --feature 'recent_clicks=i7|i9'  a list of texts; a list of one ends with a bar: 'recent_clicks=i7|'
  --features-json '{"age": 34, "recent_clicks": ["i7"], "interest": {"sport": 0.8}}'
  --features-json @user.json       the same from a file
"""

_FILTERS = """\
filters (each --filter must hold):
  --filter 'price<20'              also <= > >= on numbers
  --filter 'category=books|film'   one of these
  --filter in_stock=true
  --filter '!category=books'       not; an item without the attribute never matches, negated or not
  --filter 'title="1984"'          a text that looks like a number
"""

_EXIT_CODES = "exit codes: 0 answered, 1 refused or no server (the reason is on standard error), 2 wrong usage\n"

_MAX_K = 2**32 - 1  # what the request can hold; the server's own limit is lower

Parsed = TypeVar("Parsed")


class QueryFailed(TwoTowerError):
    """The server refused, or there is none; the message says why, and what to do."""


def add_parser(subparsers: Any) -> None:
    """Adds `query` and its commands to the subparsers of `twotower`."""
    parser = subparsers.add_parser(
        "query",
        help="ask a running server",
        description="Ask a running server.",
        epilog=f"{_EXAMPLES}\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="query", required=True)

    user = _add_command(commands, "user", "the embedding of a user", _FEATURES)
    _add_user(user)
    _add_server(user)

    item = _add_command(commands, "item", "embeddings of items: stored ones, or of a new one's features", _FEATURES)
    _add_items(item)
    _add_features(item, "item")
    _add_server(item)

    score = _add_command(commands, "score", "scores of items for a user, best first", _FEATURES)
    _add_user(score)
    _add_items(score)
    _add_server(score)

    recommend = _add_command(commands, "recommend", "the best items for a user", f"{_FEATURES}\n{_FILTERS}")
    _add_user(recommend)
    _add_selection(recommend)
    _add_server(recommend)


def run(args: argparse.Namespace) -> int:
    """Runs the command of the parsed arguments; the exit code. Raises UsageError or QueryFailed."""
    tls = None
    if args.tls or args.root_certificates:
        tls = twotower.Tls(root_certificates=args.root_certificates)
    try:
        with twotower.Client(args.target, timeout_s=args.timeout_s, tls=tls) as client:
            _COMMANDS[args.query](client, args)
    except UnicodeEncodeError:
        raise UsageError("a text in the arguments is not UTF-8") from None
    except twotower.TwoTowerError as error:
        advice = _advice(error, args.target)
        raise QueryFailed(f"{error}\n{advice}" if advice else str(error)) from error
    return ExitCode.OK


def _user(client: twotower.Client, args: argparse.Namespace) -> None:
    query_output.show_user(client.get_user_embedding(_user_of(args), release=args.release), args.json)


def _item(client: twotower.Client, args: argparse.Namespace) -> None:
    item_ids, features = _item_ids(args), _features_of(args)
    if bool(item_ids) == bool(features):
        raise UsageError("give either stored items, such as --item i1, or features of a new one: --feature price=9.5")
    items = [_checked(twotower.item, "", features)] if features else []
    embeddings = client.batch_get_item_embeddings(item_ids, items=items, release=args.release)
    embeddings.raise_for_problems()
    query_output.show_items(embeddings, item_ids, args.json)


def _score(client: twotower.Client, args: argparse.Namespace) -> None:
    user, item_ids = _user_of(args), _item_ids(args)
    if not item_ids:
        raise UsageError("name the items to score: --items i1,i2 or --item i1")
    query_output.show_scores(client.score(user, item_ids, release=args.release), args.json)


def _recommend(client: twotower.Client, args: argparse.Namespace) -> None:
    recommendations = client.recommend(
        _user_of(args),
        args.k,
        filter=twotower.all_of(*args.filter) if args.filter else None,
        exclude_item_ids=[item_id for ids in args.exclude for item_id in ids],
        return_attributes=args.attribute,
        release=args.release,
    )
    query_output.show_recommendations(recommendations, args.attribute, args.json)


_COMMANDS = {"user": _user, "item": _item, "score": _score, "recommend": _recommend}


def _add_command(commands: Any, name: str, summary: str, syntax: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"Show {summary}.",
        epilog=f"{syntax}\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _add_user(parser: argparse.ArgumentParser) -> None:
    _add_features(parser, "user")
    parser.add_argument("--user-id", default="", metavar="ID", help="the user's id (default: anonymous)")


def _add_features(parser: argparse.ArgumentParser, entry: str) -> None:
    parser.add_argument(
        "--feature",
        action="append",
        default=[],
        type=_argument(parse_feature),
        metavar="NAME=VALUE",
        help=f"a feature of the {entry}; can be repeated; see below",
    )
    parser.add_argument(
        "--features-json",
        type=_argument(_features_json),
        default={},
        metavar="JSON|@FILE",
        help=f"features of the {entry} as a JSON object; see below",
    )


def _add_items(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--item", action="append", default=[], metavar="ID", help="an item; can be repeated")
    parser.add_argument(
        "--items", action="append", default=[], type=_ids, metavar="ID,ID", help="items, separated by commas"
    )


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--k", type=_argument(_k), default=10, help="how many items (default: 10)")
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        type=_argument(parse_condition),
        metavar="CONDITION",
        help="only items with such attributes; can be repeated; see below",
    )
    parser.add_argument(
        "--exclude", action="append", default=[], type=_ids, metavar="ID,ID", help="leave these items out"
    )
    parser.add_argument(
        "--attribute", action="append", default=[], metavar="NAME", help="show this attribute, such as title"
    )


def _add_server(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server and output")
    group.add_argument(
        "--target", default="localhost:50051", metavar="HOST:PORT", help="the server (default: localhost:50051)"
    )
    group.add_argument("--release", help="ask this release (default: the active one)")
    group.add_argument(
        "--timeout-s",
        type=_argument(_seconds),
        default=5.0,
        metavar="SECONDS",
        help="for the whole call (default: 5)",
    )
    group.add_argument("--tls", action="store_true", help="connect by TLS")
    group.add_argument(
        "--root-certificates",
        type=_argument(_file),
        metavar="FILE",
        help="connect by TLS and trust these authorities (PEM)",
    )
    group.add_argument("--json", action="store_true", help="print one JSON document instead of a table")


def _user_of(args: argparse.Namespace) -> twotower.v1.User:
    features = _features_of(args)
    if not features and not args.user_id:
        raise UsageError(
            "describe the user, such as --feature age=34 --feature gender=f, or by --features-json;"
            f" `twotower query {args.query} --help` says more"
        )
    return _checked(twotower.user, args.user_id, features)


def _features_of(args: argparse.Namespace) -> dict[str, twotower.FeatureValue]:
    features: dict[str, twotower.FeatureValue] = dict(args.features_json)
    for name, value in args.feature:
        if name in features:
            raise UsageError(f"feature {name} is given twice; a list is written as '{name}=a|b'")
        features[name] = value
    return features


def _checked(make: Callable[..., Parsed], entry_id: str, features: Mapping[str, twotower.FeatureValue]) -> Parsed:
    """A user or an item; a value that is no feature is wrong usage."""
    try:
        return make(entry_id, features)
    except UnicodeEncodeError:  # `run` words it, here as in the other arguments
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def _item_ids(args: argparse.Namespace) -> list[str]:
    return [*args.item, *(item_id for ids in args.items for item_id in ids)]


def _argument(parse: Callable[[str], Parsed]) -> Callable[[str], Parsed]:
    """The parser of an argument, whose own message is shown: argparse hides that of a ValueError."""

    def parsed(text: str) -> Parsed:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        except OSError as error:
            raise argparse.ArgumentTypeError(f"{error.filename} cannot be read: {error.strerror}") from error

    return parsed


def _features_json(text: str) -> dict[str, Any]:
    try:
        features = json.loads(Path(text[1:]).read_bytes() if text.startswith("@") else text)
    except ValueError as error:
        raise ValueError(f"is no JSON: {error}") from error
    if not isinstance(features, dict):
        raise ValueError('must be an object of features, such as {"age": 34}')
    return features


def _file(path: str) -> bytes:
    return Path(path).read_bytes()


def _ids(text: str) -> list[str]:
    return [item_id for item_id in text.split(",") if item_id]


def _k(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and 0 < int(text) <= _MAX_K):
        raise ValueError(f"must be a whole number from 1 to {_MAX_K}, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ValueError(f"must be more than 0 seconds, not {text!r}")
    return seconds


def _advice(error: twotower.TwoTowerError, target: str) -> str:
    """What to do, where the server's own message cannot say it."""
    match error:
        case twotower.Unavailable(reason=twotower.ErrorReason.UNSPECIFIED):
            return (
                f"No server was reached at {target}. Start one by `twotower serve` or `twotower demo`, or name another"
                " by --target HOST:PORT. One that speaks TLS needs --tls, or --root-certificates where its authority"
                " is not a public one."
            )
        case twotower.Unavailable():
            return "The server is not ready; try again in a moment."
        case twotower.Overloaded():
            return "The server has too much to do; try again in a moment."
        case twotower.DeadlineExceeded():
            return "Give the call more time by --timeout-s, or ask for less."
        case twotower.ResourceExhausted():
            return "Ask for fewer items in one call."
        case twotower.Unimplemented():
            return f"The server at {target} is no twotower server, or one of an older version."
        case twotower.InternalError():
            return "This is a bug in the server; its log says more."
    return ""

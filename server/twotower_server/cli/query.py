"""`twotower query`: ask a running server from the shell, through the Python client."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import twotower
from twotower_server.cli import query_output
from twotower_server.cli.query_syntax import parse_condition, parse_feature

_FEATURES = """\
features:
  --feature age=34                 a number (the server reads age as user_age)
  --feature gender=f               a text; --feature 'zip="10115"' is a text, too
  --feature 'recent_clicks=i7|i9'  a list of texts; a list of one ends with a bar: 'recent_clicks=i7|'
  --features-json '{"age": 34, "interest": {"sport": 0.8}}', or --features-json @user.json
"""

_FILTERS = """\
filters (each --filter must hold):
  --filter 'price<20'              also <= > >= on numbers
  --filter 'category=books|film'   one of these
  --filter in_stock=true
  --filter '!category=books'       not; an item without the attribute never matches, negated or not
  --filter 'year="1999"'           a text that looks like a number
"""

_EXIT_CODES = "exit codes: 0 answered, 1 refused or no server (the reason is on standard error), 2 wrong usage"


class _UsageError(Exception):
    """Arguments that do not go together."""


def add_parser(subparsers: Any) -> None:
    """Add `query` and its commands to the subparsers of `twotower`."""
    parser = subparsers.add_parser(
        "query", help="ask a running server", description="Ask a running server.", epilog=_EXIT_CODES
    )
    commands = parser.add_subparsers(dest="query", required=True, metavar="COMMAND")

    user = _add_command(commands, "user", "the embedding of a user", _FEATURES)
    _add_user(user)

    item = _add_command(commands, "item", "embeddings of items, stored or computed from features", _FEATURES)
    _add_items(item)
    _add_features(item)

    score = _add_command(commands, "score", "scores of items for a user, best first", _FEATURES)
    _add_user(score)
    _add_items(score)

    recommend = _add_command(commands, "recommend", "the best items for a user", f"{_FEATURES}\n{_FILTERS}")
    _add_user(recommend)
    recommend.add_argument("--k", type=_positive, default=10, help="how many items (default: 10)")
    recommend.add_argument(
        "--filter", action="append", default=[], type=_condition, metavar="CONDITION", help="see below"
    )
    recommend.add_argument(
        "--exclude", action="append", default=[], type=_ids, metavar="ID,ID", help="leave these items out"
    )
    recommend.add_argument(
        "--attribute", action="append", default=[], metavar="NAME", help="show this attribute, such as title"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command of the parsed arguments; the exit code."""
    try:
        tls = twotower.Tls.from_files(root_certificates=args.root_certificates) if args.tls else None
        with twotower.Client(args.target, timeout_s=args.timeout_s, tls=tls) as client:
            return _COMMANDS[args.query](client, args)
    except (_UsageError, OSError, TypeError, ValueError) as error:
        print(f"twotower query {args.query}: error: {error}", file=sys.stderr)
        return 2
    except twotower.TwoTowerError as error:
        print(f"twotower query {args.query}: {error}", file=sys.stderr)
        advice = _advice(error, args.target)
        if advice:
            print(advice, file=sys.stderr)
        return 1


def _user(client: twotower.Client, args: argparse.Namespace) -> int:
    embedding = client.get_user_embedding(_user_of(args), release=args.release)
    query_output.show_user(embedding, args.json)
    return 0


def _item(client: twotower.Client, args: argparse.Namespace) -> int:
    item_ids, features = _item_ids(args), _features_of(args)
    if bool(item_ids) == bool(features):
        raise _UsageError("name stored items (--item, --items) or the features of a new one (--feature)")
    items = [twotower.item("", features)] if features else []
    embeddings = client.batch_get_item_embeddings(item_ids, items=items, release=args.release)
    embeddings.raise_for_problems()
    query_output.show_items(embeddings, item_ids, args.json)
    return 0


def _score(client: twotower.Client, args: argparse.Namespace) -> int:
    item_ids = _item_ids(args)
    if not item_ids:
        raise _UsageError("name the items to score: --items i1,i2 or --item i1")
    scores = client.score(_user_of(args), item_ids, release=args.release)
    query_output.show_scores(scores, args.json)
    return 0


def _recommend(client: twotower.Client, args: argparse.Namespace) -> int:
    recommendations = client.recommend(
        _user_of(args),
        args.k,
        filter=twotower.all_of(*args.filter) if args.filter else None,
        exclude_item_ids=[item_id for ids in args.exclude for item_id in ids],
        return_attributes=args.attribute,
        release=args.release,
    )
    query_output.show_recommendations(recommendations, args.attribute, args.json)
    return 0


_COMMANDS = {"user": _user, "item": _item, "score": _score, "recommend": _recommend}


def _add_command(commands: Any, name: str, summary: str, syntax: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"Show {summary}.",
        epilog=f"{syntax}\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--target", default="localhost:50051", help="the server (default: localhost:50051)")
    parser.add_argument("--release", help="pin the call to this release (default: the server routes it)")
    parser.add_argument(
        "--timeout-s", type=_seconds, default=5.0, metavar="SECONDS", help="for the whole call (default: 5)"
    )
    parser.add_argument("--tls", action="store_true", help="connect by TLS")
    parser.add_argument(
        "--root-certificates", type=Path, metavar="FILE", help="with --tls: PEM of the authorities to trust"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    return parser


def _add_user(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--user-id", default="", metavar="ID", help="the user (default: anonymous)")
    _add_features(parser)


def _add_features(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--feature", action="append", default=[], type=_feature, metavar="NAME=VALUE", help="see below")
    parser.add_argument("--features-json", type=_features_json, default={}, metavar="JSON|@FILE", help="see below")


def _add_items(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--item", action="append", default=[], metavar="ID", help="an item; repeatable")
    parser.add_argument(
        "--items", action="append", default=[], type=_ids, metavar="ID,ID", help="items, separated by commas"
    )


def _user_of(args: argparse.Namespace) -> twotower.v1.User:
    features = _features_of(args)
    if not args.user_id and not features:
        raise _UsageError("describe the user: --feature age=34, --features-json or --user-id")
    return twotower.user(args.user_id, features)


def _features_of(args: argparse.Namespace) -> dict[str, twotower.FeatureValue]:
    features: dict[str, twotower.FeatureValue] = dict(args.features_json)
    for name, value in args.feature:
        if name in features:
            raise _UsageError(f"feature {name} is given twice")
        features[name] = value
    return features


def _item_ids(args: argparse.Namespace) -> list[str]:
    return [*args.item, *(item_id for ids in args.items for item_id in ids)]


def _feature(text: str) -> tuple[str, float | str | list[str]]:
    try:
        return parse_feature(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _condition(text: str) -> twotower.v1.Condition:
    try:
        return parse_condition(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _features_json(text: str) -> Mapping[str, Any]:
    try:
        features = json.loads(Path(text[1:]).read_bytes() if text.startswith("@") else text)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"cannot be read: {error}") from error
    if not isinstance(features, dict):
        raise argparse.ArgumentTypeError('must be an object of features, such as {"age": 34}')
    return features


def _ids(text: str) -> Sequence[str]:
    return [item_id for item_id in text.split(",") if item_id]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"must be more than 0 seconds, not {text!r}")
    return seconds


def _advice(error: twotower.TwoTowerError, target: str) -> str:
    """What to do, where the server's own message cannot say it."""
    match error:
        case twotower.Unavailable(reason=twotower.ErrorReason.UNSPECIFIED):
            return (
                f"No server answers at {target}. Start one with `twotower serve --releases DIR --listen {target}`,"
                " or name another by --target (with --tls where it speaks TLS)."
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

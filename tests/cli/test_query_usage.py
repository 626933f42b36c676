"""What `twotower query` says when a server refuses, when it is used wrongly, and when one asks for help."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import twotower
from tests.cli.conftest import Query
from twotower_server.cli.exit_code import ExitCode
from twotower_server.cli.main import main
from twotower_server.cli.query import _advice

USER = ("--feature", "age=34", "--feature", "gender=f")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("user", "--feature", "shoe_size=42"), "NO_KNOWN_FEATURE: "),
        (("user", "--user-id", "u1"), "FIELD_REQUIRED: the user has no features"),
        (("user", "--feature", "age=old"), "FEATURE_TYPE: user_age"),
        (("user", "--feature", "age=1e999"), "VALUE_NOT_FINITE: "),
        (("item", "--feature", "colour=red"), "NO_KNOWN_FEATURE: items[0].features: "),
        (("user", *USER, "--user-id", "x" * 600), "LIMIT_EXCEEDED: user_id is longer than 512 bytes"),
        (("recommend", *USER, "--k", "10001"), "LIMIT_EXCEEDED: 10001 k, at most 10000"),
        (("recommend", *USER, "--filter", "colour=red"), "FILTER_INVALID: the catalog has no attribute 'colour'"),
        (("recommend", *USER, "--filter", "price=cheap"), "FILTER_INVALID: the attribute 'price' is of kind number"),
        (("recommend", *USER, "--attribute", "colour"), "FILTER_INVALID: the catalog has no attribute 'colour'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refusal_is_shown_with_its_reason(query: Query, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = query(*arguments)
    assert (code, out) == (ExitCode.FAILED, "")
    assert err.startswith(f"twotower query: {said}") and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (twotower.Unavailable("x"), "No server was reached at host:1"),
        (twotower.Unavailable("x", reason=twotower.ErrorReason.NOT_READY), "try again in a moment"),
        (twotower.Overloaded("x", reason=twotower.ErrorReason.OVERLOADED), "try again in a moment"),
        (twotower.DeadlineExceeded("x"), "--timeout-s"),
        (twotower.ResourceExhausted("x"), "fewer items"),
        (twotower.Unimplemented("x"), "no twotower server"),
        (twotower.InternalError("x"), "bug in the server"),
        (twotower.InvalidRequest("x"), ""),
        (twotower.NotFound("x"), ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_advice_where_the_server_cannot_give_it(error: twotower.TwoTowerError, advice: str) -> None:
    said = _advice(error, "host:1")
    assert advice in said and bool(said) == bool(advice)


def test_a_server_that_is_silent(query: Query, silent_target: str) -> None:
    code, _, err = query("user", *USER, "--timeout-s", "0.2", target=silent_target)
    assert code == ExitCode.FAILED and "DEADLINE_EXCEEDED" in err and "--timeout-s" in err


# ---- wrong usage


@pytest.mark.parametrize("command", ["user", "score", "recommend"])
def test_a_bare_command_says_what_it_needs(query: Query, command: str) -> None:
    code, out, err = query(command)
    assert (code, out) == (ExitCode.USAGE, "")
    assert err.startswith("twotower query: describe the user, such as --feature age=34 ")
    assert f"`twotower query {command} --help`" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("item",), "give either stored items, such as --item i1, or features of a new one"),
        (("item", "--item", "i1", "--feature", "price=3"), "give either stored items"),
        (("item", "--items", ",,"), "give either stored items"),
        (("score", *USER), "name the items to score: --items i1,i2 or --item i1"),
        (("user", *USER, "--feature", "age=35"), "feature age is given twice"),
        (("user", *USER, "--features-json", '{"age": 35}'), "feature age is given twice"),
        (("user", "--feature", "age"), "'age' is no feature; write NAME=VALUE"),
        (("user", "--feature", "age="), "'age=' has an empty value"),
        (("user", "--features-json", '{"age": '), "--features-json: is no JSON: "),
        (("user", "--features-json", "[34]"), 'must be an object of features, such as {"age": 34}'),
        (("user", "--features-json", "@/nowhere/user.json"), "/nowhere/user.json cannot be read: No such file"),
        (("user", "--features-json", '{"interest": {"sport": "much"}}'), "feature 'interest' is a bag of names"),
        (("user", "--features-json", '{"id": 12345678901234567890}'), "send it as text"),
        (("user", "--features-json", '{"gender": "\\ud800"}'), "a text in the arguments is not UTF-8"),
        (("user", *USER, "--root-certificates", "/nowhere.pem"), "/nowhere.pem cannot be read: No such file"),
        (("user", *USER, "--timeout-s", "0"), "must be more than 0 seconds, not '0'"),
        (("user", *USER, "--timeout-s", "nan"), "must be more than 0 seconds, not 'nan'"),
        (("user", *USER, "--timeout-s", "soon"), "must be more than 0 seconds, not 'soon'"),
        (("recommend", *USER, "--k", "0"), "must be a whole number from 1 to 4294967295, not '0'"),
        (("recommend", *USER, "--k", "-1"), "must be a whole number from 1"),
        (("recommend", *USER, "--k", "4294967296"), "must be a whole number from 1"),
        (("recommend", *USER, "--k", "ten"), "must be a whole number from 1"),
        (("recommend", *USER, "--filter", "price"), "'price' is no condition; write 'price<20'"),
        (("recommend", *USER, "--filter", "price==20"), "there is no =="),
        (("recommend", *USER, "--filters", "price<20"), "unrecognized arguments"),
        (("everything",), "invalid choice: 'everything'"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, tuple) else "",
)
def test_wrong_usage(query: Query, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = query(*arguments)
    assert (code, out) == (ExitCode.USAGE, "")
    assert said in err and "Traceback" not in err


def test_query_alone_names_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["query"])
    assert stopped.value.code == ExitCode.USAGE
    assert "usage: twotower query [-h] {user,item,score,recommend}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["user", "item", "score", "recommend"])
def test_help(query: Query, command: str) -> None:
    code, out, _ = query(command, "--help")
    assert code == ExitCode.OK
    for text in ("--feature NAME=VALUE", "--target HOST:PORT", "--json", "features:", "exit codes: 0 answered"):
        assert text in out
    assert ("filters (each --filter must hold):" in out) == (command == "recommend")
    assert all(len(line) <= 120 for line in out.splitlines())


def test_examples_of_the_help_are_understood(query: Query, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example of `query --help`, on this server."""
    monkeypatch.chdir(tmp_path)
    Path("user.json").write_text('{"age": 34}')
    examples = re.findall(r"^  twotower query (.*)", query("--help")[1], re.MULTILINE)
    assert len(examples) == 4
    for example in examples:
        code, out, err = query(*shlex.split(example))
        assert (code, err) == (ExitCode.OK, "") and out


@pytest.mark.parametrize("command", ["user", "item", "recommend"])
def test_features_and_filters_of_the_help_are_understood(
    query: Query, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the help shows as a feature or filter can be typed as it stands there."""
    monkeypatch.chdir(tmp_path)
    Path("user.json").write_text('{"age": 34}')
    known = ["--feature", "price=3"] if command == "item" else ["--feature", "hour=3"]
    syntax = query(command, "--help")[1].partition("\nfeatures:\n")[2]
    lines = re.findall(r"^  (--f\S+ (?:'[^']*'|\S+))", syntax, re.MULTILINE)
    assert len(lines) == (10 if command == "recommend" else 5)
    for line in lines:
        code, _, err = query(command, *known, *shlex.split(line))
        assert (code, err) == (ExitCode.OK, ""), line

"""`twotower`: finds the command, imports it alone, and turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from twotower_server.cli import exit_code
from twotower_server.cli.exit_code import ExitCode
from twotower_server.errors import ExtraMissing, TwoTowerError


@dataclass(frozen=True, slots=True)
class Command:
    """A command: module `twotower_server.cli.<name>` with `add_parser(subparsers)` and `run(args) -> int`.

    needs:       modules that the base installation lacks, and `extra` brings.
    environment: variables that its module needs set when it is imported; those of the caller win.
    """

    name: str
    help: str
    extra: str
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


_SERVER = ("faiss", "grpc_health", "grpc_reflection", "onnxruntime", "pyarrow", "rich", "uvloop", "xxhash")

COMMANDS = (
    Command("serve", "serve the active release by gRPC", "server", _SERVER),
    Command("release", "build, inspect, verify and activate releases", "server", _SERVER),
    Command("items", "write item vectors of a release to Redis", "server", (*_SERVER, "redis")),
    Command("users", "write vectors of users to the servers' cache", "server", (*_SERVER, "redis")),
    Command("train", "train the towers of a model", "train", (*_SERVER, "torch", "onnx", "onnxscript")),
    # gRPC would log every connection that fails to standard error; the command says it in one line.
    Command("query", "ask a running server", "server", ("rich",), {"GRPC_VERBOSITY": "NONE"}),
    Command("demo", "build the demo release and serve it", "server", _SERVER),
)


class _Version(argparse.Action):
    """Prints the version, which is imported only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from twotower import __version__

        print(f"twotower {__version__}")
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that `arguments` (default: the process's) name; the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # The command must come first but for -h and --version, so its module is known before anything is parsed.
    command = next((command for command in COMMANDS if arguments[:1] == [command.name]), None)
    program = f"twotower {command.name}" if command else "twotower"
    try:
        module = _import(command) if command else None
        parser = _parser(command, module)
        args = parser.parse_args(arguments)
        code = int(module.run(args)) if module else _nothing_named(parser)
        sys.stdout.flush()
        return code
    except TwoTowerError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return exit_code.of(error)
    except BrokenPipeError:
        # Who read the output has gone, as `head` does. Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def _import(command: Command) -> Any:
    """The command's module. Raises ExtraMissing."""
    for name in command.needs:
        if not _installed(name):
            raise ExtraMissing(f'needs {name}: pip install "twotower[{command.extra}]"')
    for name, value in command.environment.items():
        os.environ.setdefault(name, value)
    return importlib.import_module(f"twotower_server.cli.{command.name}")


def _parser(command: Command | None, module: Any) -> argparse.ArgumentParser:
    codes = "\n".join(f"  {code.value:<4} {text}" for code, text in exit_code.DESCRIPTION.items())
    parser = argparse.ArgumentParser(
        prog="twotower",
        description="Two-tower recommendation models, served by gRPC. See also `twotower COMMAND --help`.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for other in COMMANDS:
        if other is command:
            module.add_parser(subparsers)
        else:
            subparsers.add_parser(other.name, help=other.help, add_help=False)
    return parser


def _nothing_named(parser: argparse.ArgumentParser) -> int:
    parser.print_help(sys.stderr)
    return ExitCode.USAGE


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


if __name__ == "__main__":
    sys.exit(main())

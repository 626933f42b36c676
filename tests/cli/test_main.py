"""`twotower`: finding commands, and what goes wrong before one runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from twotower_server.cli import exit_code, main
from twotower_server.cli.exit_code import ExitCode
from twotower_server.config import ConfigError
from twotower_server.errors import ReleaseRefused, StoreRefused, StoreUnavailable, TwoTowerError
from twotower_server.supervisor.errors import NoRelease, PortTaken, WorkerFailed

# Imports of the server and of training, which `twotower --help` must do without.
HEAVY = ("grpc", "faiss", "numpy", "onnxruntime", "pyarrow", "torch", "twotower")


def run(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    command = code or "import sys; from twotower_server.cli.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", command, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_help_names_every_command_and_exit_code() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    for command in main.COMMANDS:
        assert f"    {command.name} " in shown.stdout
    for code in ExitCode:
        assert f"  {code.value:<4} {exit_code.DESCRIPTION[code]}" in shown.stdout


def test_help_imports_no_command() -> None:
    shown = run(
        "--help",
        code="import sys; from twotower_server.cli.main import main\n"
        "try: main()\n"
        f"finally: print([name for name in {HEAVY} if name in sys.modules])",
    )
    assert shown.stdout.endswith("[]\n")


def test_a_command_that_is_not_there() -> None:
    refused = run("srve")
    assert refused.returncode == ExitCode.USAGE
    assert "invalid choice: 'srve'" in refused.stderr


def test_no_command_shows_the_help() -> None:
    shown = run()
    assert shown.returncode == ExitCode.USAGE
    assert "usage: twotower" in shown.stderr


def test_version() -> None:
    import twotower

    shown = run("--version")
    assert (shown.returncode, shown.stdout) == (0, f"twotower {twotower.__version__}\n")


@pytest.mark.parametrize("command", main.COMMANDS, ids=lambda command: command.name)
def test_a_missing_extra_is_named(
    command: main.Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "_installed", lambda module: module != command.needs[-1])
    assert main.main([command.name, "--help"]) == ExitCode.EXTRA_MISSING
    error = capsys.readouterr().err
    assert f'needs {command.needs[-1]}: pip install "twotower[{command.extra}]"' in error


def test_modules_that_are_needed_are_those_of_the_extra() -> None:
    # A name that no package brings would make the command unusable.
    for command in main.COMMANDS:
        if command.extra == "server":
            assert all(main._installed(name) for name in command.needs)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (ReleaseRefused("x"), 3),
        (PortTaken("x"), 4),
        (NoRelease("x"), 5),
        (StoreUnavailable("x"), 7),
        (StoreRefused("x"), 8),
        (WorkerFailed("x"), 1),
        (TwoTowerError("x"), 1),
    ],
)
def test_exit_codes_of_errors(error: TwoTowerError, code: int) -> None:
    assert exit_code.of(error) == code


def test_a_command_refuses_with_one_line() -> None:
    refused = run("serve", "--releases", "nowhere", "--workers", "none")
    assert refused.returncode == ExitCode.USAGE
    assert refused.stderr == "twotower serve: --workers: must be a whole number from 1 to 256, not 'none'\n"
    assert refused.stdout == ""


def test_help_of_serve_documents_every_option_and_its_default() -> None:
    from twotower_server.config import OPTIONS, flag

    shown = " ".join(run("serve", "--help").stdout.split())
    for option in OPTIONS:
        assert flag(option.name) in shown
        assert option.metadata["help"] in shown.replace("- ", "-")
    assert "(default: :50051)" in shown
    assert "exit codes:" in shown

"""Exit codes of every command, and THE table that turns an error into one."""

from __future__ import annotations

from enum import IntEnum

from twotower_server.config import ConfigError
from twotower_server.errors import ExtraMissing, ReleaseRefused, StoreRefused, StoreUnavailable, TwoTowerError
from twotower_server.supervisor.errors import NoRelease, PortTaken


class UsageError(TwoTowerError):
    """Arguments that a command cannot use; the message says which, and what to write."""


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    USAGE = 2
    RELEASE_REFUSED = 3
    PORT_TAKEN = 4
    NO_RELEASE = 5
    EXTRA_MISSING = 6
    STORE_UNAVAILABLE = 7
    STORE_REFUSED = 8
    INTERRUPTED = 130  # as shells have it: 128 + SIGINT


DESCRIPTION = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "failed; the reason is on standard error",
    ExitCode.USAGE: "wrong usage or configuration",
    ExitCode.RELEASE_REFUSED: "a release, or what it is built from, disagrees with itself",
    ExitCode.PORT_TAKEN: "the port belongs to another program",
    ExitCode.NO_RELEASE: "there is no release to serve",
    ExitCode.EXTRA_MISSING: "a part of the package is not installed",
    ExitCode.STORE_UNAVAILABLE: "Redis does not answer; try again",
    ExitCode.STORE_REFUSED: "Redis cannot be used as it is: login, rights, memory, version",
    ExitCode.INTERRUPTED: "interrupted",
}

_CODES: dict[type[TwoTowerError], ExitCode] = {
    ConfigError: ExitCode.USAGE,
    UsageError: ExitCode.USAGE,
    ReleaseRefused: ExitCode.RELEASE_REFUSED,
    PortTaken: ExitCode.PORT_TAKEN,
    NoRelease: ExitCode.NO_RELEASE,
    ExtraMissing: ExitCode.EXTRA_MISSING,
    StoreUnavailable: ExitCode.STORE_UNAVAILABLE,
    StoreRefused: ExitCode.STORE_REFUSED,
}


def of(error: TwoTowerError) -> ExitCode:
    """The exit code for an error."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), ExitCode.FAILED)

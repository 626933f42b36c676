"""Why a server does not start, or ends.

TwoTowerError
├── PortTaken       another program, or another twotower server, has the port
├── NoRelease       there is no release to serve
└── WorkerFailed    workers end again and again
"""

from __future__ import annotations

from twotower_server.errors import TwoTowerError


class PortTaken(TwoTowerError):
    """The port belongs to another program."""


class NoRelease(TwoTowerError):
    """No release is active, or the active one is not there."""


class WorkerFailed(TwoTowerError):
    """A process of the server ends again and again; the message has the last reason."""

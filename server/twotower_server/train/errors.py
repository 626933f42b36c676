"""What training itself can fail with; configuration and tables have errors of their own."""

from __future__ import annotations

from twotower_server.errors import TwoTowerError


class TrainingFailed(TwoTowerError):
    """The data was read, but no model worth writing came of it; the message says why and what to do."""

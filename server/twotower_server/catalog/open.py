"""The log of changes that the configuration names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twotower_server.catalog.log import Log
from twotower_server.config import Config

if TYPE_CHECKING:
    from twotower_server.catalog.shared_log import SharedLog


def open_shared_log(config: Config, copy: Log) -> SharedLog | None:
    """The log that servers share, with its copy on this machine; None when the log is this server's own."""
    if config.change_log != "redis":
        return None
    assert config.redis is not None
    # redis-py takes 9 MB and 0.2 s: only where it is used.
    from twotower_server.catalog.redis_log import RedisLog
    from twotower_server.catalog.shared_log import SharedLog

    redis = RedisLog(config.redis, config.redis_ca, config.redis_prefix, config.change_log_replicas)
    return SharedLog(copy, redis)

"""A process that appends entries to a log in Redis: append_entries.py URL NAME COUNT.

Prints the position of every entry.
"""

from __future__ import annotations

import secrets
import sys

from twotower_server.catalog.redis_log import RedisLog


def main(url: str, name: str, count: int) -> None:
    log = RedisLog(url, None, "twotower:")
    for i in range(count):
        print(log.append(f"{name}-{i}".encode(), 2, 0, secrets.randbits(64)), flush=True)
    log.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

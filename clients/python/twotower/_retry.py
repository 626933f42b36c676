"""When a failed call is tried again, and after how long.

Reads may be sent again, and so may LoadRelease, which does nothing the second time. Calls that switch
releases or split the traffic are sent once; `_releases.py` says why. Tried again are UNAVAILABLE (no server,
or one that is starting or draining) and RESOURCE_EXHAUSTED whose reason is OVERLOADED; gRPC itself uses the
latter status for messages over its size limit, which would fail for ever. gRPC's own retries are switched off
(`_channel.py`): two layers of retries multiply the load just when a server has too much of it.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from twotower._errors import Overloaded, TwoTowerError, Unavailable


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter: the n-th wait is uniform in [0, min(max, initial ·
    multiplier^n)].

    attempts:          at most this many, the first included; 1 = never again.
    initial_backoff_s: the bound of the first wait, in seconds.
    max_backoff_s:     the bound of every later wait, in seconds.
    multiplier:        how fast the bound grows.

    A wait that the server asks for (`google.rpc.RetryInfo`) is added before the jitter. A wait that would
    reach the call's deadline is not begun: the last error is raised instead.
    """

    attempts: int = 4
    initial_backoff_s: float = 0.025
    max_backoff_s: float = 1.0
    multiplier: float = 2.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError("RetryPolicy.attempts counts the first attempt: at least 1")
        if self.initial_backoff_s < 0 or self.max_backoff_s < self.initial_backoff_s or self.multiplier < 1:
            raise ValueError("RetryPolicy needs 0 <= initial_backoff_s <= max_backoff_s and multiplier >= 1")


class Deadline:
    """The end of one call, shared by all its attempts."""

    def __init__(self, timeout_s: float, now: Callable[[], float] = time.monotonic) -> None:
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be more than 0 seconds (math.inf: no deadline), not {timeout_s}")
        self._now = now
        self._end = now() + timeout_s

    def remaining_s(self) -> float | None:
        """Seconds left, at least 0; None when there is no deadline."""
        return None if math.isinf(self._end) else max(0.0, self._end - self._now())


class Attempts:
    """The attempts of one call: counts them and says how long to wait before the next."""

    def __init__(
        self,
        policy: RetryPolicy,
        deadline: Deadline,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._deadline = deadline
        self._uniform = uniform
        self._failed = 0

    def delay_s(self, error: TwoTowerError) -> float | None:
        """Seconds to wait before the next attempt; None when the error is final."""
        policy = self._policy
        bound_s = min(policy.max_backoff_s, policy.initial_backoff_s * policy.multiplier**self._failed)
        self._failed += 1
        if not isinstance(error, (Unavailable, Overloaded)) or self._failed >= policy.attempts:
            return None
        delay_s = (error.retry_after_s or 0.0) + self._uniform(0.0, bound_s)
        remaining_s = self._deadline.remaining_s()
        return None if remaining_s is not None and delay_s >= remaining_s else delay_s

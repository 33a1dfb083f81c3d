"""Rates of one hub unit as token buckets: how long a request has to wait.

Responsible for: the arithmetic. Not for: what happens to a throttled request (`hub.py`).
"""

from __future__ import annotations

from collections.abc import Callable


class Bucket:
    """`rate` requests a second, bursts of one second's worth; rate 0 means no limit."""

    def __init__(self, rate: float, now: Callable[[], float]) -> None:
        self.rate = rate
        self._now = now
        self._tokens = rate
        self._at = now()

    def take(self, queue: bool = False) -> float:
        """Take one token; return 0, or the seconds until one would be there.

        With `queue` the token is taken all the same: each request waits behind the last one.
        """
        if not self.rate:
            return 0.0
        now = self._now()
        self._tokens = min(self.rate, self._tokens + max(0.0, now - self._at) * self.rate)
        self._at = now
        wait = max(0.0, 1.0 - self._tokens) / self.rate
        if queue or not wait:
            self._tokens -= 1.0
        return wait

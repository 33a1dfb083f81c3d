"""Delays between attempts to connect.

Responsible for: doubling with jitter between two limits, and the first delay spread over a
window that grows with the fleet. Not responsible for: sleeping, or what counts as a failure.

The first retry after a good connection is uniform over the window: when a hub drops a whole
fleet, the devices come back evenly instead of together. Later ones are uniform over the upper
half of a range that doubles up to `maximum_ms`. `random(n)` returns an integer below `n`.

    backoff = Backoff(1000, 300_000, randbelow, window_ms=first_window(10_000))
    delay = backoff.next()
"""

from micropython import const

# A hub unit accepts some 100 new connections per second: a fleet of N needs N / 100 seconds.
_CONNECTIONS_PER_SECOND = const(100)
_MINIMUM_WINDOW_MS = const(1000)
_MAXIMUM_WINDOW_MS = const(1_200_000)


def first_window(fleet_size_hint: int) -> int:
    """Return the milliseconds over which a fleet of that size should come back."""
    window = fleet_size_hint * 1000 // _CONNECTIONS_PER_SECOND
    return min(max(window, _MINIMUM_WINDOW_MS), _MAXIMUM_WINDOW_MS)


class Backoff:
    """A sequence of delays; `reset()` starts it again after a connection that lasted."""

    def __init__(
        self, minimum_ms: int, maximum_ms: int, random: "object", *, window_ms: int = 0
    ) -> None:
        self.minimum_ms = minimum_ms
        self.maximum_ms = maximum_ms
        self.window_ms = window_ms or minimum_ms
        self._random = random
        self.attempts = 0

    def next(self) -> int:
        """Return the next delay in milliseconds."""
        self.attempts += 1
        if self.attempts == 1:
            return self._random(self.window_ms + 1)
        ceiling = self.minimum_ms
        for _ in range(min(self.attempts - 1, 24)):
            ceiling *= 2
            if ceiling >= self.maximum_ms:
                ceiling = self.maximum_ms
                break
        half = ceiling // 2
        return half + self._random(ceiling - half + 1)

    def reset(self) -> None:
        """Forget the failures: the next delay comes from the first window."""
        self.attempts = 0

"""The emulator's wall clock, which a test may move.

Responsible for: what tokens, certificates, message lifetimes and time stamps are judged by.
Not for: timers of connections; those run on the event loop.
"""

from __future__ import annotations

import time


class Clock:
    """Real time plus an offset."""

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time() + self.offset

    def advance(self, seconds: float) -> None:
        """Move the clock forward, or back."""
        self.offset += seconds

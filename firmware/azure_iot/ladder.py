"""When a device blames its clock, its hub or its assignment: the re-provisioning ladder.

Responsible for: turning failed attempts into one of three actions. Not for: carrying them out
(guard.py), delays between attempts (backoff.py), roots (trust/ladder.py).
Source: azure-docs "Device management at scale with DPS", T10.

    ladder.failed(REFUSED, now_s, clock_proven=False)  ->  REPAIR

| failure at the hub | action |
|---|---|
| refused, SAS, clock not proven in this boot | one time repair and one new token, not counted |
| refused (CONNACK 2, 4, 5) after that | register anew at once, then at most every 5 min to 1 h |
| unavailable (CONNACK 3, 5xx) | same hub; the tenth in a row: register anew |
| no connection for 15 to 30 min | register anew |
| throttled | same hub |
| DPS out of reach | asked again before the next attempt |
| the server's chain | never: the trust store has a ladder of its own |
"""

from micropython import const

REFUSED = const(1)
UNAVAILABLE = const(2)
NETWORK = const(3)
THROTTLED = const(4)
TRUST = const(5)

RETRY = const(0)
REPAIR = const(1)
REPROVISION = const(2)

_UNAVAILABLE_LIMIT = const(10)
_OUTAGE_S = const(900)
_PAUSE_S = const(300)
_LONGEST_PAUSE_S = const(3600)


class Ladder:
    """Counts failures; `random(n)` gives an integer below n. Times are seconds that only grow."""

    def __init__(self, random: object) -> None:
        self._random = random
        self.repairs = 0
        self.reprovisions = 0
        self._unavailable = 0
        self._since = None
        self._outage_s = 0
        self._pause_s = 0
        self._not_before = None

    def failed(self, kind: int, now_s: int, *, clock_proven: bool) -> int:
        """Say what to do after a failure of `kind`: RETRY, REPAIR or REPROVISION.

        `clock_proven`: the time was confirmed by a verified server in this boot (T10), or the
        credential does not depend on it.
        """
        if kind != UNAVAILABLE:
            self._unavailable = 0
        if kind == REFUSED:
            self._since = None
            if clock_proven:
                self.repairs = 0  # a clock that is moved after this deserves a repair of its own
            elif not self.repairs:
                self.repairs += 1
                return REPAIR
            return self._reprovision(now_s)
        if kind == UNAVAILABLE:
            self._since = None
            self._unavailable += 1
            if self._unavailable < _UNAVAILABLE_LIMIT:
                return RETRY
            self._unavailable = 0
            return self._reprovision(now_s)
        if kind == NETWORK:
            return self._outage(now_s)
        self._since = None
        return RETRY

    def _outage(self, now_s: int) -> int:
        if self._since is None:
            self._since = now_s
            self._outage_s = _OUTAGE_S + self._random(_OUTAGE_S)
        elif now_s - self._since >= self._outage_s:
            self._since = None
            return self._reprovision(now_s)
        return RETRY

    def _reprovision(self, now_s: int) -> int:
        if self._not_before is not None and now_s < self._not_before:
            return RETRY
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S) if self._pause_s else _PAUSE_S
        # A quarter more or less, so that refused devices spread.
        spread = self._pause_s // 2
        self._not_before = now_s + self._pause_s - spread // 2 + self._random(spread)
        self.reprovisions += 1
        return REPROVISION

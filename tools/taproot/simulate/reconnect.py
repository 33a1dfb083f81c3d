"""A fleet after its hub dropped every connection: who is back when, and who bothers whom.

Responsible for: virtual time and a hub that takes `rate` connections a second. The policies are
the firmware's own pure modules: backoff, ladder, sas. Not for: bytes, sockets, real time.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from azure_iot import sas
from azure_iot.backoff import Backoff, first_window
from azure_iot.errors import ConnectionFailedError
from azure_iot.guard import classify
from azure_iot.ladder import REFUSED, REPAIR, REPROVISION, TRUST, Ladder

MINIMUM_MS, MAXIMUM_MS = 500, 120_000  # the defaults of mqtt/connection.py
DAY_S = 86_400
BURST_S = 1.0  # the hub saves up one second of its rate


@dataclass
class Outcome:
    """Figures of one run."""

    devices: int
    rate: int
    back_99_s: float = 0.0
    back_all_s: float = 0.0
    attempts: int = 0
    registrations: int = 0
    recovery_requests: int = 0
    repairs: int = 0
    renewals: int = 0
    renewal_peak: float = 0.0  # busiest minute over the mean
    clock_runs: dict[str, int] = field(default_factory=dict)

    @property
    def limit_s(self) -> float:
        """99 % must be back by then."""
        return 1.5 * self.devices / self.rate


class Hub:
    """Takes `rate` connections per second; what is over it is refused as unavailable."""

    def __init__(self, rate: int) -> None:
        self.rate, self.room, self.at = rate, rate * BURST_S, 0.0

    def accepts(self, now: float) -> bool:
        """Take one connection, or refuse it."""
        self.room = min(self.rate * BURST_S, self.room + (now - self.at) * self.rate)
        self.at = now
        if self.room < 1:
            return False
        self.room -= 1
        return True


def run(
    devices: int, rate: int, *, life_s: int = 3600, seed: int = 1, cold: bool = False
) -> Outcome:
    """Drop all at time 0; `cold`: they lost power too, so every token is new."""
    found = Outcome(devices, rate)
    back = _reconnect(found, _source(seed), first_window(devices))
    back_sorted = sorted(back)
    found.back_99_s = back_sorted[int(devices * 0.99) - 1]
    found.back_all_s = back_sorted[-1]
    _renew(found, back, life_s, _source(seed + 1), cold)
    for name, proven_by_repair in (("-2 h", True), ("-400 d", True), ("+10 y", True)):
        found.clock_runs[name] = _wrong_clock(devices, _source(seed + 2), proven_by_repair)
    return found


def _source(seed: int) -> random.Random:
    """Repeatable chance: nothing here is a secret."""
    return random.Random(seed)  # noqa: S311


def _reconnect(found: Outcome, source: random.Random, window_ms: int) -> list[float]:
    hub = Hub(found.rate)
    backoffs = [
        Backoff(MINIMUM_MS, MAXIMUM_MS, source.randrange, window_ms=window_ms)
        for _ in range(found.devices)
    ]
    ladders: dict[int, Ladder] = {}
    queue = [(backoff.next() / 1000, number) for number, backoff in enumerate(backoffs)]
    heapq.heapify(queue)
    back = [0.0] * found.devices
    while queue:
        now, number = heapq.heappop(queue)
        found.attempts += 1
        if hub.accepts(now):
            back[number] = now
            continue
        ladder = ladders.setdefault(number, Ladder(source.randrange))
        # What the device sees; its own table says what that is evidence of.
        kind = classify(ConnectionFailedError("CONNACK 3: server unavailable", "connack"))
        found.recovery_requests += kind == TRUST
        action = ladder.failed(kind, int(now), clock_proven=True)
        found.registrations += action == REPROVISION
        heapq.heappush(queue, (now + backoffs[number].next() / 1000, number))
    return back


def _renew(
    found: Outcome, back: list[float], life_s: int, source: random.Random, cold: bool
) -> None:
    """Count renewals per minute over the 24 hours after the drop."""
    minutes = [0] * (DAY_S // 60)
    for at in back:
        if cold:
            life = sas.first_life(life_s, source.getrandbits(32))
            due = at + sas.renewal_delay(life * 1000, source.getrandbits(32)) / 1000
        else:
            # A token survives the drop; one that fell due meanwhile was renewed on the way back.
            due = source.random() * sas.renewal_delay(life_s * 1000, source.getrandbits(32)) / 1000
            if due < at:
                due = at + sas.renewal_delay(life_s * 1000, source.getrandbits(32)) / 1000
        while due < DAY_S:
            minutes[int(due) // 60] += 1
            found.renewals += 1
            due += sas.renewal_delay(life_s * 1000, source.getrandbits(32)) / 1000
    if found.renewals:
        found.renewal_peak = max(minutes) / (found.renewals / len(minutes))


def _wrong_clock(devices: int, source: random.Random, repair_works: bool) -> int:
    """Every device boots with a wrong time: the first refusal leads to a repair, not to DPS."""
    registrations = 0
    for _ in range(devices):
        ladder = Ladder(source.randrange)
        proven = False
        for attempt in range(3):
            if proven:
                break
            action = ladder.failed(REFUSED, attempt * 2, clock_proven=proven)
            if action == REPAIR:
                proven = repair_works
            registrations += action == REPROVISION
    return registrations

"""A fleet after its hub dropped every connection: who is back when, and who bothers whom.

Responsible for: the order of events and the figures. The devices, their clocks and the hub are
in world.py. Not for: bytes, sockets, real time.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from azure_iot import sas

from taproot.simulate.world import DAY_S, Device, Hub, World

HOUR_S = 3600
WRONG_CLOCKS = {"-2 h": -2 * HOUR_S, "-400 d": -400 * DAY_S, "+10 y": 3652 * DAY_S}
BOOT_S = 10  # a fleet that lost its power is up again within so many seconds
PATIENCE_S = 2 * HOUR_S  # who is not back so long after the fleet's time counts as away


@dataclass
class Outcome:
    """Figures of one run."""

    devices: int
    rate: int
    hint: int = 0
    back_99_s: float = 0.0
    back_all_s: float = 0.0
    away: int = 0
    attempts: int = 0
    registrations: int = 0
    recovery_requests: int = 0
    refused_tokens: int = 0
    time_repairs: int = 0
    renewals: int = 0
    renewal_peak: float = 0.0  # busiest minute over the mean
    clock_runs: dict[str, Outcome] = field(default_factory=dict)

    @property
    def limit_s(self) -> float:
        """99 % must be back by then."""
        return 1.5 * self.devices / self.rate


def run(
    devices: int,
    rate: int,
    *,
    life_s: int = 3600,
    seed: int = 1,
    cold: bool = False,
    hint: int = 0,
    floor_days: float = 1,
    strict: bool = False,
) -> Outcome:
    """Drop all at time 0; `cold`: they lost power too, so every clock and token is new.

    `hint` is what the devices hold for the fleet's size, 0: its true size. `floor_days`: how old
    the latest time is that a device knows to have passed (up to twice that). `strict`: a refused
    token takes of the hub's rate, too.
    """
    hint = hint or devices
    found = Outcome(devices, rate, hint)
    world = World(Hub(rate, strict), seed, hint=hint, life_s=life_s, floor_days=floor_days)
    due = _reconnect(found, world, cold)
    _renew(found, due, life_s, _source(seed + 1))
    for number, name in enumerate(WRONG_CLOCKS, seed + 2):
        found.clock_runs[name] = boot(
            devices,
            rate,
            name,
            seed=number,
            life_s=life_s,
            hint=hint,
            floor_days=floor_days,
            strict=strict,
        )
    return found


def boot(
    devices: int,
    rate: int,
    wrong: str,
    *,
    life_s: int = 3600,
    seed: int = 3,
    hint: int = 0,
    floor_days: float = 1,
    strict: bool = False,
) -> Outcome:
    """Boot the whole fleet with a time server that is `wrong` by a name of WRONG_CLOCKS."""
    found = Outcome(devices, rate, hint or devices)
    world = World(
        Hub(rate, strict),
        seed,
        hint=found.hint,
        life_s=life_s,
        floor_days=floor_days,
        ntp_error_s=WRONG_CLOCKS[wrong],
    )
    _reconnect(found, world, True)
    return found


def drop(devices: int, rate: int, hint: int, seed: int = 1) -> Outcome:
    """Only drop them, and only see who comes back."""
    found = Outcome(devices, rate, hint)
    _reconnect(found, World(Hub(rate), seed, hint=hint, life_s=HOUR_S), False)
    return found


def _source(seed: int) -> random.Random:
    """Repeatable chance: nothing here is a secret."""
    return random.Random(seed)  # noqa: S311


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Collect garbage at the end only: what is looked through is devices, a third of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


@_uncollected()
def _reconnect(found: Outcome, world: World, cold: bool) -> list[float]:
    """Bring every device back; return when the token of each is due for renewal."""
    devices: dict[int, Device] = {}
    queue = []
    for number in range(found.devices):
        if cold:
            first = world.source.random() * BOOT_S  # a boot does not wait before it connects
        else:
            first = world.source.randrange(world.window_ms + 1) / 1000
        queue.append((first, number))
    heapq.heapify(queue)
    end = found.devices / found.rate + PATIENCE_S
    back: list[float] = []
    due: list[float] = []
    while queue and queue[0][0] < end:
        world.now, number = heapq.heappop(queue)
        found.attempts += 1
        device = devices.pop(number, None) or _woken(world, cold)
        if device.connects():
            back.append(world.now)
            due.append(device.renewal_due)
            continue
        devices[number] = device
        heapq.heappush(queue, (world.now + device.backoff.next() / 1000, number))
    found.away = len(queue)
    back += [end] * found.away
    found.back_99_s = back[int(found.devices * 0.99) - 1]
    found.back_all_s = back[-1]
    found.registrations = world.registrations
    found.recovery_requests = world.recovery_requests
    found.time_repairs = world.time_repairs
    found.refused_tokens = world.hub.refused_tokens
    return due


def _woken(world: World, cold: bool) -> Device:
    """Make a device at its first attempt: until then it needs no memory."""
    device = Device(world, world.now if cold else 0.0)
    if cold:
        device.boots()
    else:
        device.was_connected()
        device.backoff.next()  # the wait that led to this attempt
    return device


def _renew(found: Outcome, due: list[float], life_s: int, source: random.Random) -> None:
    """Count renewals per minute over the 24 hours after the drop."""
    minutes = [0] * (DAY_S // 60)
    for at in due:
        while at < DAY_S:
            minutes[int(at) // 60] += 1
            found.renewals += 1
            at += sas.renewal_delay(life_s * 1000, source.getrandbits(32)) / 1000
    if found.renewals:
        found.renewal_peak = max(minutes) / (found.renewals / len(minutes))

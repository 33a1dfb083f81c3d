"""One virtual world: a hub, a time server that may be wrong, and devices with clocks of their own.

Responsible for: what a device meets on its way to the hub (dates of certificates, CONNACK, the
hub's Date), in virtual time. A device is the firmware's own HubLink, Guard, Ladder, TimeKeeper,
trust/ladder, Recovery, Clock and SAS tokens. Not for: bytes, sockets, flash, real time.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

from azure_iot import credentials, link, log
from azure_iot.backoff import Backoff, first_window
from azure_iot.dates import http_date
from azure_iot.errors import (
    AzureIoTError,
    ClockError,
    ConnectionFailedError,
    CredentialError,
    TrustError,
)
from azure_iot.guard import Guard
from azure_iot.identity import Identity
from azure_iot.timekeeper import TimeKeeper
from azure_iot.tls.profile import TLSProfile
from azure_iot.tls.sessions import Sessions
from azure_iot.trust import ladder as trust_ladder
from azure_iot.trust.recovery import Recovery
from azure_iot.trust.roots import Bundle, Root

# Modules of the device ask the port for its ticks when they are imported; CPython has none.
_TICKS = {
    "ticks_ms": lambda: time.monotonic_ns() // 1_000_000,
    "ticks_diff": lambda later, earlier: later - earlier,
    "ticks_add": lambda ticks, delta: ticks + delta,
}
_NEW = {name: value for name, value in _TICKS.items() if not hasattr(time, name)}
for _name, _value in _NEW.items():
    setattr(time, _name, _value)
from azure_iot.clock import Clock  # noqa: E402
from azure_iot.mqtt.connection import _REFUSALS  # noqa: E402

for _name in _NEW:
    delattr(time, _name)

log.set_level(0)  # thousands of devices
# Nothing is unloaded here: a device has fifty modules to look through, CPython a thousand.
link.Transient = credentials.Transient = contextlib.nullcontext
DAY_S = 86_400
START = 1_800_000_000  # Unix time at which a run begins, in January 2027
MINIMUM_MS, MAXIMUM_MS = 500, 120_000  # the defaults of mqtt/connection.py
_EPOCH = 946_684_800  # where an ESP32's clock begins after a power cut: 2000-01-01
BURST_S = 1.0  # the hub saves up one second of its rate
SERVED = (START - 30 * DAY_S, START + 60 * DAY_S)  # dates of the hub's certificate
LONGEST_TOKEN_S = 365 * DAY_S  # a token that ends later was made by a clock in the future

HUB = Identity("hub.azure-devices.net", "device")
KEY = credentials.SymmetricKey("c2ltdWxhdGVkIGRldmljZXMgc2hhcmUgb25lIGtleSE=")
SERVER_UNAVAILABLE, NOT_AUTHORISED = 3, 5
_KINDS = {SERVER_UNAVAILABLE: ConnectionFailedError, NOT_AUTHORISED: CredentialError}


class Hub:
    """Takes `rate` connections per second and only tokens that are good at its own time.

    Its rate is of connections that are established, as Azure documents it ("IoT Hub quotas and
    throttling"); a `strict` hub counts refused tokens, too.
    """

    def __init__(self, rate: int, strict: bool = False) -> None:
        self.rate, self.room, self.at = rate, rate * BURST_S, 0.0
        self.strict = strict
        self.refused_tokens = 0

    def connack(self, now: float, password: str) -> int:
        """Answer a CONNECT: 0, 3 over the rate, 5 for a token of another time."""
        self.room = min(self.rate * BURST_S, self.room + (now - self.at) * self.rate)
        self.at = now
        if self.room < 1:
            return SERVER_UNAVAILABLE
        left = int(password.partition("&se=")[2].partition("&")[0]) - (START + now)
        good = 0 < left <= LONGEST_TOKEN_S
        self.refused_tokens += not good
        if good or self.strict:
            self.room -= 1
        return 0 if good else NOT_AUTHORISED


class World:
    """What all devices of a run share; `now` is true time in seconds since the drop."""

    def __init__(
        self, hub: Hub, seed: int, *, hint: int, life_s: int, ntp_error_s: int = 0,
        floor_days: float = 1,
    ) -> None:  # fmt: skip
        self.now = 0.0
        self.hub = hub
        self.source = random.Random(seed)  # noqa: S311 (repeatable chance, nothing is a secret)
        self.window_ms = first_window(hint)
        self.life_s = life_s
        self.ntp_error_s = ntp_error_s
        self.floor_days = floor_days
        self.registrations = self.time_repairs = self.recovery_requests = 0

    @property
    def time(self) -> int:
        """True Unix time."""
        return START + int(self.now)


class DeviceClock(Clock):
    """The firmware's clock over virtual time: only who is asked for the time differs."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def unix_time(self) -> int:
        return self._world.time + self._correction

    def set_time(self, unix_seconds: int) -> None:
        self._correction = unix_seconds - self._world.time

    def ticks_ms(self) -> int:
        return int(self._world.now * 1000)

    def ticks_diff(self, later: int, earlier: int) -> int:
        return later - earlier

    def ticks_add(self, ticks: int, delta: int) -> int:
        return ticks + delta


class Trust:
    """A trust manager of one root, in memory; each rule is a function of trust/ladder.py."""

    managed, fleet = True, "simulated"
    _record = Root()
    _record.sha256, _record.uses = b"r" * 32, ("hub", "dps")
    _factory = Bundle()
    _factory.records = [_record.pack()]

    def __init__(self, clock: DeviceClock, floor: int, random: Callable[[int], int]) -> None:
        self.clock = clock
        self.time_repair_wanted = self.exhausted = False
        self.verdicts = self._repairs = 0
        self.first_verdict = self.rootless = self.via = self.in_use = None
        self._rungs: dict[str, list[int]] = {}
        self._previous: list[Any] = []
        state = SimpleNamespace(
            good=None, trial=None, distrust=[], floor=0, tfloor=floor, recovery_at=0, recoveries=0
        )
        factory = SimpleNamespace(build_date=floor, bundle=lambda: self._factory)
        self.store = SimpleNamespace(state=state, factory=factory, previous=list)
        self.store.raise_time_floor = self._raise
        self.recovery = Recovery(self, None, random)

    def _raise(self, unix_seconds: int) -> None:
        self.store.state.tfloor = unix_seconds

    def __getattr__(self, name: str) -> Callable[..., Any]:
        rule = getattr(trust_ladder, name)
        return lambda *args, **named: rule(self, *args, **named)

    def recovery_urls(self) -> list[str]:
        """A device that may ask: what is counted is how often it does."""
        return ["http://recovery.example/trust"]

    def asks_for_recovery(self) -> bool:
        """Tell whether recovery is due, and note the attempt as the device does."""
        if self.recovery.due_ms() != 0:
            return False
        state = self.store.state
        state.recovery_at = self.clock.unix_time() + self.recovery.pause_s(state.recoveries)
        state.recoveries += 1
        return True


class Keeper(TimeKeeper):
    """The firmware's time keeper; its HTTPS request is a look at the hub's certificate and Date."""

    def __init__(self, world: World, clock: DeviceClock, trust: Trust) -> None:
        super().__init__(clock, sync=self._ntp, trust=trust)
        self._world = world

    async def _ntp(self) -> int:
        return self._world.time + self._world.ntp_error_s

    async def confirm(self, host: str, context: object) -> bool:
        self._world.time_repairs += 1
        handshake(self.clock)
        date = http_date(formatdate(self._world.time, usegmt=True))
        assert date is not None
        self.prove(date)
        return True


class Device(link.HubLink):
    """One device from its start at `woken` (seconds since the drop) to CONNACK 0."""

    attempt: Any

    def __init__(self, world: World, woken: float) -> None:
        self.world = world
        chance = world.source.randrange
        world.now, now = woken, world.now
        clock = DeviceClock(world)
        floor = world.time - int(world.floor_days * (1 + world.source.random()) * DAY_S)
        trust = Trust(clock, floor, chance)
        keeper = Keeper(world, clock, trust)
        self.keeper = keeper
        super().__init__(
            HUB, KEY, clock=clock, random32=lambda: world.source.getrandbits(32), trust=trust,
            profile=_PROFILE, sessions=_SESSIONS, sas_life_s=world.life_s,
            guard=lambda: Guard(clock, keeper, chance, reprovision=self._register, trust=True),
        )  # fmt: skip
        self.backoff = Backoff(MINIMUM_MS, MAXIMUM_MS, chance, window_ms=world.window_ms)
        world.now = now

    def boots(self) -> None:
        """Set the clock as the agent does: never below the floor, then what the server says."""
        floor = self.trust.time_floor()
        self.clock.set_time(_EPOCH)
        self.clock.start(floor)
        self.clock.offer(self.world.time + self.world.ntp_error_s, floor)

    def was_connected(self) -> None:
        """Be a device whose time is proven and whose token is somewhere in its life."""
        now = self.world.now
        self.keeper.prove(self.world.time)
        self.issued = 1  # not the first token of its boot
        self.world.now = now - self.world.source.random() * self.world.life_s * 0.7
        finish(self.login())
        self.world.now = now

    def hold(self) -> None:
        """Nothing to hold: no memory is simulated."""

    release = hold

    def context(self, login: bool = False) -> Any:
        """Nothing to make: see `handshake`."""
        return None

    def accepted(self) -> bool:
        """As HubLink, which also unloads the guard's modules."""
        self._guard = None
        return super().accepted()

    async def _register(self) -> Any:
        self.world.registrations += 1
        return SimpleNamespace(hub=HUB.host, device_id=HUB.device_id)

    async def open(self) -> None:
        """Do as HubLink.open, with the dates of a certificate in place of bytes."""
        guard = self._use_guard() if self.trust.time_repair_wanted else self._guard
        if guard is not None and self.attempt is not None:
            await guard.before(self)
        self._check_clock()
        self.attempt = self.trust.attempt("hub", HUB.gateway)
        handshake(self.clock)
        self.trust.succeeded(self.attempt, resumed=False, not_before=SERVED[0])

    def connects(self) -> bool:
        """Make one attempt; False: the next one is due after `backoff.next()` milliseconds."""
        world = self.world
        try:
            finish(self.open())
            _, password = finish(self.login())
            code = world.hub.connack(world.now, password)
            if code:
                raise _KINDS[code](f"CONNACK {code}: {_REFUSALS[code]}")
        except AzureIoTError as error:
            if self.refused(error):
                self.backoff.reset()
            world.recovery_requests += self.trust.asks_for_recovery()
            return False
        self.accepted()
        return True

    @property
    def renewal_due(self) -> float:
        """When the token is due for renewal, in seconds since the drop."""
        return (self._issued_ticks + self.renew_ms) / 1000


_PROFILE = TLSProfile()
_SESSIONS = Sessions(None)


def handshake(clock: DeviceClock) -> None:
    """Judge the hub's certificate by the device's own clock, as tls/verdict.py names it."""
    now = clock.unix_time()
    if now < SERVED[0]:
        raise ClockError("a certificate is valid only in the future; set the clock")
    if now > SERVED[1]:
        if clock.synchronised:
            raise TrustError("a certificate of the chain has expired", "EXPIRED")
        raise ClockError("a certificate of the chain has expired; repair the time first")


def finish(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that has nothing to wait for."""
    try:
        with contextlib.closing(work):
            work.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a simulated device has nothing to wait for")

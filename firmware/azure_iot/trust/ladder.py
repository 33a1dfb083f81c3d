"""Which roots the next connection uses, and what its outcome means (steps L0 to L2).

Responsible for: trial, confirmation, revert, fall-back, telling a certificate verdict from a
network failure, the floor of time (T1, T4, T10) and its repair before either counts (T5). Not for:
packages (manager.py), flash (store.py), recovery (recovery.py), the clock (clock.py).

Theory of operation. While a bundle is on trial, one of its tries is spent on flash before each
connection with it, so that a crash counts. A certificate verdict keeps the try spent; anything
else gives it back and lets the good bundle work for a while. CONNACK 0 over a full handshake with
the trial roots alone makes it good; the last lost try gives it up. Without a trial, three verdicts
against the good bundle lead to the previous one, then to the factory's, if the floor allows them.
Distrusted roots are missing from every one of these. A verdict about dates asks for time repair
first and counts only when every way to repair the time has been tried.
"""

from micropython import const

from azure_iot.errors import ClockError, TrustError
from azure_iot.transient import Transient

from .errors import RefusedError
from .roots import RootSet, usable

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from azure_iot.clock import Clock

    from .state import Slot
    from .store import Store

_REPAIRS = const(3)  # ways to repair the time: NTP again, other servers, the floor
_DAY = const(86400)
_VERDICTS = const(3)  # certificate verdicts before the next rung is tried
_PAUSE_MS = const(60000)  # of a trial after a failure that was no verdict; doubles up to
_MAX_PAUSE_MS = const(3600000)

# Codes of TrustError that do not speak of the server's chain.
_NOT_OF_THE_CHAIN = ("INTERNAL", "STORAGE", "MEMORY", "BAD_ROOT", "DEMO_HOST")


class Attempt:
    """The roots for one connection of kind `use`: `roots`, `source`, `is_trial`, `version`."""

    def __init__(
        self, source: str, roots: RootSet, use: str, version: int, sha256: str | None
    ) -> None:
        self.source = source
        self.roots = roots
        self.use = use
        self.version = version
        self.sha256 = sha256
        self.is_trial = source == "trial"
        self.spent = False  # a try was taken for it
        self.full = False  # a full handshake with these roots succeeded
        self.open = True  # no outcome yet
        self.not_before: int | None = None


class Ladder:
    """Attempts and outcomes over one store. TrustManager adds packages and reports."""

    def __init__(self, store: "Store", clock: "Clock") -> None:
        self.store = store
        self.clock = clock
        self.on_change: Callable | None = None
        self.generation = 0  # saved TLS sessions of another generation must not be used
        self.via: str | None = None
        self.in_use = "factory"
        self.last_error: dict | None = None
        self.time_repair_wanted = False
        self.verdicts = 0  # certificate verdicts since the last success
        self.first_verdict: int | None = None
        self.exhausted = False  # every rung has met a verdict
        self.rootless: int | None = None  # since when distrust has left no root (ticks)
        self.dps_probe_due = False
        self._rungs: dict = {}  # use -> [rung, verdicts on it]
        self._previous: list | None = None
        self._paused: int | None = None
        self._pause_ms = _PAUSE_MS
        self._repairs = 0

    @property
    def managed(self) -> bool:
        """Tell whether anybody can update this device's roots."""
        return self.store.factory.managed

    @property
    def fleet(self) -> str:
        """The fleet this device belongs to; empty when nobody manages it."""
        return self.store.state.fleet

    def require_host(self, host: str) -> None:
        """Refuse a public host to a demo fleet (R-50)."""
        if not self.fleet.startswith("demo-"):
            return
        with Transient():
            from .hosts import is_private

            private = is_private(host)
        if not private:
            raise RefusedError(
                "demo fleet %s must not connect to %s" % (self.fleet, host), "DEMO_HOST"
            )

    # Attempts

    def attempt(self, use: str = "hub", host: str | None = None) -> Attempt:
        """Return the roots for the next connection of kind `use`; spends a try of a trial.

        Raises NoRootsError when distrust has left no root at all, DemoHostError for a host that
        a demo fleet may not reach.
        """
        if host is not None:
            self.require_host(host)
        if use == "hub":
            attempt = self._trial()
            if attempt is not None:
                return attempt
        place = self._rungs.setdefault(use, [0, 0])
        good = self.store.state.good
        if place[0] == 0 and good is not None:
            # The usual case: no signature of another slot has to be verified.
            attempt = self._of_slot("good", good, use)
            if attempt is not None and len(attempt.roots):
                return attempt
        rungs = self.rungs(use)
        if not rungs:
            self.exhausted = True
            if self.rootless is None:
                self.rootless = self.clock.ticks_ms()
            raise RefusedError("no trusted root is left for %s" % use, "NO_ROOTS")
        self.rootless = None
        if place[0] >= len(rungs):
            place[0] = 0
        return rungs[place[0]]

    def _trial(self) -> Attempt | None:
        state = self.store.state
        if state.trial is None:
            return None
        if state.tries <= 0:
            self._revert("CRASH")
            return None
        if self._paused is not None:
            if self.clock.ticks_diff(self.clock.ticks_ms(), self._paused) < self._pause_ms:
                return None
            self._paused = None
            self._pause_ms = min(self._pause_ms * 2, _MAX_PAUSE_MS)
        attempt = self._of_slot("trial", state.trial, "hub")
        if attempt is None:
            self._revert("STORAGE")
            return None
        if not len(attempt.roots):
            self._revert("NO_ROOTS")
            return None
        try:
            self.store.add_tries(-1)
        except RefusedError as error:
            # Without a note on flash a crash would not count: work with what is good.
            self.note(error)
            return None
        attempt.spent = True
        return attempt

    def rungs(self, use: str) -> list:
        """Return an attempt for each step that has a root for `use` and respects the floor."""
        store = self.store
        state = store.state
        found = []
        if state.good is not None:
            found.append(self._of_slot("good", state.good, use))
        if self._previous is None:
            self._previous = store.previous()
        for slot in self._previous:
            found.append(self._of_slot("previous", slot, use))
        factory = store.factory.bundle()
        if not self.managed or factory.version >= state.floor:
            roots = usable(factory, use, state.distrust)
            attempt = Attempt("factory", roots, use, factory.version, None)
            # Without a good slot the factory's bundle is the good one, the others are older.
            found.insert(len(found) if state.good is not None else 0, attempt)
        if use != "hub" and state.trial is not None:
            found.append(self._of_slot("trial", state.trial, use))
        return [attempt for attempt in found if attempt is not None and len(attempt.roots)]

    def _of_slot(self, source: str, slot: "Slot", use: "str | None") -> Attempt | None:
        facts = self.store.facts(slot)
        if facts is None:
            return None
        roots = usable(facts, use, self.store.state.distrust)
        return Attempt(source, roots, use, facts.version, slot.sha256)

    # Outcomes

    def succeeded(
        self,
        attempt: Attempt,
        *,
        resumed: bool,
        via: str | None = None,
        not_before: int | None = None,
    ) -> None:
        """Note that the server was verified with the attempt's roots.

        via: SHA-256 (hex) of the root that anchored it. not_before: of the server's certificate.
        A resumed handshake verifies nothing, so it changes nothing. Raises DistrustedError, and
        the connection must be closed, if that root was distrusted while the handshake ran.
        """
        if via is not None and bytes.fromhex(via) in self.store.state.distrust:
            raise RefusedError("the server is anchored in a distrusted root", "DISTRUSTED")
        attempt.full = not resumed
        if resumed:
            return
        self.in_use = attempt.source
        if attempt.use == "hub":
            self.via = via
        self.verdicts = 0
        self.first_verdict = None
        self.exhausted = False
        self._repairs = 0
        self._rungs[attempt.use] = [0, 0]
        attempt.not_before = not_before
        if not_before is not None and not attempt.is_trial:
            self.raise_time_floor(not_before)

    def mqtt_accepted(self, attempt: Attempt) -> bool:
        """Note CONNACK 0; confirm a trial and tell whether it was. Never for a resumed session."""
        attempt.open = False
        trial = self.store.state.trial
        if not attempt.spent or trial is None or trial.sha256 != attempt.sha256:
            return False
        if not attempt.full:
            self._refund()
            return False
        try:
            self.store.confirm(self.store.facts(trial), attempt.not_before or 0)
        except RefusedError as error:
            # Still on trial, one try poorer; the connection itself is good.
            self.note(error)
            return False
        self._previous = None
        self.dps_probe_due = True
        self._changed("confirmed")
        return True

    def failed(self, attempt: Attempt, error: Exception) -> None:
        """Note that the connection failed before it was accepted."""
        if not attempt.open:
            return
        attempt.open = False
        verdict = self._verdict(error)
        trial = self.store.state.trial
        if attempt.spent:
            if trial is None or trial.sha256 != attempt.sha256:
                return
            if verdict is None:
                self._refund()
            elif self.store.state.tries <= 0:
                self._revert("X509")
        elif verdict is not None:
            self._count(attempt)

    def _verdict(self, error: Exception) -> str | None:
        """Return the certificate verdict in `error`, or None if it says nothing about trust."""
        if isinstance(error, ClockError):
            code = "FUTURE"
        elif isinstance(error, TrustError) and error.code not in _NOT_OF_THE_CHAIN:
            code = error.code
        else:
            return None
        if code in ("EXPIRED", "FUTURE") and self._repairs < _REPAIRS:
            # T5: the clock may be what is wrong. A repair that nobody has made counts as made, or
            # a device without time servers would never come to its other roots.
            if self.time_repair_wanted:
                self._repairs += 1
            self.time_repair_wanted = True
            return None
        return code

    def _refund(self) -> None:
        self._paused = self.clock.ticks_ms()
        try:
            self.store.add_tries(1)
        except RefusedError as error:
            self.note(error)

    def _count(self, attempt: Attempt) -> None:
        self.verdicts += 1
        if self.first_verdict is None:
            self.first_verdict = self.clock.ticks_ms()
        place = self._rungs.setdefault(attempt.use, [0, 0])
        place[1] += 1
        if place[0] == 0 and place[1] < _VERDICTS:
            return
        place[0] += 1
        place[1] = 0
        if place[0] >= len(self.rungs(attempt.use)):
            # Once round: from now on one attempt per step.
            self.exhausted = True
            place[0] = 0
            place[1] = _VERDICTS - 1

    def _revert(self, why: str) -> None:
        version = self.store.state.trial.version
        try:
            self.store.revert(why)
        except RefusedError as error:
            self.note(error)
            return
        self._previous = None
        self.last_error = {
            "version": version,
            "code": "X509" if why == "CRASH" else why,
            "text": "the trial of version %d ended without a verified connection" % version,
        }
        self._changed("reverted")

    def trial_due_ms(self) -> int | None:
        """Return when a reconnect would try the bundle on trial: milliseconds, None without one."""
        if self.store.state.trial is None:
            return None
        if self._paused is None:
            return 0
        gone = self.clock.ticks_diff(self.clock.ticks_ms(), self._paused)
        return max(0, self._pause_ms - gone)

    def must_close(self) -> bool:
        """Tell whether the live connection may no longer be used (R-48)."""
        distrust = self.store.state.distrust
        return bool(distrust) and (self.via is None or bytes.fromhex(self.via) in distrust)

    def _changed(self, reason: str) -> None:
        self.generation += 1
        if self.on_change is not None:
            self.on_change(reason)

    def note(self, error: Exception) -> None:
        """Keep what went wrong last, for the report."""
        self.last_error = {
            "version": getattr(error, "version", 0),
            "code": getattr(error, "code", "STORAGE"),
            "text": str(error),
        }

    # Time

    def time_floor(self) -> int:
        """Return the moment that has passed for certain (T1)."""
        store = self.store
        floor = max(store.factory.build_date, store.state.tfloor)
        if store.state.good is not None:
            facts = store.facts(store.state.good)
            if facts is not None:
                floor = max(floor, facts.issued)
        return floor

    def raise_time_floor(self, unix_seconds: int) -> None:
        """Record a proven past time, at most once a day (T4)."""
        if unix_seconds >= self.time_floor() + _DAY:
            try:
                self.store.raise_time_floor(unix_seconds)
            except RefusedError as error:
                self.note(error)

    def authenticated_time(self, unix_seconds: int) -> bool:
        """Take a time from within a verified connection (T10).

        Return True if the clock was more than five minutes off: tokens must then be made anew.
        """
        moved = self.clock.authenticate(unix_seconds)
        self.raise_time_floor(unix_seconds - _DAY)
        return moved

    def repair_time(self, offered: int | None) -> None:
        """Go one step of time repair (T5); `offered` is what a time server said, if any.

        First NTP again, then other servers, then the floor; a date verdict after that counts.
        """
        self.time_repair_wanted = False
        self._repairs += 1
        if self._repairs >= _REPAIRS:
            self.clock.set_time(self.time_floor())
            self.clock.synchronised = False
        elif offered is not None:
            self.clock.offer(offered, self.time_floor())

    def repair_step(self) -> int:
        """Return which step of time repair comes next: 0 NTP, 1 other servers, 2 the floor."""
        return min(self._repairs, _REPAIRS - 1)

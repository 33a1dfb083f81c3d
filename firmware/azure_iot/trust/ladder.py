"""Which roots the next connection uses, and what its outcome means (steps L0 to L2).

Responsible for: trial, confirmation, revert, fall-back, telling a certificate verdict from a
network failure, time repair before either counts. Not for: packages (manager.py), flash
(store.py), recovery over the network (recovery.py).

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

from .errors import DemoHostError, DistrustedError, NoRootsError, StorageError
from .hosts import is_private
from .roots import RootSet, usable
from .timefloor import REPAIRS, TimeFloor

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from azure_iot.clock import Clock

    from .state import Slot
    from .store import Store

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


class Ladder(TimeFloor):
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
        if self.fleet.startswith("demo-") and not is_private(host):
            raise DemoHostError("demo fleet %s must not connect to %s" % (self.fleet, host))

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
            raise NoRootsError("no trusted root is left for %s" % use)
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
            self.store.spend_try()
        except StorageError as error:
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
            roots = RootSet(usable(factory, use, state.distrust), store.factory.der)
            attempt = Attempt("factory", roots, use, factory.version, None)
            # Without a good slot the factory's bundle is the good one, the others are older.
            found.insert(len(found) if state.good is not None else 0, attempt)
        if use != "hub" and state.trial is not None:
            found.append(self._of_slot("trial", state.trial, use))
        return [attempt for attempt in found if attempt is not None and len(attempt.roots)]

    def carried(self) -> list:
        """Return an attempt over every bundle held, whatever its use, for probes: none is spent."""
        state = self.store.state
        found = [
            self._of_slot("probe", slot, None)
            for slot in (state.good, state.trial)
            if slot is not None
        ]
        factory = self.store.factory
        roots = RootSet(usable(factory.bundle(), None, state.distrust), factory.der)
        found.append(Attempt("probe", roots, "", 0, None))
        return [attempt for attempt in found if attempt is not None]

    def _of_slot(self, source: str, slot: "Slot", use: "str | None") -> Attempt | None:
        facts = self.store.facts(slot)
        if facts is None:
            return None
        number = slot.slot
        roots = RootSet(
            usable(facts, use, self.store.state.distrust),
            lambda root: self.store.der(number, root),
        )
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
            raise DistrustedError("the server is anchored in a distrusted root")
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
        except StorageError as error:
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
        if code in ("EXPIRED", "FUTURE") and self._repairs < REPAIRS:
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
            self.store.refund_try()
        except StorageError as error:
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
        except StorageError as error:
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

"""Which roots the next connection uses, and what its outcome means for the trust store.

Responsible for: trial, confirmation, revert and fall-back (the ladder's steps L0 to L2), installing
packages from every channel, what is reported. Not for: reading packages (update.py), flash
(store.py), recovery over the network (recovery.py), sockets.

    attempt = trust.attempt("hub")            # .roots for the TLS context, .is_trial
    …handshake…     trust.succeeded(attempt, resumed=False, via=…, not_before=…)
    …CONNACK 0…     trust.mqtt_accepted(attempt)
    …any failure…   trust.failed(attempt, error)

Theory of operation. While a bundle is on trial, one of its tries is spent on flash before each
connection with it, so that a crash counts. A certificate verdict keeps the try spent; anything
else gives it back and lets the good bundle work for a while. CONNACK 0 over a full handshake with
the trial roots alone makes it good; the last lost try gives it up. Without a trial, three verdicts
against the good bundle lead to the previous one, then to the factory's, if the floor allows them.
Distrusted roots are missing from every one of these.
"""

from micropython import const

from azure_iot.errors import ClockError, TrustError

from . import files, update
from .errors import (
    DemoHostError,
    DownloadError,
    MemoryShortError,
    RefusedError,
    StorageError,
    UnmanagedError,
)
from .roots import RootSet

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from azure_iot.clock import Clock

    from .rsa import Verifier
    from .sources import Source
    from .state import Slot
    from .store import Store

_VERDICTS = const(3)  # certificate verdicts before the next rung is tried
_DAY = const(86400)
_PAUSE_MS = const(60000)
_MAX_PAUSE_MS = const(3600000)

# Verdicts of tls/verdict.py that speak of the server's chain.
_NOT_OF_THE_CHAIN = ("INTERNAL", "STORAGE", "MEMORY", "BAD_ROOT")


class Attempt:
    """The roots for one connection: `roots`, `source`, `is_trial`, `version`."""

    def __init__(self, source: str, roots: RootSet, version: int, sha256: str | None) -> None:
        self.source = source
        self.roots = roots
        self.version = version
        self.sha256 = sha256
        self.is_trial = source == "trial"
        self.not_before: int | None = None
        self.full = False  # a full handshake with these roots succeeded
        self.open = True  # no outcome yet


class TrustManager:
    """The device's trust, from factory to today.

    store: store.Store, not yet loaded. clock: `unix_time()`, `ticks_ms()`, `ticks_diff(a, b)`,
    and `synchronised` once set by a source that counts. config: dict; `uses` (kinds of connection
    that need a root), `recovery` (URLs of the firmware), `loader` (R-29).
    `on_change(reason)` is called after staged, distrust, confirmed, reverted, keys.
    """

    def __init__(
        self,
        store: "Store",
        clock: "Clock",
        *,
        verifier: "Verifier | None" = None,
        config: dict | None = None,
    ) -> None:
        self.store = store
        self.clock = clock
        self.config = config or {}
        self.verifier = verifier or store.verifier
        store.verifier = self.verifier
        self.on_change: "Callable | None" = None
        self.generation = 0  # saved TLS sessions of another generation must not be used
        self.via: str | None = None
        self.last_error: dict | None = None
        self.probes: list = []
        self.time_repair_wanted = False
        self.verdicts = 0  # certificate verdicts since the last success
        self.first_verdict: int | None = None
        self.exhausted = False
        self.in_use = "factory"
        self._rungs: dict = {}  # use -> [rung, verdicts on it]
        self._previous: list | None = None
        self._paused: int | None = None
        self._pause_ms = _PAUSE_MS
        self._repaired = False
        self._recovering = False
        store.load()
        if store.error is not None:
            self._note(store.error)

    # Facts

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

    def time_floor(self) -> int:
        """Return the moment that has passed for certain (T1)."""
        state = self.store.state
        floor = max(self.store.factory.build_date, state.tfloor)
        if state.good is not None:
            facts = self.store.facts(state.good)
            if facts is not None:
                floor = max(floor, facts.issued)
        return floor

    def recovery_urls(self) -> list:
        """Return where recovery may look: the firmware's list and the bundle's, default none."""
        urls = list(self.config.get("recovery", ()))
        for name in ("good", "trial"):
            slot = getattr(self.store.state, name)
            facts = self.store.facts(slot) if slot is not None else None
            if facts is None and name == "good":
                facts = self.store.factory.bundle()
            if facts is not None:
                urls.extend([url for url in facts.recovery if url not in urls])
        return urls

    # Connections

    def attempt(self, use: str = "hub", host: str | None = None) -> Attempt:
        """Return the roots for the next connection of kind `use`; spends a try of a trial.

        Raises RefusedError with code DISTRUSTED when no root is left at all.
        """
        if host is not None:
            self.require_host(host)
        if use == "hub":
            attempt = self._trial_attempt()
            if attempt is not None:
                return attempt
        rungs = self._ladder(use)
        if not rungs:
            self.exhausted = True
            raise NoRootLeftError("no trusted root is left for %s" % use)
        place = self._rungs.setdefault(use, [0, 0])
        if place[0] >= len(rungs):
            place[0] = 0
        return rungs[place[0]]

    def _trial_attempt(self) -> Attempt | None:
        state = self.store.state
        trial = state.trial
        if trial is None:
            return None
        if state.tries <= 0:
            self._revert("CRASH")
            return None
        if self._paused is not None:
            if self.clock.ticks_diff(self.clock.ticks_ms(), self._paused) < self._pause_ms:
                return None
            self._paused = None
            self._pause_ms = min(self._pause_ms * 2, _MAX_PAUSE_MS)
        attempt = self._of_slot("trial", trial, "hub")
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
            self._note(error)
            return None
        return attempt

    def _ladder(self, use: str) -> list:
        """Return an attempt for each step that has a root for `use` and respects the floor."""
        store = self.store
        state = store.state
        found = []
        if state.good is not None:
            found.append(self._of_slot("good", state.good, use))
        for slot in self._previous_slots():
            found.append(self._of_slot("previous", slot, use))
        factory = store.factory.bundle()
        if state.good is None or not self.managed or factory.version >= state.floor:
            roots = RootSet(factory, store.factory.der, use, state.distrust)
            found.append(Attempt("factory", roots, factory.version, None))
        if use != "hub" and state.trial is not None:
            found.append(self._of_slot("trial", state.trial, use))
        return [attempt for attempt in found if attempt is not None and len(attempt.roots)]

    def _of_slot(self, source: str, slot: "Slot", use: str) -> Attempt | None:
        facts = self.store.facts(slot)
        if facts is None:
            return None
        number = slot.slot
        roots = RootSet(
            facts, lambda root: self.store.der(number, root), use, self.store.state.distrust
        )
        return Attempt(source, roots, facts.version, slot.sha256)

    def _previous_slots(self) -> list:
        """Return the slots that are neither good nor on trial but whose signatures hold (L1)."""
        if self._previous is None:
            self._previous = self.store.previous()
        return self._previous

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
        """
        attempt.full = not resumed
        if resumed:
            return
        self.via = via
        self.in_use = attempt.source
        self.verdicts = 0
        self.first_verdict = None
        self.exhausted = False
        self._repaired = False
        for place in self._rungs.values():
            place[0] = place[1] = 0
        if not_before is not None and not attempt.is_trial:
            self.raise_time_floor(not_before)
        attempt.not_before = not_before

    def mqtt_accepted(self, attempt: Attempt) -> bool:
        """Note CONNACK 0; confirm a trial and tell whether it was. Never for a resumed session."""
        attempt.open = False
        trial = self.store.state.trial
        if not attempt.is_trial or trial is None or trial.sha256 != attempt.sha256:
            return False
        if not attempt.full:
            self._pause()
            self.store.refund_try()
            return False
        self.store.confirm(self.store.facts(trial), attempt.not_before or 0)
        self._previous = None
        self._recovering = False
        self._changed("confirmed")
        return True

    def failed(self, attempt: Attempt, error: Exception) -> None:
        """Note that the connection failed before it was accepted."""
        if not attempt.open:
            return
        attempt.open = False
        verdict = self._verdict(error)
        if attempt.is_trial:
            self._trial_failed(attempt, verdict)
        elif verdict:
            self._count(attempt)

    def _verdict(self, error: Exception) -> str | None:
        """Return the certificate verdict in `error`, or None if it says nothing about trust."""
        if isinstance(error, ClockError):
            code = "FUTURE"
        elif isinstance(error, TrustError) and error.code not in _NOT_OF_THE_CHAIN:
            code = error.code
        else:
            return None
        if code in ("EXPIRED", "FUTURE") and not self._repaired:
            # T5: the clock may be what is wrong; only a verdict that comes back counts.
            self.time_repair_wanted = True
            return None
        return code

    def time_repaired(self) -> None:
        """Note that the clock was set anew: a date verdict that comes back now counts."""
        self.time_repair_wanted = False
        self._repaired = True

    def _trial_failed(self, attempt: Attempt, verdict: str | None) -> None:
        state = self.store.state
        if state.trial is None or state.trial.sha256 != attempt.sha256:
            return
        if verdict is None:
            self._pause()
            try:
                self.store.refund_try()
            except StorageError as error:
                self._note(error)
        elif state.tries <= 0:
            self._revert("X509")

    def _count(self, attempt: Attempt) -> None:
        self.verdicts += 1
        if self.first_verdict is None:
            self.first_verdict = self.clock.ticks_ms()
        for use, place in self._rungs.items():
            rungs = self._ladder(use)
            if place[0] < len(rungs) and rungs[place[0]].source == attempt.source:
                place[1] += 1
                if place[1] >= _VERDICTS or place[0] > 0:
                    place[0] += 1
                    place[1] = 0
                if place[0] >= len(rungs):
                    # Once round: from now on one attempt per step.
                    self.exhausted = True
                    place[0] = 0
                    place[1] = _VERDICTS - 1

    def _pause(self) -> None:
        self._paused = self.clock.ticks_ms()

    def _revert(self, why: str) -> None:
        version = self.store.state.trial.version
        try:
            self.store.revert(why)
        except StorageError as error:
            self._note(error)
            return
        self.last_error = {
            "version": version,
            "code": why if why in ("X509", "STORAGE", "NO_ROOTS") else "X509",
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

    # Packages

    def install(self, source: "Source", channel: str = "url") -> int:
        """Verify a package and put its bundle on trial; return the bundle's version.

        source: `size` and `readinto(memoryview)`, and `seek` if it can be read again; otherwise
        it is copied to flash first. Raises RefusedError; nothing in use has then changed.
        """
        try:
            if not self.managed:
                raise UnmanagedError(
                    'no key-set in this firmware: run "taproot trust init" and deploy again'
                )
            version, staged = self._install(source, channel)
        except RefusedError as error:
            self._note(error)
            raise
        except MemoryError as error:
            refusal = MemoryShortError("not enough memory to examine the package", error)
            self._note(refusal)
            raise refusal
        self.last_error = None
        if staged:
            self._paused = None
            self._pause_ms = _PAUSE_MS
            self._recovering = channel == "recovery"
            self._changed("staged")
        return version

    def _install(self, source: "Source", channel: str) -> tuple:
        temporary = None
        try:
            if not hasattr(source, "seek"):
                temporary = self.store.path("package.tmp")
                source = self._copy(source, temporary)
            origin = channel if channel in ("inbox", "recovery") else "ota"
            rules = update.Rules(
                self.clock.unix_time(),
                self.clock.synchronised,
                self.config.get("uses", ("hub",)),
                self.config.get("loader"),
                origin,
                self.verifier,
            )
            keys_before = self.store.state.kver
            distrust_before = self.store.state.distrust
            try:
                return update.install(self.store, source, rules)
            finally:
                self._previous = None
                if self.store.state.kver != keys_before:
                    self._changed("keys")
                if self.store.state.distrust != distrust_before:
                    self._changed("distrust")
        finally:
            if temporary is not None:
                if hasattr(source, "close"):
                    source.close()
                files.remove(temporary)

    def _copy(self, source: "Source", path: str) -> files.FileSource:
        self.store.make_folder()
        sink = files.PackageFile(path)
        buffer = bytearray(512)
        left = source.size
        try:
            while left:
                n = source.readinto(memoryview(buffer)[: min(512, left)])
                if not n:
                    raise DownloadError("package ended %d bytes early" % left)
                sink.write(memoryview(buffer)[:n])
                left -= n
        except OSError as error:
            sink.abort()
            raise DownloadError("package could not be read", error)
        except RefusedError:
            sink.abort()
            raise
        return sink.done()

    def must_close(self) -> bool:
        """Tell whether the live connection may no longer be used (R-48)."""
        if not self.store.state.distrust:
            return False
        if self.via is None:
            return True
        return bytes.fromhex(self.via) in self.store.state.distrust

    def raise_time_floor(self, unix_seconds: int) -> None:
        """Record a proven past time, at most once a day (T4)."""
        if unix_seconds >= self.time_floor() + _DAY:
            try:
                self.store.raise_time_floor(unix_seconds)
            except StorageError as error:
                self._note(error)

    def _changed(self, reason: str) -> None:
        self.generation += 1
        if self.on_change is not None:
            self.on_change(reason)

    def note(self, error: Exception) -> None:
        """Keep what went wrong outside an install (a download), for the report."""
        self._note(error)

    def _note(self, error: Exception) -> None:
        self.last_error = {
            "version": getattr(error, "version", 0),
            "code": getattr(error, "code", "STORAGE"),
            "text": str(error),
        }

    # Report

    def report(self) -> dict:
        """Return the `trust` member of the reported properties (contracts.md section 1)."""
        state = self.store.state
        facts = None
        slot = state.good
        source = "factory"
        if slot is not None:
            facts = self.store.facts(slot)
            source = slot.source
        if self.in_use == "previous":
            source = "previous"
        elif facts is None or self.in_use == "factory":
            source = "factory"
        if facts is None:
            facts = self.store.factory.bundle()
        roots = []
        for root in facts.roots:
            if root.sha256 not in state.distrust:
                roots.append(
                    {"sha256": root.sha256.hex()[:16], "expires": root.not_after, "use": root.uses}
                )
        report = {"state": self._name(), "source": source, "roots": roots}
        if self.via is not None:
            report["via"] = self.via
        if self.managed:
            report["version"] = facts.version
            report["key_version"] = state.kver
            report["floor"] = state.floor
            report["distrusted"] = [digest.hex()[:16] for digest in state.distrust]
            report["probes"] = self.probes
            report["last_error"] = self.last_error
        return report

    def _name(self) -> str:
        if not self.managed:
            return "unmanaged"
        if self.store.state.trial is not None:
            return "recovery" if self._recovering else "trial"
        if self.exhausted:
            return "recovery"
        for version, _ in self.store.state.bad:
            if version > self.store.state.seen:
                return "reverted"
        return "good"


class NoRootLeftError(RefusedError):
    """Distrust has taken every root that could verify the server."""

    CODE = "NO_ROOTS"


def is_private(host: str) -> bool:
    """Tell whether a host name stands for a loopback or private address."""
    if host == "localhost" or host.endswith(".localhost") or host == "::1":
        return True
    if host[:2] in ("fc", "fd") and ":" in host:
        return True
    parts = host.split(".")
    if len(parts) != 4 or not all(part.isdigit() and len(part) <= 3 for part in parts):
        return False
    first, second = int(parts[0]), int(parts[1])
    return (
        first == 127
        or first == 10
        or (first == 192 and second == 168)
        or (first == 172 and 16 <= second <= 31)
        or (first == 169 and second == 254)
    )

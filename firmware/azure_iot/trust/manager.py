"""The device's trust, from factory to today: the object that the client and the agent hold.

Responsible for: installing packages from every channel by one procedure, what goes into the
report. Not for: reading packages (update.py), trying them (ladder.py), flash (store.py), fetching
(agent.py), recovery over the network (recovery.py). Every function of ladder.py and report.py is a
method.

    trust = TrustManager(Store("/trust", Factory.from_module()), clock)
    attempt = trust.attempt("hub")            # .roots for the TLS context, .is_trial
    …handshake…     trust.succeeded(attempt, resumed=False, via=…, not_before=…)
    …CONNACK 0…     trust.mqtt_accepted(attempt)
    …any failure…   trust.failed(attempt, error)
    …a package…     trust.install(source, "url")
"""

import os

from micropython import const

from .errors import RefusedError

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from azure_iot.clock import Clock

    from .recovery import Recovery
    from .roots import Bundle
    from .rsa import Verifier
    from .sources import Source
    from .store import Store

_PAUSE_MS = const(60000)  # of a trial after a failure that was no verdict; doubles
_MAX_PROBES = const(8)
# Methods that live in a module of their own, which is loaded for the call.
_LADDER = const((
    "attempt", "authenticated_time", "failed", "mqtt_accepted", "raise_time_floor", "repair_step",
    "repair_time", "require_host", "rungs", "succeeded", "time_floor",
))  # fmt: skip
_REPORT = const(("boot_line", "report", "source_name", "state_name", "warnings"))


class TrustManager:
    """Trust of one device.

    store: store.Store, not yet loaded. clock: clock.Clock. verifier: `(key, digest, signature)`,
    instead of the one in MicroPython. config: dict of `uses` (kinds of connection that need a
    root, default hub), `recovery` (URLs of the firmware, default none), `loader` (called with each
    new root's DER, raises ValueError if TLS cannot use it; none).
    `on_change(reason)` is called after staged, distrust, keys, confirmed, reverted.
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
        # Of the ladder:
        self._rungs: dict = {}  # use -> [rung, verdicts on it]
        self._previous: list | None = None
        self._paused: int | None = None
        self._pause_ms = _PAUSE_MS
        self._repairs = 0
        self.config = config or {}
        if verifier is not None:
            store.verifier = verifier
        self.probes: list = []
        self.recovery: Recovery | None = None  # set by the agent
        store.load()
        if store.error is not None:
            self.note(store.error)

    def __getattr__(self, name: str) -> "Callable":
        """Return a function of ladder.py or report.py, which are loaded for the call."""
        if name not in _LADDER and name not in _REPORT:
            raise AttributeError(name)

        def call(*args: object, **named: object) -> object:
            with self.store:
                if name in _LADDER:
                    from . import ladder as module
                else:
                    from . import report as module  # type: ignore[no-redef]
                return getattr(module, name)(self, *args, **named)

        return call

    @property
    def managed(self) -> bool:
        """Tell whether anybody can update this device's roots."""
        return self.store.factory.managed

    @property
    def fleet(self) -> str:
        """The fleet this device belongs to; empty when nobody manages it."""
        return self.store.state.fleet

    def changed(self, reason: str) -> None:
        """Tell who listens; TLS sessions saved before are void."""
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

    def trial_due_ms(self) -> "int | None":
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

    def install(self, source: "Source", channel: str = "url") -> int:
        """Verify a package and put its bundle on trial; return the bundle's version.

        source: `size` and `readinto(memoryview)`, and `seek` if it can be read again; otherwise
        it is copied to flash first. channel: url, twin, method, c2d, dps, inbox or recovery.
        Raises RefusedError; what was in use then still is.
        """
        try:
            if not self.managed:
                raise RefusedError(
                    'no key-set in this firmware: run "taproot trust init" and deploy again',
                    "UNMANAGED",
                )
            with self.store:
                from .packages import install

                version, staged = install(self, source, channel)
        except RefusedError as error:
            self.note(error)
            raise
        except MemoryError as error:
            refusal = RefusedError("not enough memory to examine the package", "MEMORY", error)
            self.note(refusal)
            raise refusal
        self.last_error = None
        if staged:
            self._paused = None
            self.changed("staged")
        return version

    def install_inbox(self, again: bool = False) -> int | None:
        """Install `inbox.json` if somebody has put it there (L4); None without one.

        The file is removed once it was judged, whatever the judgement; with `again` a refusal for
        want of memory leaves it, as that says nothing about it.
        """
        path = self.store.path("inbox.json")
        try:
            os.stat(path)
        except OSError:
            return None
        with self.store:
            from .files import FileSource, remove

            source = FileSource(path)
            keep = False
            try:
                return self.install(source, "inbox")
            except RefusedError as error:
                keep = again and error.code == "MEMORY"
                raise
            finally:
                source.close()
                if not keep:
                    remove(path)

    def recovery_urls(self) -> list:
        """Return where recovery may look: the firmware's list and the bundle's, default none."""
        urls = list(self.config.get("recovery", ()))
        for url in self.present().recovery:
            if url not in urls:
                urls.append(url)
        return urls

    def next_recovery_ms(self) -> int | None:
        """Return when the agent should run recovery; None while it may not (recovery.py, G1)."""
        return self.recovery.due_ms() if self.recovery is not None else None

    def present(self) -> "Bundle":
        """Return the bundle in use when no trial and no fall-back is under way."""
        good = self.store.state.good
        facts = self.store.facts(good) if good is not None else None
        return self.store.factory.bundle() if facts is None else facts

    def note_probe(self, result: dict) -> None:
        """Keep the last probe result per root and host."""
        self.probes = [
            other
            for other in self.probes
            if (other["root"], other["host"]) != (result["root"], result["host"])
        ][-_MAX_PROBES + 1 :]
        self.probes.append(result)

    def session_key(self) -> str:
        """Return what a saved TLS session must be bound to; it changes with the trust in use."""
        state = self.store.state
        return "%d.%d.%d.%d" % (
            self.present().version,
            state.kver,
            state.dv,
            self.generation,
        )

    def __repr__(self) -> str:
        return "<TrustManager %s>" % self.boot_line()

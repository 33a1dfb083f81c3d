"""The device's trust, from factory to today: the object that the client and the agent hold.

Responsible for: installing packages from every channel by one procedure, what goes into the
report. Not for: reading packages (update.py), trying them (ladder.py), flash (store.py), fetching
(agent.py), recovery over the network (recovery.py).

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
from .ladder import Ladder

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from azure_iot.clock import Clock

    from .files import FileSource
    from .recovery import Recovery
    from .roots import Bundle
    from .rsa import Verifier
    from .sources import Source
    from .store import Store

_COPY = const(512)
_MAX_PROBES = const(8)


class TrustManager(Ladder):
    """Trust of one device.

    store: store.Store, not yet loaded. clock: clock.Clock. verifier: `(key, digest, signature)`,
    instead of the one in MicroPython. config: dict of `uses` (kinds of connection that need a
    root, default hub), `recovery` (URLs of the firmware, default none), `loader` (called with each
    new root's DER, raises ValueError if TLS cannot use it).
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
        Ladder.__init__(self, store, clock)
        self.config = config or {}
        if verifier is not None:
            store.verifier = verifier
        self.probes: list = []
        self.recovery: Recovery | None = None  # set by the agent
        store.load()
        if store.error is not None:
            self.note(store.error)

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
                version, staged = self._install(source, channel)
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
            self._changed("staged")
        return version

    def _install(self, source: "Source", channel: str) -> tuple:
        if hasattr(source, "seek"):
            return self._judge(source, channel)
        from .files import remove

        path = self.store.path("package.tmp")
        copy = self._copy(source, path)
        try:
            return self._judge(copy, channel)
        finally:
            copy.close()
            remove(path)

    def _judge(self, source: "Source", channel: str) -> tuple:
        from . import stored, update

        store = self.store
        rules = update.Rules(
            self.clock.unix_time(),
            self.clock.synchronised,
            self.config.get("uses", ("hub",)),
            self.config.get("loader"),
            channel if channel in ("inbox", "recovery") else "ota",
            stored.verifier(store),
        )
        keys = store.state.kver
        distrust = store.state.distrust
        try:
            return update.install(store, source, rules)
        finally:
            # Also after a refusal: a key-set may have been accepted, a slot overwritten.
            self._previous = None
            if store.state.kver != keys:
                self._changed("keys")
            if store.state.distrust != distrust:
                self._changed("distrust")

    def _copy(self, source: "Source", path: str) -> "FileSource":
        from .files import PackageFile

        self.store.make_folder()
        sink = PackageFile(path)
        buffer = bytearray(_COPY)
        left = source.size
        try:
            while left > 0:
                n = source.readinto(memoryview(buffer)[: min(_COPY, left)])
                if not n:
                    raise RefusedError("package ended %d bytes early" % left, "DOWNLOAD")
                sink.write(memoryview(buffer)[:n])
                left -= n
            return sink.done()
        except OSError as error:
            raise RefusedError("package could not be read", "DOWNLOAD", error)
        finally:
            sink.abort()

    def install_inbox(self) -> int | None:
        """Install `inbox.json` if somebody has put it there (L4); None without one.

        The file is removed once it was judged, whatever the judgement.
        """
        path = self.store.path("inbox.json")
        try:
            os.stat(path)
        except OSError:
            return None
        with self.store:
            from .files import FileSource, remove

            source = FileSource(path)
            try:
                return self.install(source, "inbox")
            finally:
                source.close()
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

    def report(self) -> dict:
        """Return the `trust` member of the reported properties (contracts.md section 1)."""
        return self._say("report")

    def warnings(self) -> list:
        """Return a sentence for each root or bundle that will soon cease to serve."""
        return self._say("warnings")

    def __repr__(self) -> str:
        return "<TrustManager %s>" % self._say("boot_line")

    def _say(self, what: str) -> object:
        with self.store:
            from . import report

            return getattr(report, what)(self)

"""Recovery over the network (step L3): fetch a signed package without identity and without trust.

Responsible for: when recovery may start (G1), what leaves the device (G2, G3), limits (G4), the
pause between attempts (G7). Not for: HTTP (https.py, passed in), judging the package (manager.py:
the rules are those of every other channel, G5, G6, G9).

Off unless the operator names a URL. An `http://` URL is asked with a request line and `Host`,
nothing else. An `https://` URL is verified with the factory's roots, or not used: this module has
no TLS context of its own and knows no other way.

    recovery = Recovery(trust, Fetcher(), random)
    if recovery.due_ms() == 0:
        await recovery.run()
"""

import asyncio

from micropython import const

from azure_iot.errors import AzureIoTError

from . import files
from .errors import RefusedError
from .roots import usable

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from azure_iot.https import Fetcher

    from .manager import TrustManager

_VERDICTS = const(3)  # G1: so many verdicts about certificates,
_SPAN_MS = const(900000)  # over at least so long
_FIRST_S = const(900)  # G7: pauses double from 15 minutes
_LAST_S = const(86400)  # to a day
_MAX_PACKAGE = const(32768)
IDLE_MS = const(10000)  # G4: longest silence within an answer; for the fetcher's deadlines
_TOTAL_MS = const(300000)  # a server that drips a byte now and then is cut off here


class Recovery:
    """Recovery of one device.

    fetcher: https.Fetcher whose reads wait no longer than 10 s. random: `random(n)` is an integer
    below n. contexts: makes a TLS context that verifies with the roots it is given.
    """

    def __init__(
        self,
        trust: "TrustManager",
        fetcher: "Fetcher",
        random: "Callable[[int], int]",
        contexts: "Callable | None" = None,
    ) -> None:
        self.trust = trust
        self._fetcher = fetcher
        self._random = random
        self._contexts = contexts
        self._ripe = False
        self._spread: int | None = None

    def due_ms(self) -> int | None:
        """Return in how many milliseconds recovery may be tried; None while it may not at all."""
        trust = self.trust
        if not trust.managed or not trust.exhausted or not trust.recovery_urls():
            self._ripe = False
            self._spread = None
            return None
        wait = self._ripens_ms()
        if wait:
            return wait
        now = trust.clock.unix_time()
        if now < trust.time_floor():
            return None
        left = trust.store.state.recovery_at - now
        # Longer than the longest pause: the clock has been set back since, perhaps by years.
        return 0 if left > _LAST_S else max(0, left) * 1000

    def _ripens_ms(self) -> int | None:
        """Return how long G1 still asks to wait, 0 when it is met."""
        if self._ripe:
            return 0
        trust = self.trust
        clock = trust.clock
        if trust.rootless is not None:
            # No root is left: nothing can be learned by waiting, but a whole fleet may be here.
            if self._spread is None:
                self._spread = self._random(_SPAN_MS + 1)
            begun, span = trust.rootless, self._spread
        elif trust.verdicts >= _VERDICTS and trust.first_verdict is not None:
            begun, span = trust.first_verdict, _SPAN_MS
        else:
            return _SPAN_MS
        gone = clock.ticks_diff(clock.ticks_ms(), begun)
        if gone < span:
            return span - gone
        self._ripe = True
        return 0

    def pause_s(self, attempts: int) -> int:
        """Return the pause after so many attempts: 15 minutes doubling to a day, with jitter."""
        pause = _FIRST_S
        for _ in range(attempts):
            pause = min(pause * 2, _LAST_S)
        return min(pause + self._random(pause // 4 + 1), _LAST_S)

    async def run(self) -> int:
        """Fetch a package from the next URL and put it on trial; return its version.

        Raises RefusedError or a connection's error; the next attempt then waits longer.
        """
        trust = self.trust
        if self.due_ms() != 0:
            raise RefusedError("recovery is not due", "DOWNLOAD")
        attempts = trust.store.state.recoveries
        urls = trust.recovery_urls()
        # On flash before a byte leaves: a crash in the attempt must not make it more frequent.
        pause = self.pause_s(attempts)
        trust.store.note_recovery(attempts + 1, trust.clock.unix_time() + pause)
        try:
            return await self._fetch(urls[attempts % len(urls)])
        except AzureIoTError as error:
            if not isinstance(error, RefusedError):
                trust.note(RefusedError("recovery: %s" % error, "DOWNLOAD", error))
            raise

    async def _fetch(self, url: str) -> int:
        trust = self.trust
        trust.require_host(url)
        context = None
        if url.startswith("https://"):
            context = self._verifying()
        trust.store.make_folder()
        path = trust.store.path("recovery.tmp")
        sink = files.PackageFile(path)
        try:
            await asyncio.wait_for_ms(
                self._fetcher.fetch(
                    url, sink, _MAX_PACKAGE, redirects=0, chunked=False, context=context
                ),
                _TOTAL_MS,
            )
            source = sink.done()
            try:
                return trust.install(source, "recovery")
            finally:
                source.close()
        except asyncio.TimeoutError:
            raise RefusedError("the recovery server took too long", "DOWNLOAD")
        finally:
            sink.abort()
            files.remove(path)

    def _verifying(self) -> object:
        trust = self.trust
        factory = trust.store.factory
        roots = usable(factory.bundle(), None, trust.store.state.distrust)
        if self._contexts is None or not len(roots):
            raise RefusedError(
                "an https recovery URL needs a factory root that is not distrusted", "NO_ROOTS"
            )
        return self._contexts(roots)

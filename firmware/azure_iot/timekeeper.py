"""What time it is, and who says so: NTP, a verified server, or only the floor.

Responsible for: authenticated time from a verified HTTPS answer (T10), repair of a clock that a
handshake or a refused token puts in doubt (T5). Not for: the hardware clock (clock.py), NTP
itself (the platform), floors on flash (trust/).
Source: T1 to T10 (host_tests/trust/requirements.toml).

    keeper = TimeKeeper(clock, sync=platform.sync_time, trust=trust)
    await keeper.confirm("h.azure-devices.net", context)     # True: the time is now proven
"""

import gc

from micropython import const

from . import log
from .deadlines import Deadlines
from .errors import AzureIoTError
from .transient import Transient, forget

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

_DAY = const(86400)
_HOUR = const(3600)
_SLACK_S = const(300)
_TICKS_SERVE_S = const(400000)


class TimeKeeper:
    """Knows whether the time is proven in this boot; `sync()` asks a time server.

    `sync()`, async or not, returns the Unix time that a time server offers, or None; it sets nothing.
    """

    def __init__(
        self,
        clock: object,
        *,
        sync: "Callable | None" = None,
        trust: "object | None" = None,
        port: int = 443,
    ) -> None:
        self.clock = clock
        self._proof = None  # (Unix time, ticks) at which a verified server gave the time
        self.corrections = 0
        self._next = 0
        self._sync = sync
        self._trust = trust
        self.port = port

    @property
    def proven(self) -> bool:
        """Whether a verified server gave the time in this boot, and nobody has moved it since."""
        if self._proof is None:
            return False
        clock = self.clock
        seconds = clock.unix_time() - self._proof[0]
        ticks_s = clock.ticks_diff(clock.ticks_ms(), self._proof[1]) // 1000
        # Ticks wrap; a proof older than some days was renewed by then (`due`).
        return seconds > _TICKS_SERVE_S or abs(seconds - ticks_s) < _SLACK_S

    async def confirm(self, host: str, context: object) -> bool:
        """Ask `host` for its Date over verified HTTPS; any status serves, no identity is sent.

        More than five minutes off: the clock is set. Raises the connection's errors.
        """
        from .https import Fetcher

        self._next = self.clock.unix_time() + _HOUR
        fetcher = Fetcher(Deadlines(tcp_ms=8000))
        url = "https://%s:%d/" % (host, self.port)
        try:
            answer = await fetcher.request("HEAD", url, context=context)
        finally:
            forget("azure_iot.https")
        with Transient():
            from .dates import http_date

            date = http_date(answer.headers.get("date", ""))
        if date is not None:
            self.prove(date)
        return date is not None

    async def keep(self, host: str, make: "Callable") -> None:
        """Confirm the time, once per boot, then daily, beside a live connection.

        Only if a second TLS connection fits; `make()` gives its context.
        """
        if self.clock.unix_time() < self._next:
            return
        context = make()
        gc.collect()
        if context.profile.plan(host).peak * 3 // 2 > gc.mem_free():
            log.info("the time stays unconfirmed: no room for a second TLS connection")
            return
        try:
            await self.confirm(host, context)
        except AzureIoTError as error:
            log.info("the time stays unconfirmed: %s", error)

    def prove(self, date: int) -> None:
        """Take a time that a verified server gave."""
        if self._trust is not None:
            moved = self._trust.authenticated_time(date)
        else:
            moved = self.clock.authenticate(date)
        if moved:
            log.warning("the clock was wrong: set from the hub's answer")
            self.corrections += 1
        self._proof = (self.clock.unix_time(), self.clock.ticks_ms())
        self._next = date + _DAY

    async def repair(self, host: str, context: object) -> None:
        """Put the clock right by whatever helps: the hub's Date, a time server, at last the floor."""
        try:
            if await self.confirm(host, context):
                return
        except Exception as error:
            log.info("no time from %s: %r", host, error)
        offered = None
        if self._sync is not None:
            try:
                found = self._sync()
                offered = await found if hasattr(found, "send") else found
            except Exception as error:
                log.warning("time server: %r", error)
        if self._trust is not None:
            self._trust.repair_time(offered)
        elif offered is not None:
            self.clock.offer(offered, 0)

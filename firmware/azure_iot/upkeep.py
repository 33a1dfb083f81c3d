"""What keeps the trust store up to date beside the twin: methods, messages, inbox, probe, recovery.

Responsible for: knowing what is for the trust store, the queue of its work, the inbox file,
network recovery. Not for: packages named in the twin (updater.py), what came and how it is worked
on (arrivals.py, loaded for the moment). Source: contracts.md section 5, G1 to G9.

    direct method trust.install   payload: the package          -> {"version": n} or {"code": …}
    direct method trust.probe     payload: {"host", "port", "root"} -> the result
    C2D message, property trust=package          body: the package
    C2D messages, properties trust=part, index, count, sha256   body: at most 2 KB each

C2D is off unless `channels` names it: it subscribes to messages that an application may not want.
"""

import asyncio

from micropython import const

from . import hub, log
from .errors import AzureIoTError, TrustError
from .forever import forever
from .inbox import Inbox
from .transient import forget

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from .client import IoTHubDeviceClient
    from .trust.manager import TrustManager

_SELDOM = ["azure_iot.arrivals"] + [
    "azure_iot.trust." + name for name in ("parts", "probe", "files", "sources")
]
_LOOK_MS = const(2000)  # between looks at the inbox file and at recovery
_LATER = const(5)  # looks between tries of a package that memory was short for
_TRIES = const(3)
_WAITING = const(4)  # probes that may wait their turn
_PACKAGES = const(8)  # no more than one or two of a channel wait


class Upkeep:
    """Made and started by the agent for a managed device; `client.upkeep` is this object."""

    def __init__(
        self,
        client: "IoTHubDeviceClient",
        trust: "TrustManager",
        random: "Callable[[int], int]",
        *,
        channels: "tuple | list" = ("method", "inbox"),
        deadlines: "object | None" = None,
    ) -> None:
        self.client = client
        self.trust = trust
        self.channels = channels
        self.deadlines = deadlines
        self.parts = None  # trust.parts.Parts, while a package comes in parts
        self.left_before = 0  # messages left at the hub when the last part was taken
        self.left = False  # a package stays at the hub until the one before is installed
        self._jobs = Inbox(_WAITING + _PACKAGES)
        self._later = 0  # looks until a package is tried again,
        self._kept = None  # this one
        self.tries = 0  # of that package, for want of memory
        self._tasks = []
        self._random = random

    def start(self) -> None:
        """Subscribe to what the channels need and begin."""
        from .trust.files import remove

        remove(self.trust.store.path("method.new"))  # its caller got no answer
        self.client.upkeep = self
        if "method" in self.channels:
            self.client.want(hub.METHODS_FILTER)
        if "c2d" in self.channels:
            self.client.want_c2d()
        self._tasks = [
            asyncio.create_task(forever(work, lambda: self._tasks))
            for work in (self._look, self._work)
        ]

    def stop(self) -> None:
        """End the tasks."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()

    def _use_recovery(self) -> None:
        from .deadlines import Deadlines
        from .https import Fetcher
        from .tls.context import TLSContext
        from .trust.recovery import IDLE_MS, Recovery

        fetcher = Fetcher(Deadlines(read_ms=IDLE_MS))
        self.trust.recovery = Recovery(self.trust, fetcher, self._random, TLSContext)

    def takes(self, found: tuple) -> bool:
        """Tell whether a message (what hub.parse says of its topic) is for the trust store."""
        if found[0] == hub.METHOD:
            return found[1] in ("trust.install", "trust.probe") and "method" in self.channels
        return found[0] == hub.C2D and "c2d" in self.channels and "trust=" in found[1]

    def on_message(self, found: tuple, payload: "bytes | memoryview") -> None:
        """Take a message that fits the input buffer; nothing waits here."""
        from . import arrivals

        arrivals.take(self, found, payload)

    def sink(self, found: tuple, size: int) -> "object | None":
        """Give the sink for a message larger than the input buffer; None if it cannot be kept."""
        from . import arrivals

        return arrivals.sink(self, found, size)

    def queue(self, job: tuple) -> None:
        """Have a package or a probe done in its turn."""
        if job[0] == "probe" and len(self._jobs) >= _WAITING:
            log.warning("trust: a probe was dropped, too many wait")
            return
        self._jobs.put(job)

    async def _work(self) -> None:
        from . import arrivals

        arrivals.leftover(self)
        while True:
            if not len(self._jobs):
                arrivals = None
                forget(*_SELDOM)
            job = await self._jobs.get()
            from . import arrivals

            await (arrivals.install if job[0] == "install" else arrivals.probe)(self, *job[1:])
            job = None

    def try_later(self, source: object) -> bool:
        """Have a package that was acknowledged tried again in a while; False: often enough."""
        self.tries += 1
        self._kept = source
        self._later = _LATER if self.tries < _TRIES else 0
        return self._later > 0

    async def _install_inbox(self) -> "int | None":
        try:
            return self.trust.install_inbox(again=True)
        except TrustError as error:
            if error.code != "MEMORY":
                raise
        async with self.client.quiet():
            return self.trust.install_inbox()

    async def _look(self) -> None:
        """Look for the inbox file, and whether recovery is due, for ever."""
        while True:
            if self._later:
                self._later -= 1
                if not self._later:
                    self.queue(("install", self._kept, "c2d", None))
                    self._kept = None
            try:
                if "inbox" in self.channels and await self._install_inbox() is not None:
                    log.info("trust: a package from the inbox is installed")
                    self.client.report_soon()
                if self.trust.recovery is None and self.trust.recovery_urls():
                    self._use_recovery()
                if self.trust.next_recovery_ms() == 0:
                    async with self.client.quiet():
                        version = await self.trust.recovery.run()
                    log.info("trust: version %d by recovery", version)
                    self.client.retry_soon()
            except AzureIoTError as error:
                log.warning("trust: %s", error)
                self.client.report_soon()
            await asyncio.sleep_ms(_LOOK_MS)

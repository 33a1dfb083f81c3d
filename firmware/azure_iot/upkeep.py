"""What keeps the trust store up to date beside the twin: methods, messages, inbox, probe, recovery.

Responsible for: packages by direct method and C2D message (streamed to flash, whole or in parts),
the inbox file, root probes, network recovery. Not for: packages named in the twin (updater.py),
judging a package (trust/). Source: contracts.md section 5, trust-store sections 7.1, 8.2 and 10.

    direct method trust.install   payload: the package          -> {"version": n} or {"code": …}
    direct method trust.probe     payload: {"host", "port", "root"} -> the result
    C2D message, property trust=package          body: the package
    C2D messages, properties trust=part, index, count, sha256   body: at most 2 KB each

C2D is off unless `channels` names it: it subscribes to messages that an application may not want.
"""

import asyncio
import json

from micropython import const

from . import hub, log
from .bag import decode_bag
from .errors import AzureIoTError, TrustError
from .inbox import Inbox
from .large import Collector
from .tls.context import TLSContext
from .transport import open_tls
from .trust.errors import MalformedError, RefusedError
from .trust.files import PackageFile, remove

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from .client import IoTHubDeviceClient
    from .trust.manager import TrustManager

INSTALL = "trust.install"
PROBE = "trust.probe"

_LOOK_MS = const(2000)  # between looks at the inbox file and at recovery
_WAITING = const(4)  # packages and probes that may wait their turn
_MAX_REQUEST = const(1024)
_MAX_PART = const(4096)  # the operator's tool makes parts of 2 KB


class _Arrival:
    """A package on its way to flash; what MQTTClient writes a large message into."""

    def __init__(self, owner: "Upkeep", path: str, channel: str, rid: "str | None") -> None:
        self._owner = owner
        self.channel = channel
        self.rid = rid
        self._file = PackageFile(path)

    def write(self, part: "bytes | memoryview") -> None:
        """Take the next piece."""
        self._file.write(part)

    def close(self) -> None:
        """Queue the whole package; PUBACK may go, it is on flash."""
        self._owner.queue(("install", self._file.done(), self.channel, self.rid))

    def abort(self) -> None:
        """Forget what came: the connection ended in the middle."""
        self._file.abort()


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
        self._deadlines = deadlines
        self._jobs = Inbox(_WAITING)
        self._parts = None
        self._tasks = []
        self._random = random

    def start(self) -> None:
        """Subscribe to what the channels need and begin."""
        self.client.upkeep = self
        if self.trust.recovery_urls():
            self._use_recovery()
        if "method" in self.channels:
            self.client.want(hub.METHODS_FILTER)
        if "c2d" in self.channels:
            self.client.want_c2d()
        self._tasks = [asyncio.create_task(self._look()), asyncio.create_task(self._work())]

    def stop(self) -> None:
        """End the tasks."""
        for task in self._tasks:
            task.cancel()
        self._tasks = []

    def _use_recovery(self) -> None:
        from .deadlines import Deadlines
        from .https import Fetcher
        from .trust.recovery import IDLE_MS, Recovery

        fetcher = Fetcher(Deadlines(read_ms=IDLE_MS))
        self.trust.recovery = Recovery(self.trust, fetcher, self._random, TLSContext)

    # Arrivals

    def takes(self, found: tuple) -> bool:
        """Tell whether a message (what hub.parse says of its topic) is for the trust store."""
        if found[0] == hub.METHOD:
            return found[1] in (INSTALL, PROBE) and "method" in self.channels
        return found[0] == hub.C2D and "c2d" in self.channels and "trust=" in found[1]

    def on_message(self, found: tuple, payload: "bytes | memoryview") -> None:
        """Take a message that fits the input buffer; nothing waits here."""
        if found[0] == hub.METHOD and found[1] == PROBE:
            self.queue(("probe", _request(payload), found[2]))
            return
        if found[0] == hub.C2D:
            properties = decode_bag(found[1])
            if properties.get("trust") == "part":
                self._part(properties, payload)
                return
        arrival = self._arrival(found)
        if arrival is not None:
            try:
                arrival.write(payload)
            except TrustError as error:
                self._refused(error, arrival.rid)
                return
            arrival.close()

    def sink(self, found: tuple, size: int) -> "object | None":
        """Give the sink for a message larger than the input buffer; None if it cannot be kept."""
        if found[0] == hub.METHOD and found[1] == PROBE:
            return None
        if found[0] == hub.C2D and decode_bag(found[1]).get("trust") == "part":
            if size > _MAX_PART:
                log.warning("trust: a part of %d bytes is too large", size)
                return None
            return Collector(size, lambda body: self.on_message(found, body))
        return self._arrival(found)

    def _arrival(self, found: tuple) -> "_Arrival | None":
        channel, rid = ("method", found[2]) if found[0] == hub.METHOD else ("c2d", None)
        self.trust.store.make_folder()
        try:
            return _Arrival(self, self.trust.store.path(channel + ".new"), channel, rid)
        except TrustError as error:
            self._refused(error, rid)
            return None

    def _part(self, properties: dict, payload: "bytes | memoryview") -> None:
        from .trust.parts import Parts

        self.trust.store.make_folder()
        if self._parts is None:
            self._parts = Parts(self.trust.store.path("parts"))
        try:
            self._parts.begin(properties.get("sha256") or "", _number(properties, "count"))
            self._parts.add(_number(properties, "index"), payload)
            if self._parts.whole:
                self.queue(("install", self._parts.source(), "c2d", None))
        except TrustError as error:
            self._refused(error, None)

    def queue(self, job: tuple) -> None:
        """Have a package or a probe done in its turn."""
        dropped = self._jobs.put(job)
        if dropped is not None:
            log.warning("trust: a request was dropped, too many wait")

    # Work

    async def _work(self) -> None:
        while True:
            job = await self._jobs.get()
            if job[0] == "install":
                await self._install(*job[1:])
            else:
                await self.probe(*job[1:])

    async def _install(self, source: object, channel: str, rid: "str | None") -> None:
        try:
            version = await self.client.install_package(source, channel)
            await self._respond(rid, 200, {"version": version})
        except RefusedError as error:
            self._refused(error, rid)
        finally:
            source.close()
            if channel == "c2d" and self._parts is not None:
                self._parts.discard()
            remove(self.trust.store.path(channel + ".new"))
        self.client.report_soon()

    def _refused(self, error: TrustError, rid: "str | None") -> None:
        log.warning("trust package refused: %s", error)
        self.trust.note(error)
        self.client.report_soon()
        if rid is not None:
            body = {"code": error.code, "text": str(error)}
            asyncio.create_task(self._respond(rid, 400, body))

    async def _respond(self, rid: "str | None", status: int, body: dict) -> None:
        if rid is None or not self.client.connected.is_set():
            return
        try:
            await self.client.answer_method(rid, status, body)
        except AzureIoTError as error:
            log.warning("the answer to a trust method was not sent: %s", error)

    async def probe(self, request: dict, rid: "str | None" = None) -> None:
        """Make the probe asked for, with the hub's connection closed if memory is short."""
        from .trust.probe import probe

        try:
            found = await probe(self.trust, request, self._open)
            if found["result"] == "MEMORY" and self.client.connected.is_set():
                async with self.client.quiet():
                    found = await probe(self.trust, request, self._open)
            await self._respond(rid, 200, found)
        except TrustError as error:
            self._refused(error, rid)
        self.client.report_soon()

    async def _open(self, host: str, port: int, roots: object) -> "object":
        """Open a connection for a probe: no credential, no session."""
        return await open_tls(host, port, TLSContext(roots), deadlines=self._deadlines)

    async def _look(self) -> None:
        """Look for the inbox file, and whether recovery is due, for ever."""
        while True:
            try:
                if "inbox" in self.channels and self.trust.install_inbox() is not None:
                    log.info("trust: a package from the inbox is installed")
                    self.client.report_soon()
                if self.trust.recovery is None and self.trust.recovery_urls():
                    self._use_recovery()  # a bundle has brought the first address
                if self.trust.next_recovery_ms() == 0:
                    version = await self.trust.recovery.run()
                    log.info("trust: version %d by recovery", version)
                    self.client.retry_soon()
            except AzureIoTError as error:
                log.warning("trust: %s", error)
                self.client.report_soon()
            await asyncio.sleep_ms(_LOOK_MS)


def _request(payload: "bytes | memoryview") -> dict:
    """Read a probe's request; what is wrong with it is said by probe() itself."""
    if len(payload) <= _MAX_REQUEST:
        try:
            found = json.loads(payload)
            if isinstance(found, dict):
                return found
        except ValueError:
            log.warning("trust.probe: the payload is no JSON")
    return {}


def _number(properties: dict, name: str) -> int:
    text = properties.get(name) or ""
    if not text.isdigit() or len(text) > 4:
        raise MalformedError("parts: property %s is no number" % name)
    return int(text)

"""Trust packages and probes that came by direct method or C2D message.

Responsible for: streaming a package to flash, joining parts, the work itself and its answer. Not
for: what runs all the time (upkeep.py), which loads this module when something comes and forgets
it when nothing waits; judging a package (trust/). Source: contracts.md section 5, R-49.

What is refused is acknowledged: the hub would send it again for nothing. Not acknowledged, and so
sent again with the next connection, is what can be used later: a package while another one waits
to be installed, and a part out of order while the part before it may be at the hub still, because
a message was left there since the last part was taken. Without that the part before is gone, and
the operator's tool has to send the package again.
"""

import asyncio
import json

from micropython import const

from . import hub, log
from .bag import decode_bag
from .errors import AzureIoTError, TrustError
from .large import Collector
from .tls.context import TLSContext
from .transport import open_tls
from .trust.errors import RefusedError
from .trust.files import FileSource, PackageFile, exists, remove

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .upkeep import Upkeep

PROBE = "trust.probe"
_MAX_REQUEST = const(1024)
_MAX_PART = const(4096)  # the operator's tool makes parts of 2 KB
_MAX_PACKAGE = const(32768)


class _Arrival:
    """A package on its way to flash; what MQTTClient writes a large message into."""

    def __init__(self, owner: "Upkeep", path: str, channel: str, rid: "str | None") -> None:
        self._owner = owner
        self.channel = channel
        self.rid = rid
        self._file = PackageFile(path)
        self.abort = self._file.abort

    def write(self, part: "bytes | memoryview") -> None:
        """Take the next piece."""
        self._file.write(part)

    def close(self) -> None:
        """Queue the whole package; PUBACK may go, it is on flash."""
        self._owner.queue(("install", self._file.done(), self.channel, self.rid))


def take(owner: "Upkeep", found: tuple, payload: "bytes | memoryview") -> None:
    """Take a message that fits the input buffer (`found` is what hub.parse says of its topic)."""
    if found[0] == hub.METHOD and found[1] == PROBE:
        owner.queue(("probe", _request(payload), found[2]))
        return
    if _is_part(found):
        _take_part(owner, decode_bag(found[1]), payload)
        return
    arrival = _arrival(owner, found)
    if arrival is not None:
        try:
            arrival.write(payload)
            arrival.close()
        except TrustError as error:
            arrival.abort()
            _refused(owner, error, arrival.rid)


def sink(owner: "Upkeep", found: tuple, size: int) -> "object | None":
    """Give the sink for a message larger than the input buffer; None if it cannot be kept."""
    if found[0] == hub.METHOD and found[1] == PROBE:
        return None
    if not _is_part(found):
        return _arrival(owner, found, size)
    if size > _MAX_PART:
        log.warning("trust: a part of %d bytes is too large", size)
        return None
    return Collector(size, lambda body: take(owner, found, body))


def _is_part(found: tuple) -> bool:
    return found[0] == hub.C2D and decode_bag(found[1]).get("trust") == "part"


def _arrival(owner: "Upkeep", found: tuple, size: int = 0) -> "_Arrival | None":
    channel, rid = ("method", found[2]) if found[0] == hub.METHOD else ("c2d", None)
    store = owner.trust.store
    store.make_folder()
    path = store.path(channel + ".new")
    if size > _MAX_PACKAGE:
        error = RefusedError("package larger than 32768 bytes", "TOO_LARGE")
    elif exists(path):
        error = RefusedError("another package waits: send again", "STORAGE")
        if rid is None:
            owner.left = True
            raise error  # not acknowledged: the hub sends it again
    else:
        try:
            return _Arrival(owner, path, channel, rid)
        except TrustError as failure:
            error = failure
    _refused(owner, error, rid)
    return None


def _take_part(owner: "Upkeep", properties: dict, payload: "bytes | memoryview") -> None:
    from .trust.parts import Parts

    store = owner.trust.store
    store.make_folder()
    if owner.parts is None:
        owner.parts = Parts(store.path("parts"))
    parts = owner.parts
    digest = properties.get("sha256") or ""
    if parts.whole and digest != parts.sha256:
        owner.left = True
        raise RefusedError("another package waits: send again", "STORAGE")
    left = owner.client.stats.get("handler_errors", 0)
    index = 0
    try:
        parts.begin(digest, _number(properties, "count"))
        seen = parts.next
        index = _number(properties, "index")
        parts.add(index, payload)
        if parts.next > seen:
            owner.left_before = left
            if parts.whole:
                owner.queue(("install", parts.source(), "c2d", None))
    except TrustError as error:
        if index > parts.next and left != owner.left_before:
            raise  # the hub sends it again, behind the one before it
        _refused(owner, error, None)


def leftover(owner: "Upkeep") -> None:
    """Queue what had come whole, and was acknowledged, when the power was cut; drop the rest."""
    path = owner.trust.store.path
    wanted = "c2d" in owner.channels
    if exists(path("c2d.new")):
        if wanted:
            owner.queue(("install", FileSource(path("c2d.new")), "c2d", None))
        else:
            remove(path("c2d.new"))
    if not exists(path("parts.note")):
        return
    from .trust.parts import Parts

    parts = Parts(path("parts"))
    if not wanted:
        parts.discard()
    if not parts.whole:
        return
    try:
        owner.queue(("install", parts.source(), "c2d", None))
        owner.parts = parts
    except TrustError as error:
        _refused(owner, error, None)


async def install(owner: "Upkeep", source: object, channel: str, rid: "str | None") -> None:
    """Install a whole package and answer."""
    client = owner.client
    path = source.path
    if not exists(path):
        return  # queued twice
    # What came by C2D was acknowledged and does not come again: it is kept until it is judged.
    keep = channel == "c2d"
    try:
        version = await client.install_package(source, channel)
        keep = False
        await _respond(client, rid, 200, {"version": version})
    except Exception as error:
        keep = keep and getattr(error, "code", "MEMORY") == "MEMORY" and owner.try_later(source)
        if not isinstance(error, RefusedError):
            raise
        _refused(owner, error, rid)
    finally:
        source.close()
        if not keep:
            if owner.parts is not None and path == owner.trust.store.path("parts"):
                owner.parts.discard()
            remove(path)
            if channel == "c2d":
                owner.tries = 0
                if owner.left:
                    owner.left = False
                    client.retry_soon()
    client.report_soon()


async def probe(owner: "Upkeep", request: dict, rid: "str | None") -> None:
    """Make the probe asked for, with the hub's connection closed if memory is short."""
    from .trust.probe import probe

    async def opener(host: str, port: int, roots: object) -> object:
        # No credential, no session.
        return await open_tls(host, port, TLSContext(roots), deadlines=owner.deadlines)

    client = owner.client
    try:
        found = await probe(owner.trust, request, opener)
        if found["result"] == "MEMORY" and client.connected.is_set():
            async with client.quiet():
                found = await probe(owner.trust, request, opener)
        await _respond(client, rid, 200, found)
    except TrustError as error:
        _refused(owner, error, rid)
    client.report_soon()


def _refused(owner: "Upkeep", error: TrustError, rid: "str | None") -> None:
    log.warning("trust package refused: %s", error)
    owner.trust.note(error)
    owner.client.report_soon()
    body = {"code": error.code, "text": str(error)}
    asyncio.create_task(_respond(owner.client, rid, 400, body))


async def _respond(client: object, rid: "str | None", status: int, body: dict) -> None:
    if rid is None or not client.connected.is_set():
        return
    try:
        await client.answer_method(rid, status, body)
    except AzureIoTError as error:
        log.warning("the answer to a trust method was not sent: %s", error)


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
        raise RefusedError("parts: property %s is no number" % name)
    return int(text)

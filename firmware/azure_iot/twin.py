"""The device twin: requests matched to answers, desired changes in order without gaps.

Responsible for: GET and PATCH with request ids and time limits, `$version` order. Not for: MQTT
(mqtt/), what a property means (the application, updater.py).
Source: azure-docs "Understand and use device twins", topics in hub.py.

Theory of operation. The hub sends a desired change only while the device is connected, and numbers
them with `$version`. A change whose number is not the next one means that others were missed: the
whole twin is fetched and handed out as one complete change. After every reconnect the same fetch
closes the gap that the pause may have left. Older numbers are dropped, so nothing comes twice.
Where nobody took the changes and the inbox overflowed, what waits there is dropped and the whole
twin fetched, too: the first change that is read then is complete.

A device that was deleted and created anew has another twin: its desired section may have the number
we know, but the number of its reported one is smaller.
"""

import asyncio
import json

from . import hub, log
from .errors import ConnectionDroppedError, ConnectionFailedError, ProtocolError, ServiceError
from .inbox import Inbox


class DesiredChange:
    """A change of desired properties: `patch` (without `$version`), `version`, `complete`.

    `complete` is True when `patch` is the whole desired section, not a difference.
    """

    def __init__(self, patch: dict, version: int, complete: bool) -> None:
        self.patch = patch
        self.version = version
        self.complete = complete

    def __repr__(self) -> str:
        return "<DesiredChange to version %d>" % self.version


class Twin:
    """Twin requests over one MQTT client: `await ready()`, then `await publish(topic, payload, qos)`.

    They go out with QoS 0: on this connection or not at all, since who asked has a time limit.
    """

    def __init__(
        self, ready: "object", publish: "object", timeout_ms: int, inbox_size: int
    ) -> None:
        self._ready = ready
        self._publish = publish
        self._timeout_ms = timeout_ms
        self.pending = {}
        self._rid = 0
        self._fetching = self.wanted = self.refreshing = False
        self.version = None
        self._reported = 0  # its number
        self.inbox = Inbox(inbox_size)
        self.listeners = []
        self.gaps = 0

    async def get(self) -> dict:
        """Fetch the twin: `{"desired": {…,"$version":n}, "reported": {…,"$version":n}}`."""
        _, body = await self._request(hub.twin_get_topic, b" ")
        try:
            twin = json.loads(body)
        except ValueError:
            twin = None
        if not isinstance(twin, dict) or not isinstance(twin.get("desired"), dict):
            raise ProtocolError("the hub sent a twin that is no JSON object", "twin")
        reported = twin.get("reported")
        if isinstance(reported, dict):
            self._note_reported(reported.get("$version"))
        return twin

    async def patch(self, properties: "dict | bytes") -> "int | None":
        """Send reported properties, or their JSON; return their new `$version`.

        None deletes a member. Raises ValueError for what JSON cannot say.
        """
        body = properties
        if not isinstance(body, bytes):
            body = hub.to_json(properties)
        if len(body) > hub.MAX_REPORTED:
            raise ServiceError(
                "reported properties of %d bytes, the hub takes %d"
                % (len(body), hub.MAX_REPORTED),
                413,
            )
        version, _ = await self._request(hub.twin_patch_topic, body)
        self._note_reported(version)
        return version

    def _note_reported(self, version: object) -> None:
        if isinstance(version, int):
            if version < self._reported:
                self.version = None  # another twin
            self._reported = version

    async def _request(self, topic: "object", body: bytes) -> tuple:
        self._rid += 1
        rid = "%x" % self._rid
        entry: list = [asyncio.Event(), None, None, b""]
        try:
            await asyncio.wait_for_ms(
                self._exchange(topic(rid), rid, body, entry), self._timeout_ms
            )
        except asyncio.TimeoutError:
            raise ConnectionFailedError(
                "the hub gave no answer to a twin request within %d ms" % self._timeout_ms, "twin"
            )
        finally:
            self.pending.pop(rid, None)
        status = entry[1]
        if isinstance(status, Exception):
            raise status
        if status >= 300:
            raise ServiceError(
                "the hub refused a twin request with status %d" % status, status, entry[2]
            )
        return entry[2], entry[3]

    async def _exchange(self, topic: str, rid: str, body: bytes, entry: list) -> None:
        await self._ready()
        self.pending[rid] = entry
        await self._publish(topic, body, 0)
        await entry[0].wait()

    def on_result(self, status: int, rid: str, number: "int | None", body: bytes) -> None:
        """Take an answer; one that nobody waits for any more is dropped.

        `number` is its `$version`, of a refusal its `retry-after` in seconds.
        """
        entry = self.pending.get(rid)
        if entry is None:
            log.debug("twin answer %d to an unknown request", status)
            return
        entry[1] = status
        entry[2] = number
        entry[3] = body
        entry[0].set()

    def on_disconnected(self) -> None:
        """End every waiting request: its answer cannot come any more."""
        for entry in self.pending.values():
            entry[1] = ConnectionDroppedError("the connection ended before the twin answer came")
            entry[0].set()

    def begin_anew(self) -> None:
        """Forget a request whose asyncio.run has ended."""
        self.pending = {}
        self._fetching = self.refreshing = False
        self.version = None

    def on_desired(self, body: bytes) -> bool:
        """Take a desired change; False when others are missing and `refresh` is needed."""
        try:
            patch = json.loads(body)
            version = patch.pop("$version")
        except (ValueError, KeyError, AttributeError, TypeError):
            log.warning("a desired change that is no JSON object with $version: asking for all")
            return False
        if self.version is None or version > self.version + 1:
            self.gaps += self.version is not None
            return False
        if version == self.version + 1:
            try:
                return self._deliver(DesiredChange(patch, version, False))
            except Exception as error:
                log.warning("a desired change was not taken: %r", error)
                return False
        return True

    async def refresh(self) -> None:
        """Fetch the twin and hand out its desired section if it is newer than what was seen."""
        self.wanted = True
        if self._fetching:
            return
        self._fetching = True
        try:
            while self.wanted:  # asked for again meanwhile: the answer may be too old for that
                self.wanted = False
                desired = (await self.get())["desired"]
        finally:
            self._fetching = False
        version = desired.pop("$version", 0)
        # A smaller number means another twin (the device was created anew): start over.
        if version != self.version:
            self._deliver(DesiredChange(desired, version, True))

    def _deliver(self, change: DesiredChange) -> bool:
        if self.inbox.emptied() and not change.complete:
            self.version = None  # so that the whole is handed out
            return False
        for listener in self.listeners:
            listener(change)
        self.version = change.version  # not before: what a listener could not take comes again
        self.inbox.put(change)
        return True

"""One accepted connection of a device or module: what each topic means.

Responsible for: subscriptions, telemetry, twin requests, method responses, deliveries, the
will. Not for: judging the CONNECT (`hub.py`), packets (`connection.py`).
Wire format: learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub.

Replies and requests are routed by connection: `$iothub/twin/res/#` carries no device id, so
matching topics as a broker does would cross-talk.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from taproot.emulator.c2d import Letter
from taproot.emulator.codec import Connect
from taproot.emulator.connection import Connection, Reject
from taproot.emulator.registry import Identity
from taproot.emulator.rules import PREVIEW_VERSIONS
from taproot.emulator.strict import PublishFrame
from taproot.emulator.telemetry import format_bag, parse_bag
from taproot.emulator.twin import TwinError

if TYPE_CHECKING:
    from taproot.emulator.hub import Hub

TWIN_RESPONSES = "$iothub/twin/res/#"
DESIRED = "$iothub/twin/PATCH/properties/desired/#"
METHODS = "$iothub/methods/POST/#"
CREDENTIALS = ("$iothub/credentials/res/#", "$iothub/credential/res/#")
_TWIN_GET = "$iothub/twin/GET/"
_TWIN_PATCH = "$iothub/twin/PATCH/properties/reported/"
_METHOD_RESPONSE = "$iothub/methods/res/"
_CREDENTIAL_REQUESTS = ("$iothub/credentials/POST/", "$iothub/credential/POST/")


class Session:
    """One accepted connection of an identity: the hub's handler of it."""

    def __init__(
        self,
        hub: Hub,
        record: Identity,
        connect: Connect,
        query: dict[str, str],
        expiry: float | None,
        session_present: bool,
        filters: dict[str, int],
    ) -> None:
        self.hub = hub
        self.record = record
        self.identity = record.id
        self.expiry = expiry
        self.session_present = session_present
        self.filters = filters
        self.api_version = query.get("api-version", "")
        self.product_info = query.get("DeviceClientType")
        self.model_id = query.get("model-id")
        self.connection: Connection | None = None
        self._will = connect.will
        self._root = record.topic_root
        self._events = f"{self._root}messages/events"

    @property
    def preview(self) -> bool:
        """True when preview members are spoken on this connection."""
        return self.hub.preview and self.api_version in PREVIEW_VERSIONS

    # -- what the connection tells ----------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """CONNACK has been sent."""
        self.connection = connection
        self.record.session = self
        self.record.connects += 1
        self.record.state_changed = self.record.last_activity = self.hub.now()
        self.hub.wake()
        self.pump()

    def closed(self, reason: str, clean: bool) -> None:
        """The connection is over."""
        if self.record.session is self:
            self.record.session = None
            self.record.state_changed = self.hub.now()
            self.record.queue.lost()
        self.connection = None
        if not clean and self._will is not None:
            self._publish_will()

    def _publish_will(self) -> None:
        will = self._will
        assert will is not None
        if not self._is_events(will.topic):
            self.hub.log("strictness", rule="hub-will-topic", closed=False,
                         identity=self.identity, text="the will is not a telemetry topic")  # fmt: skip
            return
        bag = parse_bag(will.topic[len(self._events) + 1 :])
        bag["iothub-MessageType"] = "Will"
        self.hub.record(self.record, bag, will.payload, qos=min(int(will.qos), 1), dup=False)
        self.hub.log("will", identity=self.identity, topic=will.topic, size=len(will.payload))

    def subscribe(self, topic_filter: str, qos: int) -> int:
        """Grant 0 or 1, or refuse with 0x80."""
        if not self._knows(topic_filter):
            if self.hub.reactions.unknown_filter == "close":
                raise Reject(f"unknown filter {topic_filter[:80]!r}")
            return 0x80
        if topic_filter not in self.filters:
            if len(self.filters) >= self.hub.limits.subscriptions:
                if self.hub.reactions.too_many_filters == "close":
                    raise Reject("too many subscriptions")
                return 0x80
        granted = min(qos, 1)
        self.filters[topic_filter] = granted
        return granted

    def _knows(self, topic_filter: str) -> bool:
        if topic_filter in (TWIN_RESPONSES, DESIRED, METHODS):
            return True
        if topic_filter in CREDENTIALS:
            return self.preview and self.hub.renewal is not None
        if self.record.module_id:
            return topic_filter in (f"{self._root}inputs/#", f"{self._root}#")
        return topic_filter == f"{self._root}messages/devicebound/#"

    def ready(self) -> None:
        """A SUBACK has been sent."""
        self.hub.wake()
        self.pump()

    def unsubscribe(self, topic_filter: str) -> None:
        """Stop delivering."""
        self.filters.pop(topic_filter, None)

    def publish(self, frame: PublishFrame) -> float | None:
        """Take a PUBLISH; return seconds to hold its PUBACK back."""
        if frame.qos == 2:
            raise Reject("PUBLISH with QoS 2")
        topic = frame.topic
        if self._is_events(topic):
            return self._telemetry(frame)
        if topic.startswith(_TWIN_GET):
            self._twin_get(topic, frame)
        elif topic.startswith(_TWIN_PATCH):
            self._twin_patch(topic, frame)
        elif topic.startswith(_METHOD_RESPONSE):
            self._method_response(topic, frame)
        elif topic.startswith(_CREDENTIAL_REQUESTS) and self.preview and self.hub.renewal:
            self._publish_event(frame)
            self.hub.renewal(self, _rid(topic), frame.payload)
        elif self.hub.reactions.unknown_topic == "close":
            raise Reject(f"unknown topic {topic[:80]!r}")
        else:
            self._publish_event(frame, ignored=True)
        return None

    # -- telemetry --------------------------------------------------------------------------

    def _is_events(self, topic: str) -> bool:
        events = self._events
        return topic.startswith(events) and (
            len(topic) == len(events) or topic[len(events)] == "/"
        )

    def _telemetry(self, frame: PublishFrame) -> float | None:
        raw = frame.topic[len(self._events) + 1 :]
        bag: dict[str, Any] = parse_bag(raw) if raw else {}
        if frame.retain:
            bag["mqtt-retain"] = "true"
        if len(frame.payload) + len(raw) > self.hub.limits.d2c_bytes:
            raise Reject(f"a message of {len(frame.payload)} bytes is above the limit")
        wait = self.hub.take_d2c()
        message = self.hub.record(
            self.record, bag, frame.payload, qos=frame.qos, dup=frame.dup,
            packet_id=frame.packet_id,
        )  # fmt: skip
        self._publish_event(frame, message=message.seq)
        if wait:
            self.hub.log("throttled", identity=self.identity, what="d2c", seconds=wait)
        return wait or None

    def _publish_event(self, frame: PublishFrame, **more: Any) -> None:
        self.hub.log(
            "publish", identity=self.identity, topic=frame.topic, qos=frame.qos, dup=frame.dup,
            retain=frame.retain, size=len(frame.payload), **more,
        )  # fmt: skip

    # -- twin -------------------------------------------------------------------------------

    def _twin_get(self, topic: str, frame: PublishFrame) -> None:
        self._publish_event(frame)
        rid = _rid(topic)
        if not self._twin_fault(rid):
            self.reply_twin(200, rid, self.record.twin.for_device())

    def _twin_patch(self, topic: str, frame: PublishFrame) -> None:
        self._publish_event(frame)
        rid = _rid(topic)
        if self._twin_fault(rid):
            return
        reported = self.record.twin.reported
        reported.limit = self.hub.limits.twin_bytes
        try:
            patch = json.loads(frame.payload)
        except (ValueError, RecursionError):
            self._twin_error(rid, 400, 400004, "The body is not JSON")
            return
        try:
            change = reported.patch(patch)
        except TwinError as error:
            self._twin_error(rid, error.status, error.code, str(error))
            return
        self.hub.log("reported", identity=self.identity, version=reported.version, patch=change)
        self._twin_publish(f"$iothub/twin/res/204/?$rid={rid}&$version={reported.version}", b"")

    def _twin_fault(self, rid: str) -> bool:
        """Answer with what a fault or the throttle asks for; True when that was done."""
        fault = self.hub.engine.faults.take(self.identity, "reply", None)
        if fault is not None:
            self.hub.log("fault", identity=self.identity, fault=fault.text)
            if fault.action == "wrong_rid":
                self.reply_twin(200, f"{rid}-wrong", self.record.twin.for_device())
            else:
                status = 429 if fault.action == "throttle" else fault.code
                self._twin_error(rid, status, retry_after=int(fault.seconds))
            return True
        if self.hub.take_twin():
            self._twin_error(rid, 429)
            return True
        return False

    def _twin_error(
        self, rid: str, status: int, code: int = 0, text: str = "", retry_after: int = 0
    ) -> None:
        body: dict[str, Any] = {"errorCode": code or status * 1000 + 1}
        body["message"] = text or ("Throttled" if status == 429 else "Error")
        body["trackingId"] = f"{self.hub.engine.recorder.seq:08x}"
        self.hub.log("twin_error", identity=self.identity, status=status, text=body["message"])
        self.reply_twin(status, rid, body, f"&retry-after={retry_after}" if retry_after else "")

    def reply_twin(self, status: int, rid: str, body: Any, more: str = "") -> None:
        """Send a twin response to this connection and no other."""
        data = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        self._twin_publish(f"$iothub/twin/res/{status}/?$rid={rid}{more}", data)

    def _twin_publish(self, topic: str, body: bytes) -> None:
        self._send(TWIN_RESPONSES, topic, body)

    def push_desired(self, change: dict[str, Any], version: int) -> bool:
        """Send a desired patch; False when the device does not listen."""
        body = json.dumps({**change, "$version": version}, separators=(",", ":"))
        topic = f"$iothub/twin/PATCH/properties/desired/?$version={version}"
        return self._send(DESIRED, topic, body.encode())

    # -- methods, cloud-to-device -----------------------------------------------------------

    def send_method(self, name: str, rid: str, body: bytes) -> bool:
        """Send a method request."""
        return self._send(METHODS, f"$iothub/methods/POST/{name}/?$rid={rid}", body)

    def _method_response(self, topic: str, frame: PublishFrame) -> None:
        self._publish_event(frame)
        status = topic[len(_METHOD_RESPONSE) :].partition("/")[0]
        try:
            number = int(status)
        except ValueError:
            raise Reject(f"method status {status[:20]!r} is not a number") from None
        if not self.record.calls.answer(_rid(topic), number, frame.payload):
            self.hub.log("method_unmatched", identity=self.identity, rid=_rid(topic))

    def pump(self) -> None:
        """Send what is due from the queue, if the device has subscribed."""
        topic_filter = f"{self._root}messages/devicebound/#"
        qos = self.filters.get(topic_filter)
        if qos is None or self.connection is None:
            return
        queue = self.record.queue
        for letter in queue.due():
            if self.connection is None:
                return
            self._send_letter(letter, qos)

    def _send_letter(self, letter: Letter, qos: int) -> None:
        assert self.connection is not None
        topic = f"{self._root}messages/devicebound/{format_bag(letter.bag)}"
        dup = bool(qos) and letter.deliveries > 1
        self.hub.log("deliver", identity=self.identity, topic=topic, qos=qos, dup=dup,
                     message_id=letter.id, size=len(letter.body))  # fmt: skip
        if qos:
            letter.packet_id = self.connection.deliver(
                topic, letter.body, 1, lambda: self._c2d_done(letter), dup, letter.packet_id
            )
        else:
            self.connection.deliver(topic, letter.body)
            self.record.queue.done(letter)

    def _c2d_done(self, letter: Letter) -> None:
        self.record.queue.done(letter)
        self.hub.log("c2d_done", identity=self.identity, message_id=letter.id)

    def send_input(self, name: str, body: bytes, properties: dict[str, str | None]) -> bool:
        """Send a message to an input of this module."""
        for topic_filter in (f"{self._root}inputs/#", f"{self._root}#"):
            if topic_filter in self.filters:
                topic = f"{self._root}inputs/{name}/{format_bag(properties)}"
                return self._send(topic_filter, topic, body)
        return False

    def send_credentials(self, topic: str, body: bytes) -> bool:
        """Send a certificate renewal reply, on whichever root the device has subscribed to."""
        return any(self._send(f, topic, body) for f in CREDENTIALS if f in self.filters)

    def _send(self, topic_filter: str, topic: str, body: bytes) -> bool:
        """Send on a subscription at its QoS; False when there is none."""
        qos = self.filters.get(topic_filter)
        if qos is None or self.connection is None:
            self.hub.log("unheard", identity=self.identity, topic=topic)
            return False
        self.hub.log("deliver", identity=self.identity, topic=topic, qos=qos, size=len(body))
        self.connection.deliver(topic, body, qos)
        return True


def _rid(topic: str) -> str:
    """Return the request id of a topic, byte for byte; without one the request is refused."""
    _, _, query = topic.partition("?")
    for part in query.split("&"):
        if part.startswith("$rid="):
            return part[5:]
    raise Reject(f"no $rid in {topic[:80]!r}")

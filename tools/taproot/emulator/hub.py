"""The hub itself: who may connect, what each topic means, what goes to which device.

Responsible for: judging a CONNECT for the hub, sessions with their subscriptions, telemetry,
twins, methods and cloud-to-device messages over MQTT, one connection per identity, limits and
throttling. Not for: packets (`connection.py`), records (`registry.py`), DPS (`dps.py`).
Wire format: learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub.

Replies and requests are routed by connection: `$iothub/twin/res/#` carries no device id, so
matching topics as a broker does would cross-talk.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from taproot.emulator import credentials, methods
from taproot.emulator.c2d import Letter
from taproot.emulator.codec import Connect
from taproot.emulator.connection import Connection, Engine, Link, Refusal, Reject
from taproot.emulator.credentials import Refused
from taproot.emulator.methods import MethodResult
from taproot.emulator.registry import CA, SAS, Identity, Registry
from taproot.emulator.strict import PublishFrame
from taproot.emulator.telemetry import Message, Messages, format_bag, parse_bag, split_bag
from taproot.emulator.throttle import Bucket
from taproot.emulator.twin import TwinError

STABLE_VERSIONS = ("2018-06-30", "2019-10-01", "2020-09-30", "2021-04-12")
PREVIEW_VERSIONS = ("2025-08-01-preview",)

TWIN_RESPONSES = "$iothub/twin/res/#"
DESIRED = "$iothub/twin/PATCH/properties/desired/#"
METHODS = "$iothub/methods/POST/#"
CREDENTIALS = ("$iothub/credentials/res/#", "$iothub/credential/res/#")
_TWIN_GET = "$iothub/twin/GET/"
_TWIN_PATCH = "$iothub/twin/PATCH/properties/reported/"
_METHOD_RESPONSE = "$iothub/methods/res/"
_CREDENTIAL_REQUESTS = ("$iothub/credentials/POST/", "$iothub/credential/POST/")


@dataclass
class Reactions:
    """What nobody can know without a live hub: each guess is a switch."""

    unknown_filter: str = "suback"  # "suback" = 0x80, "close"
    too_many_filters: str = "suback"  # "suback" = 0x80, "close"
    unknown_topic: str = "close"  # "close", "ignore"
    missing_api_version: str = (
        "report"  # "report" = accept and log a client error, "refuse", "accept"
    )
    unknown_api_version: int = 5  # CONNACK code
    client_id_mismatch: int = 5  # CONNACK code
    unknown_host: int = 5  # CONNACK code
    throttled_connect: int = 3  # CONNACK code; 0 closes without one
    clean_session_drops_c2d: bool = True

    _CHOICES = {
        "unknown_filter": ("suback", "close"),
        "too_many_filters": ("suback", "close"),
        "unknown_topic": ("close", "ignore"),
        "missing_api_version": ("report", "refuse", "accept"),
    }

    def __post_init__(self) -> None:
        for name, allowed in self._CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}")


@dataclass
class Limits:
    """Documented limits (some pages are years old: numbers may have moved)."""

    subscriptions: int = 5
    d2c_bytes: int = 262_144
    c2d_bytes: int = 65_536
    c2d_pending: int = 50
    c2d_deliveries: int = 10
    c2d_ttl: float = 3600.0
    twin_bytes: int = 32_768
    tags_bytes: int = 8_192
    connects_per_second: float = 0.0  # S1: 100; 0 is no limit
    d2c_per_second: float = 0.0  # S1: 100
    twin_per_second: float = 0.0  # S1: 50
    messages_kept: int = 100_000


# An answer to a certificate request: (session, request id, payload) -> replies are sent by it.
Renewal = Callable[["Session", str, bytes], None]


@dataclass
class Hub:
    """One IoT hub. `hosts` are the names it answers to; the first is in connection strings."""

    engine: Engine
    hosts: list[str] = field(default_factory=lambda: ["localhost"])
    limits: Limits = field(default_factory=Limits)
    reactions: Reactions = field(default_factory=Reactions)
    preview: bool = False
    strict_names: bool = True
    renewal: Renewal | None = None
    name: str = "hub"
    skew: float = 0.0

    def __post_init__(self) -> None:
        self.now = self.engine.now
        self.log = self.engine.recorder.emit
        self.registry = Registry(self.now, lambda: self.hosts[0])
        self.messages = Messages(self.limits.messages_kept)
        self._connects = Bucket(self.limits.connects_per_second, self.now)
        self._d2c = Bucket(self.limits.d2c_per_second, self.now)
        self._twins = Bucket(self.limits.twin_per_second, self.now)
        self._connected: list[asyncio.Event] = []
        self._chains: dict[str, float] = {}  # leaf SHA-256 of chains judged good -> when

    # -- CONNECT ----------------------------------------------------------------------------

    def handles(self, username: str) -> bool:
        """The hub takes every user name that DPS has left."""
        return True

    def accept(self, connect: Connect, chain: Sequence[bytes], link: Link) -> Session | Refusal:
        """Judge a CONNECT."""
        try:
            host, client_id, query = _split_username(connect.username or "")
        except ValueError as error:
            return Refusal(5, str(error))
        found = self.registry.find(client_id)
        identity = found.id if found else None
        if host.lower() not in (name.lower() for name in self.hosts):
            return Refusal(self.reactions.unknown_host, f"this hub is not '{host}'", identity)
        if connect.client_id != client_id:
            text = "the client id is not that of the user name"
            return Refusal(self.reactions.client_id_mismatch, text, identity)
        refusal = self._check_version(query, identity)
        if refusal is not None:
            return refusal
        if found is None:
            return Refusal(5, "the device is not registered")
        if not found.enabled or not self.registry.devices[found.device_id].enabled:
            return Refusal(5, "the device is disabled", identity)
        try:
            expiry = self.authenticate(found, host, connect.password, chain)
        except Refused as refused:
            return Refusal(5, str(refused), identity)
        if self._connects.take():
            text = "more connects per second than the hub allows"
            return Refusal(self.reactions.throttled_connect, text, identity)
        return self._begin(found, connect, query, expiry)

    def _check_version(self, query: dict[str, str], identity: str | None) -> Refusal | None:
        version = query.get("api-version")
        if not version:
            reaction = self.reactions.missing_api_version
            if reaction == "refuse":
                return Refusal(5, "no api-version in the user name", identity)
            if reaction == "report":
                self.log("strictness", rule="hub-api-version", closed=False, identity=identity,
                         text="no api-version in the user name")  # fmt: skip
            return None
        if version in STABLE_VERSIONS or (self.preview and version in PREVIEW_VERSIONS):
            return None
        text = f"unknown api-version '{version[:40]}'"
        if version in PREVIEW_VERSIONS:
            text = f"api-version '{version}' needs the preview switch"
        return Refusal(self.reactions.unknown_api_version, text, identity)

    def authenticate(
        self, found: Identity, host: str, password: bytes | None, chain: Sequence[bytes]
    ) -> float | None:
        """Raise Refused, or return when the credential ends (None: a certificate)."""
        if password:
            return self._check_token(found, host, password)
        if found.auth == SAS:
            raise Refused("no password: the device authenticates with a token")
        if not chain:
            raise Refused("neither a token nor a client certificate")
        self._check_certificate(found, chain)
        return None

    def _check_token(self, found: Identity, host: str, password: bytes) -> float:
        try:
            text = password.decode()
        except UnicodeDecodeError:
            raise Refused("the password is not text") from None
        return self.check_token(found, host, text)

    def check_token(self, found: Identity, host: str, text: str) -> float:
        """Verify a token for an identity: its own keys, or those of a policy that may connect."""
        policy = credentials.parse_token(text).policy
        if policy is not None:
            known = self.registry.policies.get(policy)
            if known is None or "DeviceConnect" not in known.rights:
                raise Refused(f"policy '{policy[:40]}' may not connect devices")
            keys: tuple[str, ...] = known.keys
        elif found.auth != SAS:
            raise Refused("the device authenticates with a certificate")
        else:
            keys = (found.primary_key, found.secondary_key)
        resource = f"{host}/{found.resource}"
        return float(credentials.check_token(text, resource, keys, self.now(), self.skew).expiry)

    def _check_certificate(self, found: Identity, chain: Sequence[bytes]) -> None:
        sha1, sha256 = credentials.thumbprints(chain[0])
        if sha256 in self.registry.revoked:
            raise Refused("the certificate is revoked")
        credentials.check_dates(chain[0], self.now())
        if found.auth != CA:
            if sha1 not in found.thumbprints and sha256 not in found.thumbprints:
                raise Refused("the certificate's thumbprint is not registered")
            return
        name = credentials.common_name(chain[0])
        if name != found.id:
            raise Refused("the certificate's common name is not the device id")
        credentials.check_chain(chain, self.registry.roots, self.now())

    def _begin(
        self, found: Identity, connect: Connect, query: dict[str, str], expiry: float | None
    ) -> Session:
        old = found.session
        if old is not None and old.connection is not None:
            self.log("log", code=400027, identity=found.id,
                     text="ConnectionForcefullyClosedOnNewConnection")  # fmt: skip
            old.connection.drop("a newer connection of the same identity")
        if connect.clean_session:
            present = False
            if self.reactions.clean_session_drops_c2d:
                found.queue.purge()
            filters: dict[str, int] = {}
            found.filters = None
        else:
            present = found.filters is not None
            filters = found.filters if found.filters is not None else {}
            found.filters = filters
        found.ever_connected = True
        return Session(self, found, connect, query, expiry, present, filters)

    # -- what operators do ------------------------------------------------------------------

    def sessions(self) -> list[Session]:
        """Return the live sessions."""
        return [found.session for found in self.registry.all() if found.session is not None]

    def drop(
        self, identity: str | None = None, reason: str = "dropped", reset: bool = True
    ) -> int:
        """Drop the connection of one identity, or of all; return how many."""
        count = 0
        for session in self.sessions():
            if identity in (None, session.identity) and session.connection is not None:
                session.connection.drop(reason, reset=reset)
                count += 1
        return count

    def set_enabled(self, identity: str, enabled: bool, reason: str | None = None) -> None:
        """Enable or disable a device; a disabled one is disconnected."""
        found = self.registry.get(identity)
        found.enabled, found.status_reason = enabled, reason
        if not enabled:
            self._drop_family(found, "the device was disabled")

    def remove(self, identity: str) -> None:
        """Remove an identity and disconnect it."""
        self._drop_family(self.registry.remove(identity), "the device was removed")

    def _drop_family(self, found: Identity, reason: str) -> None:
        for one in (found, *found.modules.values()):
            if one.session is not None and one.session.connection is not None:
                one.session.connection.drop(reason)

    def send_c2d(
        self,
        identity: str,
        body: bytes,
        properties: dict[str, str | None] | None = None,
        **how: Any,
    ) -> Letter:
        """Queue a cloud-to-device message and send it if the device listens."""
        found = self.registry.get(identity)
        self._apply_limits(found)
        letter = found.queue.put(body, properties, **how)
        self.log("c2d", identity=found.id, message_id=letter.id, size=len(body))
        if found.session is not None:
            found.session.pump()
        elif not found.ever_connected:
            found.queue.letters.remove(letter)
            self.log("c2d_dropped", identity=found.id, message_id=letter.id,
                     text="nothing is queued before the first connection")  # fmt: skip
        return letter

    def _apply_limits(self, found: Identity) -> None:
        queue, limits = found.queue, self.limits
        queue.limit, queue.max_bytes = limits.c2d_pending, limits.c2d_bytes
        queue.max_deliveries, queue.ttl = limits.c2d_deliveries, limits.c2d_ttl

    def send_input(
        self,
        identity: str,
        name: str,
        body: bytes,
        properties: dict[str, str | None] | None = None,
    ) -> bool:
        """Send a message to an input of a module; False when it does not listen."""
        found = self.registry.get(identity)
        return found.session is not None and found.session.send_input(name, body, properties or {})

    def patch_desired(self, identity: str, patch: Any) -> int:
        """Merge desired properties, tell the device, return the new version."""
        found = self.registry.get(identity)
        found.twin.desired.limit = self.limits.twin_bytes
        change = found.twin.desired.patch(patch)
        self._push_desired(found, change)
        return found.twin.desired.version

    def replace_desired(self, identity: str, values: Any) -> int:
        """Replace desired properties, tell the device, return the new version."""
        found = self.registry.get(identity)
        found.twin.desired.limit = self.limits.twin_bytes
        gone = dict.fromkeys(found.twin.desired.values)
        change = {**gone, **found.twin.desired.replace(values)}
        self._push_desired(found, change)
        return found.twin.desired.version

    def _push_desired(self, found: Identity, change: dict[str, Any]) -> None:
        version = found.twin.desired.version
        told = found.session is not None and found.session.push_desired(change, version)
        self.log("desired", identity=found.id, version=version, delivered=told)

    async def invoke_method(
        self,
        identity: str,
        name: str,
        payload: Any = None,
        response_timeout: float = 30.0,
        connect_timeout: float = 0.0,
    ) -> MethodResult:
        """Call a direct method and wait for the answer."""
        found = self.registry.get(identity)
        body = b"" if payload is None else json.dumps(payload, separators=(",", ":")).encode()
        if len(body) > methods.PAYLOAD_LIMIT:
            return methods.too_large()
        rid, future = found.calls.begin()
        try:
            if not await self._listening(found, connect_timeout):
                return methods.not_connected()
            assert found.session is not None
            self.log("method", identity=found.id, method=name, rid=rid)
            found.session.send_method(name, rid, body)
            result = await asyncio.wait_for(future, response_timeout)
        except asyncio.TimeoutError:
            result = methods.timed_out()
        finally:
            found.calls.end(rid)
        self.log("method_result", identity=found.id, method=name, rid=rid,
                 hub_status=result.hub_status, status=result.status)  # fmt: skip
        return result

    async def _listening(self, found: Identity, timeout: float) -> bool:
        def ready() -> bool:
            return found.session is not None and METHODS in found.session.filters

        if ready() or timeout <= 0:
            return ready()
        event = asyncio.Event()
        self._connected.append(event)
        try:
            async with asyncio.timeout(timeout):
                while not ready():
                    event.clear()
                    await event.wait()
        except TimeoutError:
            return False
        finally:
            self._connected.remove(event)
        return True

    def wake(self) -> None:
        """Tell waiting method calls that a subscription has changed."""
        for event in self._connected:
            event.set()

    def record(self, found: Identity, bag: dict[str, Any], body: bytes, **how: Any) -> Message:
        """Record telemetry, from whatever transport."""
        system, properties = split_bag(bag)
        system["iothub-connection-device-id"] = found.device_id
        if found.module_id:
            system["iothub-connection-module-id"] = found.module_id
        found.last_activity = self.now()
        return self.messages.add(
            device=found.device_id, module=found.module_id, body=body, properties=properties,
            system=system, enqueued=found.last_activity, **how,
        )  # fmt: skip

    def take_d2c(self) -> float:
        """Take a telemetry token; the seconds to wait when there is none."""
        return self._d2c.take(queue=True)

    def take_twin(self) -> float:
        """Take a twin token."""
        return self._twins.take()


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
                self._twin_error(rid, 429 if fault.action == "throttle" else fault.code)
            return True
        if self.hub.take_twin():
            self._twin_error(rid, 429)
            return True
        return False

    def _twin_error(self, rid: str, status: int, code: int = 0, text: str = "") -> None:
        body: dict[str, Any] = {"errorCode": code or status * 1000 + 1}
        body["message"] = text or ("Throttled" if status == 429 else "Error")
        body["trackingId"] = f"{self.hub.engine.recorder.seq:08x}"
        self.hub.log("twin_error", identity=self.identity, status=status, text=body["message"])
        self.reply_twin(status, rid, body)

    def reply_twin(self, status: int, rid: str, body: Any) -> None:
        """Send a twin response to this connection and no other."""
        data = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        self._twin_publish(f"$iothub/twin/res/{status}/?$rid={rid}", data)

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


def _split_username(username: str) -> tuple[str, str, dict[str, str]]:
    """Take `{host}/{client id}/?query` apart."""
    path, mark, query = username.partition("?")
    host, slash, rest = path.partition("/")
    client_id = rest.removesuffix("/") if mark else rest.rstrip("/")
    if not (host and slash and client_id):
        raise ValueError("the user name is not {host}/{client id}/?api-version=…")
    fields = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        fields[name] = value
    return host, client_id, fields


def _rid(topic: str) -> str:
    """Return the request id of a topic, byte for byte; without one the request is refused."""
    _, _, query = topic.partition("?")
    for part in query.split("&"):
        if part.startswith("$rid="):
            return part[5:]
    raise Reject(f"no $rid in {topic[:80]!r}")

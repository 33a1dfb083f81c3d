"""The device's connection to IoT Hub: telemetry, commands, methods, twin, trust updates.

Responsible for: the public interface; joining MQTT, hub topics, credentials, twin and trust.
Not for: Wi-Fi and time (agent.py and its platform), DPS (provisioning.py), packets (mqtt/).
Source: contracts.md; topics in hub.py. Names follow azure-iot-device where it has them.

    client = IoTHubDeviceClient.from_connection_string(text, trust=TrustManager(store, clock))
    async with client:                                # connects, keeps connected, renews tokens
        await client.send_message({"t": 21.5}, {"alert": "no"})
        await client.patch_twin_reported_properties({"fw": "1.2"})

Theory of operation. `open` of link.py makes each connection; MQTTClient keeps it up and resends
what was not acknowledged. After every CONNACK 0 one task settles the connection: subscriptions,
the twin (only if somebody uses it), what this device reports. A second task renews the token.
"""

import asyncio
import gc
import json
import os

from micropython import const

from . import hub, log
from .clock import default
from .errors import AzureIoTError, CredentialError, ServiceError, TrustError
from .guard import Guard
from .identity import Identity, SymmetricKey, parse
from .link import HubLink
from .mqtt.client import MQTTClient
from .timekeeper import TimeKeeper

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from .hub import Message
    from .twin import DesiredChange

_SETTLE_RETRY_MS = const(5000)


def random32() -> int:
    """Give 32 random bits of the port's own generator."""
    return int.from_bytes(os.urandom(4), "big")


def randbelow(limit: int) -> int:
    """Give a random integer below `limit`."""
    return random32() % limit


class IoTHubDeviceClient:
    """One device at one hub. Use the `from_…` constructors.

    Options, keyword only: trust= or roots= (whom to trust), clock=, update_agent=True (react to
    the desired property `trust`), port=8883, websocket=False, product_info=, model_id=,
    sas_life_s=3600, keepalive_s=240, window=8, max_pending=64, max_pending_bytes=65536,
    inbox_size=16, max_inbound=65536, twin_timeout_s=30, deadlines=, backoff=, fleet_size_hint=1000, will= (Message),
    profile= (TLSProfile), sync_time= (`await sync_time()` gives a time server's Unix time),
    https_port=443 (where the hub's Date is asked for), reprovision= (`await` gives an Assignment).
    """

    def __init__(
        self,
        identity: Identity,
        credential: object,
        *,
        trust: "object | None" = None,
        roots: "list | None" = None,
        clock: "object | None" = None,
        update_agent: bool = True,
        twin_timeout_s: int = 30,
        inbox_size: int = 16,
        max_inbound: int = 65536,
        will: "Message | None" = None,
        keepalive_s: int = 240,
        clean_session: bool = False,
        deadlines: "object | None" = None,
        profile: "object | None" = None,
        mqtt: "dict | None" = None,
        sync_time: "Callable | None" = None,
        https_port: int = 443,
        reprovision: "Callable | None" = None,
        **link: object,
    ) -> None:
        self.identity = identity
        self.clock = clock or default()
        self.trust = trust
        self._base = hub.base_topic(identity.device_id, identity.module_id)
        self._options = (twin_timeout_s * 1000, inbox_size, max_inbound)
        self.keeper = TimeKeeper(self.clock, sync=sync_time, trust=trust, port=https_port)
        self._link = HubLink(
            identity,
            credential,
            clock=self.clock,
            random32=random32,
            trust=trust,
            roots=roots,
            profile=profile,
            deadlines=deadlines,
            guard=Guard(
                self.clock,
                self.keeper,
                randbelow,
                reprovision=reprovision,
                trust=trust is not None,
            ),
            **link,
        )
        options = dict(mqtt or {})
        if deadlines is not None:
            options["deadlines"] = deadlines
        if will is not None:
            options["will"] = (hub.events_topic(self._base, will.bag()), will.data, 1, False)
        self._mqtt = MQTTClient(
            self._link.open,
            identity.client_id,
            credentials=self._link.login,
            keepalive_s=keepalive_s,
            clean_session=clean_session,
            **options,
        )
        self._mqtt.on_message = self._on_message
        self._mqtt.on_large = self._on_large
        self._mqtt.on_connected = self._on_connected
        self._mqtt.on_disconnected = self._on_disconnected
        self._mqtt.on_connect_failed = self._on_connect_failed
        self._filters = []
        self._subscribed = []
        self._lock = asyncio.Lock()
        self._twin = None
        self._methods = None
        self._c2d = None
        self._reported = ""
        self._tasks = []
        self._settling = None
        self.on_event = None
        self._updater = None
        self.upkeep = None  # upkeep.Upkeep, where an agent runs one
        if trust is not None:
            trust.on_change = self._on_trust_change
            if update_agent:
                self._use_twin().listeners.append(self._on_desired)

    # Constructors

    @classmethod
    def from_connection_string(
        cls, text: str, *, certificate: "object | None" = None, **options: object
    ) -> "IoTHubDeviceClient":
        """Make a client from a device connection string; `certificate` goes with `x509=true`.

        Raises CredentialError in words for anything that is not a device's connection string.
        """
        identity, credential = parse(text)
        if credential is None:
            if certificate is None:
                raise CredentialError("x509=true needs certificate=X509Certificate(…)")
            credential = certificate
        return cls(identity, credential, **options)

    @classmethod
    def from_symmetric_key(
        cls, symmetric_key: str, hostname: str, device_id: str, **options: object
    ) -> "IoTHubDeviceClient":
        """Make a client from a base64 device key."""
        return cls(_identity(hostname, device_id, options), SymmetricKey(symmetric_key), **options)

    @classmethod
    def from_x509(
        cls, certificate: object, hostname: str, device_id: str, **options: object
    ) -> "IoTHubDeviceClient":
        """Make a client from an X509Certificate."""
        return cls(_identity(hostname, device_id, options), certificate, **options)

    @classmethod
    def from_credential(
        cls, credential: object, hostname: str, device_id: str, **options: object
    ) -> "IoTHubDeviceClient":
        """Make a client from any credential: SasProvider, StaticToken, SignerKey, …"""
        return cls(_identity(hostname, device_id, options), credential, **options)

    # Connection

    @property
    def connected(self) -> object:
        """The event that is set while the hub has accepted this device."""
        return self._mqtt.connected

    @property
    def stats(self) -> dict:
        """Counters of the connection and the queues."""
        stats = dict(self._mqtt.stats)
        if self._c2d is not None:
            stats["c2d_drops"] = self._c2d.inbox.drops
        if self._twin is not None:
            stats["twin_gaps"] = self._twin.gaps
        return stats

    @property
    def last_error(self) -> "Exception | None":
        """Why the last connection attempt failed or the last connection ended."""
        return self._mqtt.last_error

    @property
    def tls(self) -> dict:
        """What the last connection settled on: version, suite, …, and `via`, its root."""
        return self._link.facts

    async def start(self) -> None:
        """Begin to connect and stay connected, without waiting for it."""
        if self._tasks:
            return
        await self._mqtt.start()
        self._tasks.append(asyncio.create_task(self._renew()))
        if self._updater is not None:
            self._tasks.append(asyncio.create_task(self._updater.run()))

    async def connect(self, timeout_s: "int | None" = None) -> None:
        """Connect and wait until the hub has accepted this device.

        Without a limit it waits through network failures; CredentialError and the like come out
        at once. Raises the last failure when the time is over.
        """
        await self.start()
        await self._mqtt.connected_once(timeout_s)

    async def disconnect(self) -> None:
        """Send DISCONNECT (so that no will is published), close, and stop every task."""
        tasks = self._tasks
        self._tasks = []
        for task in tasks:
            task.cancel()
        self._end_settling()
        await self._mqtt.stop()

    shutdown = disconnect

    async def __aenter__(self) -> "IoTHubDeviceClient":
        try:
            await self.connect()
        except BaseException:
            await self.disconnect()
            raise
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self.disconnect()

    async def _on_connected(self, session_present: bool) -> None:
        confirmed = self._link.accepted()
        if confirmed:
            log.info("the bundle on trial is confirmed")
        self._event("connected", session_present)
        self._end_settling()
        self._settling = asyncio.create_task(self._settle())

    def _on_disconnected(self, error: "Exception | None") -> None:
        self._link.accepted()  # CONNACK 0 did come, even if `_on_connected` had no time to run
        self._end_settling()
        if self._c2d is not None:
            self._c2d.on_disconnected()
        if self._twin is not None:
            self._twin.on_disconnected()
        self._event("disconnected", error)

    def _on_connect_failed(self, error: Exception) -> None:
        self._link.refused(error)
        self._event("connect_failed", error)

    def _event(self, name: str, fact: object) -> None:
        if self.on_event is not None:
            self.on_event(name, fact)

    def _end_settling(self) -> None:
        task = self._settling
        self._settling = None
        if task is not None and not task.done():
            task.cancel()

    async def _settle(self) -> None:
        """Bring a new connection up to date; try again until it is or the connection ends."""
        while True:
            try:
                await self._subscribe()
                if self._twin is not None:
                    await self._twin.refresh()
                if self.trust is not None:
                    await self._report()
                break
            except AzureIoTError as error:
                log.warning("connection not settled yet: %s", error)
                await asyncio.sleep_ms(_SETTLE_RETRY_MS)
        self._event("settled", None)
        if self.keeper.due():
            await self._confirm_time()
        await self._wait_for_trial()

    async def _confirm_time(self) -> None:
        """Have a verified server confirm the time (T10), if a second TLS connection fits."""
        context = self._link.context()
        host = self.identity.gateway
        gc.collect()
        if context.profile.plan(host).peak * 3 // 2 > gc.mem_free():
            log.info("the time stays unconfirmed: no room for a second TLS connection")
            return
        try:
            await self.keeper.confirm(host, context)
        except AzureIoTError as error:
            log.info("the time stays unconfirmed: %s", error)
            return
        self._report_soon()

    async def _wait_for_trial(self) -> None:
        """Reconnect when a bundle on trial is due but the good one made this connection."""
        attempt = self._link.attempt
        if attempt is None or attempt.is_trial:
            return
        due = self.trust.trial_due_ms()
        if due is not None:
            await asyncio.sleep_ms(due)
            self._reconnect_soon("a bundle on trial is due")

    def _reconnect_soon(self, why: str) -> None:
        log.info("reconnecting: %s", why)
        asyncio.create_task(self._mqtt.reconnect())

    async def _renew(self) -> None:
        while True:
            if not self._link.renew_ms:
                self._link.token_made.clear()
                await self._link.token_made.wait()
            nap = self._link.renewal_nap_ms()
            if nap:
                await asyncio.sleep_ms(nap)
            elif self.connected.is_set():
                log.info("renewing the token")
                self._link.renew_ms = 0
                await self._mqtt.reconnect()
            else:
                await asyncio.sleep_ms(500)

    # Telemetry

    async def send_message(
        self,
        message: "Message | bytes | str | dict | list",
        properties: "dict | None" = None,
        *,
        wait: bool = True,
    ) -> None:
        """Send telemetry at QoS 1; with `wait` until the hub has acknowledged it.

        dict and list become JSON with `$.ct=application/json&$.ce=utf-8`. A message accepted
        while there is no connection waits in the queue; a full queue raises QueueFullError.
        Raises ServiceError(413) for more than 256 KB.
        """
        message = to_message(message, properties)
        await self._publish_message(message, wait)

    async def _publish_message(self, message: "Message", wait: bool) -> None:
        if len(message.data) > hub.MAX_D2C:
            raise ServiceError(
                "a message of %d bytes, the hub takes %d" % (len(message.data), hub.MAX_D2C), 413
            )
        topic = hub.events_topic(self._base, message.bag())
        number = await self._mqtt.publish(topic, message.data, 1, wait=wait)
        if wait:
            await self._mqtt.delivered(number)

    # Twin

    def _use_twin(self) -> object:
        if self._twin is None:
            from .twin import Twin

            self._twin = Twin(self._publish_request, self._options[0], self._options[1])
            self._want(hub.TWIN_RESULT_FILTER)
            self._want(hub.DESIRED_FILTER)
        return self._twin

    async def _publish_request(self, topic: str, body: bytes) -> None:
        await self._subscribe()
        await self._mqtt.publish(topic, body, 1)

    async def get_twin(self) -> dict:
        """Fetch the twin: `{"desired": {…, "$version": n}, "reported": {…, "$version": n}}`.

        Raises ServiceError, ConnectionFailedError, ConnectionDroppedError.
        """
        return await self._use_twin().get()

    async def patch_twin_reported_properties(self, properties: dict) -> "int | None":
        """Send reported properties and return their new `$version`; None deletes a member."""
        return await self._use_twin().patch(properties)

    def desired_properties(self) -> object:
        """Iterate over DesiredChange: `async for change in client.desired_properties()`.

        The first one is complete; later ones are differences, complete again after a gap.
        """
        return self._use_twin().inbox

    # Methods and messages from the cloud

    def _use_methods(self) -> object:
        if self._methods is None:
            from .methods import Methods

            self._methods = Methods(self._mqtt.publish, self._options[1])
            self._want(hub.METHODS_FILTER)
        return self._methods

    def on_method(self, name: str, handler: "Callable") -> None:
        """Answer the direct method `name` with `await handler(payload)`.

        `payload` is the decoded JSON (None for an empty body). The handler returns a status, or
        (status, body); an exception in it gives status 500 and a body that shows no detail.
        """
        self._use_methods().handlers[name] = handler

    def method_requests(self) -> object:
        """Iterate over requests without a handler: `await request.respond(200, {"ok": True})`."""
        return self._use_methods().requests()

    def _use_c2d(self) -> object:
        if self._c2d is None:
            from .c2d import C2D

            self._c2d = C2D(self._options[1], self._mqtt.acknowledge)
        return self._c2d

    def on_c2d(self, handler: "Callable") -> None:
        """Handle each cloud-to-device message with `await handler(message)`.

        The hub gets its PUBACK only after the handler returned; if it raises, the message stays
        in the hub's queue and comes again with the next connection.
        """
        self._use_c2d().handler = handler
        self._want(hub.c2d_filter(self._base))

    def c2d_messages(self) -> object:
        """Iterate over cloud-to-device messages; asking for the next one accepts the last."""
        c2d = self._use_c2d()
        self._want(hub.c2d_filter(self._base))
        return c2d.messages()

    # Subscriptions

    def _want(self, name: str) -> None:
        """Subscribe now if connected, and after every connection without a session."""
        if name not in self._filters:
            self._filters.append(name)
            # When the settling task itself wants a filter, its next request subscribes to it.
            if self.connected.is_set() and self._settling is not asyncio.current_task():
                self._end_settling()
                self._settling = asyncio.create_task(self._settle())

    async def _subscribe(self) -> None:
        """Subscribe to what is wanted and not there yet; MQTTClient does it again by itself.

        Only messages that must not be lost come at QoS 1, so their PUBACKs may wait for the
        application and still keep their order (MQTT-4.6.0-2).
        """
        async with self._lock:
            for name in self._filters:
                if name not in self._subscribed:
                    await self._mqtt.subscribe(name, 0 if name.startswith("$") else 1)
                    self._subscribed.append(name)

    # Inbound

    def _on_message(
        self, topic: str, payload: "memoryview | bytes", qos: int, pid: int
    ) -> "object | None":
        """Hand one message on; False holds its PUBACK back until the application took it."""
        found = hub.parse(topic, self._base)
        kind = found[0]
        if self.upkeep is not None and self.upkeep.takes(found):
            self.upkeep.on_message(found, payload)
            return None
        if kind == hub.TWIN_RESULT and self._twin is not None:
            self._twin.on_result(found[1], found[2], found[3], bytes(payload))
        elif kind == hub.DESIRED and self._twin is not None:
            if not self._twin.on_desired(bytes(payload)):
                asyncio.create_task(self._refresh_twin())
        elif kind == hub.METHOD and self._methods is not None:
            self._methods.on_request(found[1], found[2], bytes(payload))
        elif kind in (hub.C2D, hub.INPUT) and self._c2d is not None:
            return self._c2d.on_message(found, bytes(payload), pid)
        else:
            log.warning("a message on a topic nobody asked for")
        return None

    def _on_large(self, topic: str, size: int, qos: int, pid: int) -> "object | None":
        """Collect a message larger than the input buffer, up to the inbound limit."""
        if self.upkeep is not None:
            found = hub.parse(topic, self._base)
            if self.upkeep.takes(found):
                return self.upkeep.sink(found)
        if size > self._options[2]:
            log.error("a message of %d bytes is over the inbound limit: dropped", size)
            return None
        from .large import Collector

        return Collector(size, lambda body: self._on_message(topic, body, qos, pid))

    async def _refresh_twin(self) -> None:
        try:
            await self._twin.refresh()
        except AzureIoTError as error:
            log.warning("the twin could not be fetched: %s", error)

    # Trust

    def _on_desired(self, change: "DesiredChange") -> None:
        """Give the member `trust` to the updater, which is loaded when the first one comes."""
        if self._updater is None:
            if "trust" not in change.patch:
                return
            from .updater import Updater

            self._updater = Updater(self.trust, randbelow, profile=self._link.profile)
            self._updater.on_result = self._report_soon
            self._updater.client = self
            self._tasks.append(asyncio.create_task(self._updater.run()))
        self._updater.on_desired(change)

    async def install_package(self, source: object, channel: str) -> int:
        """Install a trust package; where memory is short, with the hub's connection closed.

        Raises RefusedError.
        """
        try:
            return self.trust.install(source, channel)
        except TrustError as error:
            if error.code != "MEMORY" or not self.connected.is_set():
                raise
        async with self.quiet():
            source.seek(0)
            return self.trust.install(source, channel)

    def quiet(self) -> "Quiet":
        """Close the connection and keep it closed: `async with client.quiet(): …`."""
        return Quiet(self._link, self._mqtt)

    async def answer_method(self, rid: str, status: int, body: dict) -> None:
        """Answer the direct method call `rid`."""
        topic = hub.method_response_topic(status, rid)
        await self._mqtt.publish(topic, json.dumps(body), 1)

    def want(self, name: str) -> None:
        """Subscribe to one more of the hub's filters, for upkeep.py."""
        self._want(name)

    def want_c2d(self) -> None:
        """Subscribe to cloud-to-device messages, for upkeep.py."""
        self._want(hub.c2d_filter(self._base))

    def retry_soon(self) -> None:
        """Try to connect now: there is something new to try with."""
        self._reconnect_soon("new roots are here")

    def report_soon(self) -> None:
        """Send what changed of the reported sections, if connected."""
        self._report_soon()

    def _report_soon(self) -> None:
        if self.connected.is_set():
            asyncio.create_task(self._try_report())

    async def _try_report(self) -> None:
        try:
            await self._report()
        except AzureIoTError as error:
            log.warning("report not sent: %s", error)

    async def _report(self) -> None:
        """Send the sections trust, tls and clock if they changed (contracts.md section 1)."""
        from .report import sections

        body = sections(self.trust, self._link.facts, self.clock)
        text = json.dumps(body)
        if text != self._reported:
            await self._use_twin().patch(body)
            self._reported = text

    def _on_trust_change(self, reason: str) -> None:
        log.info("trust: %s", reason)
        if reason == "staged":
            self._reconnect_soon("a bundle is on trial")
        elif reason == "distrust" and self.trust.must_close():
            self._reconnect_soon("the root of this connection is distrusted")
        else:
            self._report_soon()

    def __repr__(self) -> str:
        state = "connected" if self.connected.is_set() else "not connected"
        return "<%s %s, %s>" % (type(self).__name__, self.identity.client_id, state)


class Quiet:
    """The time in which the hub's connection is closed, so that its memory serves something else."""

    def __init__(self, link: "HubLink", mqtt: MQTTClient) -> None:
        self._link = link
        self._mqtt = mqtt

    async def __aenter__(self) -> "Quiet":
        log.info("closing the hub's connection: memory is short")
        self._link.held += 1
        await self._mqtt.reconnect()
        while self._mqtt.connected.is_set():
            await asyncio.sleep_ms(20)
        gc.collect()
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._link.held -= 1


def _identity(hostname: str, device_id: str, options: dict) -> Identity:
    return Identity(
        hostname, device_id, options.pop("module_id", None), options.pop("gateway", "")
    )


def to_message(message: object, properties: "dict | None") -> "Message":
    if not isinstance(message, hub.Message):
        if isinstance(message, (dict, list)):
            message = hub.Message(
                json.dumps(message), content_type="application/json", content_encoding="utf-8"
            )
        else:
            message = hub.Message(message)
    if properties:
        message.properties = properties
    if isinstance(message.data, str):
        message.data = message.data.encode()
    return message

"""The life of a hub client: connecting, settling, renewing, subscribing, routing what comes in.

Responsible for: everything between MQTT and the public interface. Not for: the interface itself
(client.py), trust packages and reports (managed.py), one connection attempt (link.py).

Theory of operation. `open` of link.py makes each connection; MQTTClient keeps it up and resends
what was not acknowledged. After every CONNACK 0 one task settles the connection: subscriptions,
the twin (only if somebody uses it), what this device reports. A second task renews the token.
"""

import asyncio
import os

from micropython import const

from . import hub, log
from .clock import default
from .forever import forever
from .link import HubLink
from .mqtt.client import MQTTClient
from .timekeeper import TimeKeeper

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from .hub import Message
    from .identity import Identity

_SETTLE_RETRY_MS = const(5000)
_LONGEST_S = const(300)  # that a retry-after of the hub is followed
_IDLE_TRIES = const(50)
_MQTT = ("window", "max_pending", "max_pending_bytes", "backoff", "fleet_size_hint")


def random32() -> int:
    """Give 32 random bits of the port's own generator."""
    return int.from_bytes(os.urandom(4), "big")


def randbelow(limit: int) -> int:
    """Give a random integer below `limit`."""
    return random32() % limit


def _pause_ms(error: object) -> int:
    """Give the wait before a request that failed is made again: what the hub asked for, and more."""
    wait = min(getattr(error, "retry_after", 0) or 0, _LONGEST_S) * 1000
    wait = max(wait, _SETTLE_RETRY_MS)
    return wait + randbelow(wait // 2)


class HubConnection:
    """A client without its public verbs; see IoTHubDeviceClient for the options."""

    def __init__(
        self,
        identity: "Identity",
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
        self._events = hub.events_topic(self._base)
        self._options = (twin_timeout_s * 1000, inbox_size, max_inbound)
        options: dict = {}
        for name in _MQTT:
            if name in link:
                options[name] = link.pop(name)
        self.keeper = TimeKeeper(self.clock, sync=sync_time, trust=trust, port=https_port)
        self._reprovision = reprovision
        self._link = HubLink(
            identity,
            credential,
            clock=self.clock,
            random32=random32,
            trust=trust,
            roots=roots,
            profile=profile,
            deadlines=deadlines,
            guard=self._new_guard,
            **link,
        )
        options["deadlines"] = deadlines
        options.update(mqtt or {})
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
        self._subscribing = self._renewing = False
        self._twin = None
        self._methods = None
        self._c2d = None
        self._reported = b""
        self._hub = identity.host
        self._tasks = []
        self._loop = None
        self._settling = None
        self.on_event = None
        self.upkeep = None  # upkeep.Upkeep, where an agent runs one
        self._begin_trust(update_agent)

    if TYPE_CHECKING:  # what managed.py brings

        def _begin_trust(self, update_agent: bool) -> None: ...

        def _start_trust(self) -> None: ...

        async def _after_settled(self) -> None: ...

        async def _report(self) -> None: ...

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
            stats["twin_drops"] = self._twin.inbox.drops
        return stats

    @property
    def last_error(self) -> "Exception | None":
        """Why the last connection attempt failed or the last connection ended."""
        return self._mqtt.last_error

    @property
    def short_of_memory(self) -> int:
        """How many attempts since the last connection failed for lack of memory."""
        return self._link.short

    @property
    def renamed(self) -> bool:
        """Whether DPS gave this device another name, to be used from its next start on."""
        return self._link.renamed

    @property
    def tls(self) -> dict:
        """What the last connection settled on: version, suite, …, and `via`, its root."""
        return self._link.facts

    async def start(self) -> None:
        """Begin to connect and stay connected, without waiting for it."""
        loop = asyncio.core._task_queue  # type: ignore[attr-defined]
        if self._loop is not loop:
            if self._loop is not None:
                await self._begin_anew()
            self._loop = loop
        if self._tasks:
            return
        await self._mqtt.start()
        self._tasks.append(asyncio.create_task(forever(self._renew)))
        self._start_trust()

    async def _begin_anew(self) -> None:
        """Let go of what tasks of an asyncio.run that has ended were in the middle of."""
        self._tasks = []
        self._settling = None
        self._mqtt.abandon()
        for part in (self._twin, self._methods, self._c2d):
            if part is not None:
                part.begin_anew()
        await self.disconnect(0)
        self._subscribing = self._renewing = False
        self._link.held = 0

    async def connect(self, timeout_s: "int | None" = None) -> None:
        """Connect and wait until the hub has accepted this device.

        Without a limit it waits through network failures; CredentialError and the like come out
        at once. Raises the last failure when the time is over.
        """
        await self.start()
        await self._mqtt.connected_once(timeout_s)

    async def disconnect(self, flush_ms: int = 5000) -> None:
        """Send DISCONNECT (so that no will is published), close, and stop every task.

        While connected, waits up to `flush_ms` for what was accepted to be acknowledged.
        """
        while flush_ms > 0 and self.connected.is_set() and self._mqtt.stats["pending"]:
            await asyncio.sleep_ms(20)
            flush_ms -= 20
        tasks = self._tasks
        self._tasks = []
        for task in tasks:
            task.cancel()
        self._end_settling()
        up = self.connected.is_set()
        await self._mqtt.stop()
        if up:
            self._ended()

    shutdown = disconnect

    async def __aenter__(self) -> "HubConnection":
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
        if self._hub != self.identity.host:  # DPS moved us: that hub's twin is another one
            self._hub = self.identity.host
            self._reported = b""
            if self._twin is not None:
                self._twin.version = None
        self._settling = asyncio.create_task(self._settle())

    def _on_disconnected(self, error: "Exception | None") -> None:
        self._link.hold()
        self._link.accepted()  # CONNACK 0 did come, even if `_on_connected` had no time to run
        self._ended()
        self._event("disconnected", error)

    def _ended(self) -> None:
        """Let go of what belonged to the connection."""
        self._renewing = False
        self._end_settling()
        if self._c2d is not None:
            self._c2d.on_disconnected()
        if self._twin is not None:
            self._twin.on_disconnected()

    def _on_connect_failed(self, error: Exception) -> None:
        if self._link.refused(error):
            self._mqtt.retry_soon()
        if str(error).startswith("CONNACK 5"):
            log.warning(
                "which one: az iot hub device-identity show -d %s -n %s",
                self.identity.device_id,
                self.identity.host.split(".")[0],
            )
        self._event("connect_failed", error)

    def _event(self, name: str, fact: object) -> None:
        if self.on_event is not None:
            try:
                self.on_event(name, fact)
            except Exception as error:
                log.error("on_event failed at '%s': %r", name, error)

    def _end_settling(self) -> None:
        task = self._settling
        self._settling = None
        if task is not None and not task.done():
            task.cancel()

    async def _settle(self) -> None:
        """Bring a new connection up to date, step by step."""
        await self._insist(self._catch_up)
        self._event("settled", None)
        await self._insist(lambda: self.keeper.keep(self.identity.gateway, self._link.context))
        await self._insist(self._after_settled)
        self._settling = None  # a task that has ended still holds what its coroutine held

    async def _insist(self, step: "Callable") -> None:
        """Take a step of settling, again until it is taken or the connection ends."""
        while True:
            try:
                return await step()
            except asyncio.CancelledError:
                # Of this task nobody cancelled it: asyncio's wait_for had no memory for its result.
                if self._settling is not asyncio.current_task():
                    raise
                error = None
            except Exception as failure:
                error = failure
                log.warning("connection not settled yet: %r", error)
            await asyncio.sleep_ms(_pause_ms(error))

    async def _catch_up(self) -> None:
        await self._subscribe()
        if self._twin is not None:
            await self._twin.refresh()
        if self.trust is not None:
            await self._report()

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
                left = min(self._link.renew_ms // 1000, _IDLE_TRIES)  # of the token's last 15 %
                self._link.renew_ms = 0
                self._renewing = True
                while left and self._is_asked():  # what is being answered would be lost
                    left -= 1
                    await asyncio.sleep_ms(100)
                if self._renewing:  # else the link ended by itself: the next one has a new token
                    await self._mqtt.reconnect()
            else:
                await asyncio.sleep_ms(500)

    def _is_asked(self) -> bool:
        twin, methods = self._twin, self._methods
        return twin is not None and twin.pending or methods is not None and methods.running

    # Parts that are loaded when they are used

    def _new_guard(self) -> object:
        from .guard import Guard

        return Guard(
            self.clock,
            self.keeper,
            randbelow,
            reprovision=self._reprovision,
            trust=self.trust is not None,
        )

    def _use_twin(self) -> object:
        if self._twin is None:
            from .twin import Twin

            self._twin = Twin(self._ready, self._mqtt.publish, self._options[0], self._options[1])
            self._want(hub.TWIN_RESULT_FILTER)
            self._want(hub.DESIRED_FILTER)
        return self._twin

    async def _ready(self) -> None:
        """Wait for a connection that can answer: who asked does not wait for ever."""
        while True:
            await self.connected.wait()
            await self._subscribe()
            await self._mqtt.ready()
            if not self._renewing:
                return
            await asyncio.sleep_ms(50)

    def _use_methods(self) -> object:
        if self._methods is None:
            from .methods import Methods

            self._methods = Methods(self._mqtt.publish, self._options[1])
            self._want(hub.METHODS_FILTER)
        return self._methods

    def _use_c2d(self) -> object:
        if self._c2d is None:
            from .c2d import C2D

            self._c2d = C2D(
                self._options[1],
                self._mqtt.acknowledge,
                self._mqtt.session,
                lambda: self._reconnect_soon("messages wait at the hub"),
            )
        return self._c2d

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
        while self._subscribing:  # no Lock: its module would be loaded for this alone
            await asyncio.sleep_ms(20)
        self._subscribing = True
        try:
            for name in self._filters:
                if name not in self._subscribed:
                    await self._mqtt.subscribe(name, 0 if name.startswith("$") else 1)
                    self._subscribed.append(name)
        finally:
            self._subscribing = False

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
        if not isinstance(payload, bytearray):  # large.py's is nobody else's
            payload = bytes(payload)  # the input buffer is used again
        if kind == hub.TWIN_RESULT and self._twin is not None:
            self._twin.on_result(found[1], found[2], found[3], payload)
        elif kind == hub.DESIRED and self._twin is not None:
            if not self._twin.on_desired(payload):
                asyncio.create_task(self._refresh_twin())
        elif kind == hub.METHOD and self._methods is not None:
            self._methods.on_request(found[1], found[2], payload)
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
                return self.upkeep.sink(found, size)
        if self._c2d is not None and self._c2d.sink is not None:
            found = hub.parse(topic, self._base)
            if found[0] == hub.C2D:
                return self._c2d.stream(found, size, pid)
        if size > self._options[2]:
            log.error("a message of %d bytes is over the inbound limit: dropped", size)
            found = hub.parse(topic, self._base)
            if found[0] == hub.METHOD and self._methods is not None:
                self._methods.refuse(found[1], found[2], size)
            return None
        from .large import Collector

        return Collector(size, lambda body: self._on_message(topic, body, qos, pid))

    async def _refresh_twin(self) -> None:
        twin = self._twin
        twin.wanted = True
        if twin.refreshing:
            return
        twin.refreshing = True
        try:
            while self.connected.is_set():
                try:
                    return await twin.refresh()
                except (Exception, asyncio.CancelledError) as error:  # no memory: `_insist`
                    log.warning("the twin could not be fetched: %r", error)
                    ms = _pause_ms(error)
                await asyncio.sleep_ms(ms)
        finally:
            twin.refreshing = False

    def __repr__(self) -> str:
        state = "connected" if self.connected.is_set() else "not connected"
        return "<%s %s, %s>" % (type(self).__name__, self.identity.client_id, state)

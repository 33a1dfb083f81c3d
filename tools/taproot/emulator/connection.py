"""One MQTT connection on the server's side, over any carrier of bytes.

Responsible for: frames in and out, the strictness layer, CONNECT dispatched by user name to a
service (hub or DPS), keep-alive, packet identifiers of deliveries, faults on packets, slow
clients. Not for: what a topic means (the service's handler), TLS or WebSocket (a `Link`).

A `Link` is what carries the bytes: a TLS connection (`tls.py`), a WebSocket (`https.py`). A
service judges a CONNECT and returns a handler; the handler is told what the client does:

    subscribe(topic_filter, qos) -> granted code       unsubscribe(topic_filter)
    publish(frame) -> None or seconds to hold the PUBACK; raises Reject to close
    opened(connection)  after CONNACK                   ready()  after every SUBACK
    closed(reason, clean)  once, whatever ended the connection
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from taproot.emulator import codec, strict
from taproot.emulator.events import Recorder
from taproot.emulator.faults import Fault, Faults
from taproot.emulator.frames import LIMIT, Splitter
from taproot.emulator.strict import NAMES, PublishFrame, Violation

# The longest useful keep-alive of a client is 1,177 s: the server waits 1.5 times that, 1,767 s
# at most; a client that asks for none gets the cap.
KEEP_ALIVE_CAP = 1767.0
CONNECT_WITHIN = 30.0
# What a client that does not read may leave unsent before it is dropped.
BACKLOG_LIMIT = 1_000_000

IDENTIFIER_REJECTED, NOT_AUTHORIZED = 2, 5


class Link(Protocol):
    """The carrier of one connection. `facts` go into the connect event."""

    facts: dict[str, Any]

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def backlog(self) -> int: ...
    def chain(self) -> list[bytes]: ...


class Handler(Protocol):
    """What a service answers to an accepted CONNECT."""

    identity: str
    expiry: float | None
    session_present: bool

    def opened(self, connection: Connection) -> None: ...
    def subscribe(self, topic_filter: str, qos: int) -> int: ...
    def ready(self) -> None: ...
    def unsubscribe(self, topic_filter: str) -> None: ...
    def publish(self, frame: PublishFrame) -> float | None: ...
    def closed(self, reason: str, clean: bool) -> None: ...


@dataclass(frozen=True)
class Refusal:
    """A CONNECT that is not accepted; code 0 closes without a CONNACK."""

    code: int
    reason: str
    identity: str | None = None


class Service(Protocol):
    """Hub or DPS: decides what a CONNECT becomes."""

    name: str

    def handles(self, username: str) -> bool: ...
    def accept(self, connect: codec.Connect, chain: Sequence[bytes], link: Link) -> Any: ...


class Reject(Exception):
    """The service closes the connection; the text is the reason in the event list."""


@dataclass
class Engine:
    """What all connections of one emulator share."""

    recorder: Recorder
    now: Callable[[], float]
    faults: Faults
    services: list[Service] = field(default_factory=list)
    packet_limit: int = LIMIT
    backlog_limit: int = BACKLOG_LIMIT
    keep_alive_factor: float = 1.5
    keep_alive_cap: float = KEEP_ALIVE_CAP
    connect_within: float = CONNECT_WITHIN
    record_packets: bool = False
    connections: set[Connection] = field(default_factory=set)

    def service_for(self, username: str) -> Service | None:
        """Return the service a user name is meant for; the hub comes last and takes the rest."""
        for service in self.services:
            if service.handles(username):
                return service
        return None


class Connection:
    """One client. Feed it bytes; tell it once when the carrier is gone."""

    def __init__(self, engine: Engine, link: Link) -> None:
        self.engine = engine
        self.link = link
        self.handler: Handler | None = None
        self.identity: str | None = None
        self.client_id = ""
        self.closed = False
        self.deaf = False  # half-open: bytes are read no more and nothing is answered
        self.opened_at = engine.now()
        self._loop = asyncio.get_running_loop()
        self._splitter = Splitter(engine.packet_limit)
        self._out: list[bytes] | None = None
        self._held: deque[tuple[int, bytes, bytes]] = deque()  # packets that wait, in order
        self._holding = False
        self._late: deque[tuple[bytes, float]] = deque()  # output that waits, with its gap
        self._last_in = self._loop.time()
        self._silence: float = engine.connect_within
        self._timer = self._loop.call_later(self._silence, self._check_silence)
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._next_id = 0
        self._outstanding: dict[int, Callable[[], None] | None] = {}
        self._owed: set[int] = set()  # ids of PUBLISHes whose PUBACK is held back
        engine.connections.add(self)

    # -- bytes in ---------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take what the carrier has read."""
        if self.closed or self.deaf:
            return
        self._last_in = self._loop.time()
        corked = self._out is None
        if corked:
            self._out = []
        try:
            for frame in self._splitter.feed(data):
                if self._holding:
                    self._held.append(frame)
                else:
                    self._take(frame)
                if self.closed or self.deaf:
                    break
        except Violation as violation:
            self._refuse(violation)
        finally:
            if corked:
                self._flush()

    def lost(self, reason: str = "closed by the client") -> None:
        """The carrier is gone."""
        self._end(reason, clean=False)

    def _take(self, frame: tuple[int, bytes, bytes]) -> None:
        first, body, whole = frame
        kind = first >> 4
        if self.engine.record_packets:
            self.engine.recorder.emit(
                "packet", direction="in", packet=NAMES[kind], size=len(whole), **self._who()
            )
        publish = None
        if kind == strict.PUBLISH:
            publish = strict.take_publish(first, body)
        else:
            strict.check_body(first, body)
            if kind == strict.CONNECT:
                self.client_id = strict.client_id(body)
        fault = self._fault("in", NAMES[kind])
        if fault is not None and not self._suffer_in(fault, frame):
            return
        self._act(kind, publish, whole)
        if fault is not None and fault.action == "drop_after":
            self.drop(f"fault: {fault.text}", reset=fault.reset)

    def _act(self, kind: int, publish: PublishFrame | None, whole: bytes) -> None:
        if publish is not None:
            self._on_publish(publish)
        elif kind == strict.PUBACK:
            self._on_puback(whole[-2] << 8 | whole[-1])
        elif kind == strict.PINGREQ:
            self._send("PINGRESP", codec.pingresp())
        elif kind == strict.DISCONNECT:
            self._end("DISCONNECT", clean=True)
            self.link.close()
        else:
            self._on_decoded(kind, whole)

    def _on_decoded(self, kind: int, whole: bytes) -> None:
        try:
            packet = codec.decode(whole)
        except codec.DecodeError as error:
            raise Violation("codec", f"{NAMES[kind]}: {error}") from None
        if isinstance(packet, codec.Connect):
            self._on_connect(packet)
        elif isinstance(packet, codec.Subscribe):
            self._on_subscribe(packet)
        elif isinstance(packet, codec.Unsubscribe):
            self._on_unsubscribe(packet)

    # -- what a client does -----------------------------------------------------------------

    def _on_connect(self, packet: codec.Connect) -> None:
        self._splitter.connected = True
        self.client_id = packet.client_id
        username = packet.username or ""
        service = self.engine.service_for(username)
        facts = dict(
            client_id=packet.client_id,
            username=username,
            keep_alive=packet.keepalive,
            clean_session=packet.clean_session,
            will=packet.will.topic if packet.will else None,
            service=service.name if service else None,
            **self.link.facts,
        )
        fault = self._fault("in", "CONNECT", "refuse")
        if fault is not None:
            answer: Any = Refusal(fault.code, f"fault: {fault.text}", packet.client_id)
        elif not packet.client_id:
            answer = Refusal(IDENTIFIER_REJECTED, "[MQTT-3.1.3-8] the client id is empty")
        elif service is None:
            answer = Refusal(NOT_AUTHORIZED, "no service takes this user name")
        else:
            answer = service.accept(packet, self.link.chain(), self.link)
        if isinstance(answer, Refusal):
            self.identity = answer.identity
            self.engine.recorder.emit("connect", identity=answer.identity, **facts)
            self._refuse_connect(answer)
            return
        self.handler = answer
        self.identity = answer.identity
        self.engine.recorder.emit("connect", identity=answer.identity, **facts)
        asked = packet.keepalive * self.engine.keep_alive_factor
        cap = self.engine.keep_alive_cap
        self._silence = min(asked, cap) if asked else cap
        self._timer.cancel()
        self._timer = self._loop.call_later(self._silence, self._check_silence)
        self.engine.recorder.emit(
            "connack", code=0, session_present=answer.session_present, **self._who()
        )
        self._send("CONNACK", codec.connack(0, answer.session_present))
        if self.closed:
            return
        self.watch_expiry()
        answer.opened(self)

    def _refuse_connect(self, refusal: Refusal) -> None:
        self.engine.recorder.emit(
            "connack", code=refusal.code, reason=refusal.reason, **self._who()
        )
        if refusal.code:
            self._send("CONNACK", codec.connack(refusal.code))
        self.close(f"refused: {refusal.reason}")

    def _on_publish(self, frame: PublishFrame) -> None:
        if frame.packet_id and frame.packet_id in self._owed and not frame.dup:
            raise Violation("MQTT-2.3.1-2", f"packet identifier {frame.packet_id} is still in use")
        assert self.handler is not None
        try:
            wait = self.handler.publish(frame)
        except Reject as reject:
            self.close(str(reject))
            return
        if frame.qos == 0 or self.closed:
            return
        self._owed.add(frame.packet_id)
        if wait:
            self._loop.call_later(wait, self._acknowledge, frame.packet_id)
        else:
            self._acknowledge(frame.packet_id)

    def _acknowledge(self, packet_id: int) -> None:
        if self._send("PUBACK", codec.puback(packet_id)):
            self._owed.discard(packet_id)

    def _on_puback(self, packet_id: int) -> None:
        if packet_id not in self._outstanding:
            self.engine.recorder.emit(
                "strictness",
                rule="puback-unknown",
                text=f"PUBACK for {packet_id}, which is not outstanding",
                closed=False,
                **self._who(),
            )
            return
        done = self._outstanding.pop(packet_id)
        if done is not None:
            done()

    def _on_subscribe(self, packet: codec.Subscribe) -> None:
        assert self.handler is not None
        self._check_free(packet.packet_id)
        codes = []
        try:
            for asked in packet.subscriptions:
                codes.append(self.handler.subscribe(asked.topic_filter, int(asked.qos)))
        except Reject as reject:
            self.close(str(reject))
            return
        filters = [asked.topic_filter for asked in packet.subscriptions]
        self.engine.recorder.emit("subscribe", filters=filters, codes=codes, **self._who())
        self._send("SUBACK", codec.suback(packet.packet_id, codes))
        if not self.closed:
            self.handler.ready()

    def _on_unsubscribe(self, packet: codec.Unsubscribe) -> None:
        assert self.handler is not None
        self._check_free(packet.packet_id)
        for topic_filter in packet.topic_filters:
            self.handler.unsubscribe(topic_filter)
        self.engine.recorder.emit("unsubscribe", filters=list(packet.topic_filters), **self._who())
        self._send("UNSUBACK", codec.unsuback(packet.packet_id))

    def _check_free(self, packet_id: int) -> None:
        if packet_id in self._owed:
            raise Violation("MQTT-2.3.1-2", f"packet identifier {packet_id} is still in use")

    # -- bytes out --------------------------------------------------------------------------

    def deliver(
        self,
        topic: str,
        payload: bytes,
        qos: int = 0,
        done: Callable[[], None] | None = None,
        dup: bool = False,
        packet_id: int = 0,
    ) -> int:
        """Send a PUBLISH; `done` is called at its PUBACK. Return its packet identifier.

        A delivery repeated in a kept session has the packet identifier of the first one.
        """
        number = 0
        if qos:
            number = packet_id if packet_id not in self._outstanding else 0
            number = number or self._free_id()
            if not number:
                self.drop("65,535 deliveries are outstanding")
                return 0
            self._outstanding[number] = done
        self._send("PUBLISH", codec.publish(topic, payload, qos, number or None, dup))
        return number

    def _free_id(self) -> int:
        for _ in range(65_535):
            self._next_id = self._next_id % 65_535 + 1
            if self._next_id not in self._outstanding:
                return self._next_id
        return 0

    def _send(self, name: str, data: bytes) -> bool:
        """Send one packet unless a fault keeps it back; True when it went out."""
        if self.closed or self.deaf:
            return False
        fault = self._fault("out", name)
        if fault is not None:
            return self._suffer_out(fault, name, data)
        self._emit_out(name, data)
        return True

    def _emit_out(self, name: str, data: bytes) -> None:
        if self.closed or self.deaf:
            return
        if self.engine.record_packets:
            self.engine.recorder.emit(
                "packet", direction="out", packet=name, size=len(data), **self._who()
            )
        if self._late:
            self._late.append((data, 0.0))
        elif self._out is not None:
            self._out.append(data)
        else:
            self._write(data)

    def _send_late(self, pieces: list[bytes], gap: float) -> None:
        """Send pieces `gap` seconds apart; what comes after them waits its turn."""
        self._flush_pending()
        idle = not self._late
        self._late.extend((piece, gap) for piece in pieces)
        if idle:
            self._loop.call_later(gap, self._next_late)

    def _next_late(self) -> None:
        if self.closed or self.deaf or not self._late:
            return
        self._write(self._late.popleft()[0])
        while self._late and not self._late[0][1] and not self.closed:
            self._write(self._late.popleft()[0])
        if self._late:
            self._loop.call_later(self._late[0][1], self._next_late)

    def _flush(self) -> None:
        out, self._out = self._out, None
        if out:
            self._write(b"".join(out) if len(out) > 1 else out[0])

    def _write(self, data: bytes) -> None:
        self.link.write(data)
        if self.link.backlog() > self.engine.backlog_limit:
            self.drop("the client does not read what is sent", reset=True)

    # -- ends -------------------------------------------------------------------------------

    def close(self, reason: str) -> None:
        """Send what is pending, then close the carrier in good order."""
        if self.closed:
            return
        self._flush_pending()
        self._end(reason, clean=False)
        self.link.close()

    def drop(self, reason: str, reset: bool = False) -> None:
        """Close without ceremony; with `reset` nothing pending is sent and the peer sees RST."""
        if self.closed:
            return
        if not reset:
            self._flush_pending()
        self._end(reason, clean=False)
        if reset:
            self.link.abort()
        else:
            self.link.close()

    def _flush_pending(self) -> None:
        if self._out:
            self.link.write(b"".join(self._out))
            self._out.clear()

    def _end(self, reason: str, clean: bool) -> None:
        if self.closed:
            return
        self._flush_pending()
        self.closed = True
        self._timer.cancel()
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
        self.engine.connections.discard(self)
        self._held.clear()
        self._late.clear()
        facts = self.link.facts
        self.engine.recorder.emit(
            "disconnect",
            reason=reason,
            clean=clean,
            largest_record_in=facts.get("largest_record_in"),
            largest_record_out=facts.get("largest_record_out"),
            **self._who(),
        )
        handler, self.handler = self.handler, None
        if handler is not None:
            handler.closed(reason, clean)
        self._outstanding.clear()

    def _refuse(self, violation: Violation) -> None:
        self.engine.recorder.emit(
            "strictness",
            rule=violation.rule,
            text=violation.text,
            closed=True,
            connack=violation.connack,
            **self._who(),
        )
        if violation.connack is not None:
            self._send("CONNACK", codec.connack(violation.connack))
        self.close(f"strictness: {violation}")

    def _check_silence(self) -> None:
        left = self._last_in + self._silence - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check_silence)
            return
        if self.handler is None:
            self.drop("no CONNECT in time")
            return
        self.engine.recorder.emit(
            "log", code=404104, text="DeviceConnectionClosedRemotely", **self._who()
        )
        self.drop("keep-alive lost")

    def watch_expiry(self) -> None:
        """Close when the token ends; called again when the clock is moved."""
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
            self._expiry_timer = None
        if self.closed or self.handler is None or self.handler.expiry is None:
            return
        left = self.handler.expiry - self.engine.now()
        if left <= 0:
            self.engine.recorder.emit(
                "log", code=401003, text="IoTHubUnauthorized: token expired", **self._who()
            )
            self.drop("token expired")
            return
        self._expiry_timer = self._loop.call_later(min(left, 86_400.0), self.watch_expiry)

    # -- faults -----------------------------------------------------------------------------

    def _fault(self, direction: str, name: str, action: str | None = None) -> Fault | None:
        faults = self.engine.faults
        if not faults.active:
            return None
        found = faults.take(self.identity or self.client_id, direction, name, action)
        if found is not None:
            self.engine.recorder.emit("fault", fault=found.text, packet=name, **self._who())
        return found

    def _suffer_in(self, fault: Fault, frame: tuple[int, bytes, bytes]) -> bool:
        """Apply a fault to a packet that came in; True when it is still to be acted on."""
        action = fault.action
        if action == "drop":
            self.drop(f"fault: {fault.text}", reset=fault.reset)
        elif action == "half_open":
            self.deafen()
        elif action == "delay":
            self._hold(fault.seconds, frame)
        elif action == "ignore":
            pass
        else:
            return True
        return False

    def _hold(self, seconds: float, frame: tuple[int, bytes, bytes]) -> None:
        """Stop taking packets for a while; what follows waits in its order."""
        self._holding = True
        self.link.pause()
        self._loop.call_later(seconds, self._release, frame)

    def _release(self, frame: tuple[int, bytes, bytes]) -> None:
        if self.closed:
            return
        self._holding = False
        self.link.resume()
        first, body, whole = frame
        publish = strict.take_publish(first, body) if first >> 4 == strict.PUBLISH else None
        try:
            self._act(first >> 4, publish, whole)
            while self._held and not self._holding and not self.closed:
                self._take(self._held.popleft())
        except Violation as violation:
            self._refuse(violation)

    def _suffer_out(self, fault: Fault, name: str, data: bytes) -> bool:
        """Apply a fault to a packet on its way out; True when it went out or will."""
        action = fault.action
        if action == "drop":
            self.drop(f"fault: {fault.text}", reset=fault.reset)
        elif action == "half_open":
            self.deafen()
        elif action == "withhold":
            return False
        elif action == "delay":
            self._send_late([data], fault.seconds)
            return True
        elif action == "one_byte":
            self._send_late([bytes([byte]) for byte in data], fault.seconds or 0.001)
            return True
        elif action == "malformed":
            self._emit_out(name, fault.data)
            return True
        elif action == "duplicate":
            again = bytes([data[0] | 8]) + data[1:] if data[0] & 0xF6 == 0x32 else data
            self._emit_out(name, data + again)
            return True
        elif action == "drop_after":
            self._emit_out(name, data)
            self.drop(f"fault: {fault.text}", reset=fault.reset)
            return True
        else:
            self._emit_out(name, data)
            return True
        return False

    def deafen(self) -> None:
        """Become half-open: the socket stays, nothing is read or answered any more."""
        self.deaf = True
        self.link.pause()

    def inject(self, data: bytes) -> None:
        """Send raw bytes to the client, whatever they are."""
        self._write(data)

    def _who(self) -> dict[str, Any]:
        return {"identity": self.identity} if self.identity else {"client_id": self.client_id}

"""MQTT 3.1.1 client on asyncio: connects, stays connected, loses no QoS 1 message.

Responsible for: the link's life (connect, read, drop, back off, again), waiting for room,
resubscribing, handing messages over and acknowledging them. Not responsible for: the rules of
MQTT (session.py), TCP and TLS (the opener's transport), large messages (stream.py), Azure.

    client = MQTTClient(opener, "device-1", credentials=lambda: (user, password))
    await client.start()
    number = await client.publish("a/b", b"text")     # accepted; sent again until acknowledged
    await client.delivered(number)                    # PUBACK has come

Theory of operation. One task connects and then reads until the link ends; a second one wakes
every quarter of the shortest deadline and asks the session whether something is overdue. Writing
is done by whoever has something to write, without waiting: a packet goes out in one call. Only
when the socket is full does one writer wait, `session.busy` keeps the others out, and
PUBACKs of the reader are kept for it. `_write` is the stream's write method while writing is
allowed, else None. Everybody who waits for a change (room, an answer, the link) waits for
`_changed` and looks again.

Message handler: `on_message(topic, payload, qos, pid)`; `payload` is valid until it returns. A
QoS 1 message is acknowledged afterwards, not if the handler raised: then it comes again with the
next connection. One that returns False calls `acknowledge(pid)` itself, on the same connection. A handler may be a coroutine function; reading pauses while it runs, so it must
not wait for the link itself (publish(wait=False) is allowed).
"""

import asyncio
import os

from azure_iot import clock, log
from azure_iot.backoff import Backoff, first_window
from azure_iot.errors import (
    AzureIoTError,
    ConnectionDroppedError,
    ConnectionFailedError,
    CredentialError,
    ProtocolError,
    QueueFullError,
    ServiceError,
)
from azure_iot.mqtt import packet
from azure_iot.mqtt.session import BEGIN, CHUNK, CONNACK, MESSAGE, Session
from micropython import const

_READS = const(32)  # packets read in a row before other tasks get a turn
_ACKS = const(64)  # PUBACKs kept while a writer waits
_SOON_MS = const(30000)  # a link closed by the peer within this time counts as an eviction
_EVICTIONS = const(3)

_REFUSALS = (
    None,
    (ProtocolError, "protocol version refused"),
    (CredentialError, "client id refused"),
    (ConnectionFailedError, "server unavailable"),
    (CredentialError, "bad user name or password"),
    (CredentialError, "not authorised"),
)


def _random(n: int) -> int:
    """Return a random integer below `n` (below 2^24)."""
    return int.from_bytes(os.urandom(3), "big") % n


def _full(_: object) -> None:
    """Stand in for read_some and write_some of a transport that has none."""


def owned(payload: object, copy: bool) -> bytes:
    """Return a payload that nobody can change while it is in flight."""
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, str):
        return payload.encode()
    if not copy:
        raise TypeError("%s may change before PUBACK: pass bytes, or copy=True" % type(payload))
    return bytes(payload)


class MQTTClient:
    """See the module. `connected` is an Event, `last_error` why the last link or attempt ended."""

    on_message = None  # (topic, payload, qos, pid)
    on_large = None  # (topic, size, qos, pid) -> sink with write(mv), close(), abort(); or None
    on_connected = None  # (session_present), after subscribing again
    on_disconnected = None  # (error); not after stop()
    on_connect_failed = None  # (error)

    def __init__(
        self,
        opener: "object",
        client_id: str,
        *,
        username: "str | None" = None,
        credentials: "object | None" = None,
        keepalive_s: int = 240,
        clean_session: bool = False,
        will: "tuple | None" = None,
        window: int = 8,
        max_pending: int = 64,
        max_pending_bytes: int = 65536,
        buffer_in: "int | bytearray" = 4096,
        buffer_out: "int | bytearray" = 4096,
        max_packet: int = 294912,
        deadlines: "object | None" = None,
        backoff: "Backoff | None" = None,
        fleet_size_hint: int = 1,
    ) -> None:
        self.session = Session(
            keepalive_s=keepalive_s,
            clean=clean_session,
            window=window,
            buffer_in=buffer_in,
            buffer_out=buffer_out,
            max_packet=max_packet,
            deadlines=deadlines,
        )
        self.client_id = client_id
        self.connected = asyncio.Event()
        self.last_error = None
        self._opener = opener
        self._credentials = credentials or (username, None)
        self._will = will
        self._limits = (max_pending, max_pending_bytes)
        self._backoff = backoff or Backoff(
            500, 120000, _random, window_ms=first_window(fleet_size_hint)
        )
        self._changed = asyncio.Event()
        self._waiting = False
        self._task = self._link = self._write = self._error = self._sink = None
        self._pumping = False
        self._filters = {}
        self._answers = {}
        self._acks = []
        self._evictions = self._failures = 0
        self._counts = {}

    @property
    def stats(self) -> dict:
        """Counters since the client was made: only those that are not zero, and the queue."""
        s = self.session
        found = {"packets": s.packets, "strangers": s.strangers, "pending": s.head - s.tail}
        found["resent"] = s.resent
        found["hit"] = s.hits
        found.update(self._counts)
        return found

    def _count(self, name: str) -> None:
        self._counts[name] = self._counts.get(name, 0) + 1

    # Life

    async def start(self) -> None:
        """Connect in the background and stay connected until stop()."""
        if self._task is not None:  # left over from an asyncio.run that has ended
            await self.stop()
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def connected_once(self, timeout: float = 60) -> None:
        """Wait for the first connection. Raises what no retry will cure, at once; after
        `timeout` seconds ConnectionFailedError with the last error as `cause`."""
        try:
            await asyncio.wait_for(self._first(), timeout)
        except asyncio.TimeoutError:
            raise ConnectionFailedError(
                "not connected within %s s: %s" % (timeout, self.last_error),
                "timeout",
                self.last_error,
            )

    async def _first(self) -> None:
        while not self.connected.is_set():
            error = self.last_error
            if error is not None and not isinstance(
                error, (ConnectionFailedError, ConnectionDroppedError, ServiceError)
            ):
                raise error
            self._alive()
            await self._wait()

    async def stop(self) -> None:
        """Say DISCONNECT and close. What was accepted stays; start() goes on with it."""
        task, self._task = self._task, None
        if self._write is not None:
            try:
                self._write(b"\xe0\0")
            except (OSError, ValueError):
                self._write = None  # gone already: nobody to say goodbye to
        if task is not None and not task.done():
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                self._write = None
        if self._link is not None:
            await self._down(ConnectionDroppedError("stopped"))
        self._notify()

    async def reconnect(self, error: "Exception | None" = None) -> None:
        """Drop the link, if any, and connect again now."""
        self._backoff.reset()
        self._drop(error or ConnectionDroppedError("reconnect asked for"))
        self._notify()

    def _alive(self) -> None:
        if self._task is None:
            raise ConnectionDroppedError("the client is stopped")

    def _wait(self) -> "object":
        """Return what to await until something has changed."""
        if asyncio.current_task() is self._task:
            raise RuntimeError("a message handler must not wait for the link")
        self._waiting = True
        self._changed.clear()
        return self._changed.wait()

    def _notify(self) -> None:
        if self._waiting:
            self._waiting = False
            self._changed.set()

    def _drop(self, error: Exception) -> None:
        """End the link from outside its task; the first reason stays."""
        if self._link is not None and self._error is None:
            self._error = error
            self._write = None
            if self._task is not None and asyncio.current_task() is not self._task:
                self._task.cancel()

    async def _run(self) -> None:
        while True:
            watch = None
            try:
                self._error = None
                link = self._link = await self._opener()
                watch = asyncio.create_task(self._watch())
                await self._hello(link)
                await self._read(link)
            except asyncio.CancelledError:
                if self._error is None:
                    raise
                error = self._error
            except AzureIoTError as raised:
                error = self._error or raised
            except (OSError, ValueError, MemoryError) as raised:
                link = self._link
                error = self._error or (
                    link.explain(raised)
                    if link is not None and hasattr(link, "explain")
                    else ConnectionFailedError("no connection: %s" % raised, "", raised)
                )
            finally:
                if watch is not None:
                    watch.cancel()
            await self._down(error)
            await self._pause()

    async def _pause(self) -> None:
        """Wait before the next attempt; reconnect() ends the wait."""
        end = clock.ticks_add(clock.ticks_ms(), self._backoff.next())
        while self._backoff.attempts:
            left = clock.ticks_diff(end, clock.ticks_ms())
            if left <= 0:
                return
            await asyncio.sleep_ms(min(left, 250))

    async def _down(self, error: Exception) -> None:
        """Tidy up after a link or an attempt that has ended with `error`."""
        link, self._link = self._link, None
        self._write = None
        self.session.lost()
        self._answers.clear()
        self._acks = []
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.abort()
        was = self.connected.is_set()
        if was:
            self.connected.clear()
        if self._task is None:  # stop(): nothing went wrong
            hook = None
        elif was:
            error = self._judge(error)
            self._count("drops")
            hook = self.on_disconnected
        else:
            if isinstance(error, ConnectionDroppedError):
                error = ConnectionFailedError(str(error), "connack", error)
            self._failures += 1
            self._count("failures")
            hook = self.on_connect_failed
        self.last_error = error
        log.info("mqtt: %s", error)
        self._notify()
        if link is not None:
            await link.close()
        if hook is not None:
            result = hook(error)
            if result is not None:
                await result

    def _judge(self, error: Exception) -> Exception:
        """Tell an eviction by its pattern: closed soon, every time, and each connect worked."""
        lasted = clock.ticks_diff(clock.ticks_ms(), self._since)
        closed = isinstance(error, ConnectionDroppedError) and error is not self._error
        if not closed or lasted > _SOON_MS or self._failures:
            self._evictions = 0
            return error
        self._evictions += 1
        if self._evictions < _EVICTIONS:
            return error
        self._count("evictions")
        return ConnectionDroppedError(
            "closed %d times soon after connecting: another client seems to use the id '%s'"
            % (self._evictions, self.client_id),
            error,
        )

    async def _hello(self, link: "object") -> None:
        """Send CONNECT."""
        credentials = self._credentials
        if not isinstance(credentials, tuple):
            credentials = credentials()
            if not isinstance(credentials, tuple):
                credentials = await credentials
        s = self.session
        await link.write(
            packet.connect(self.client_id, s.keepalive_s, s.clean, *credentials, self._will)
        )

    async def _watch(self) -> None:
        """Ask the session for what is overdue."""
        s = self.session
        then = clock.ticks_ms()
        while True:
            await asyncio.sleep_ms(s.deadline())
            now = clock.ticks_ms()
            try:
                if s.elapse(max(0, clock.ticks_diff(now, then))):
                    self._post(b"\xc0\0")
            except AzureIoTError as error:
                self._drop(error)
                return
            then = now

    # Reading

    async def _read(self, link: "object") -> None:
        """Read and handle packets until the link ends."""
        s = self.session
        read = getattr(link, "read_some", _full)
        turns = 0
        while True:
            n = read(s.space())
            if n is None:
                turns = 0
                if self._waiting:
                    self._notify()
                if read is not _full:
                    await link.readable()
                    continue
                n = await link.read_into(s.space())
            if not n:
                raise ConnectionDroppedError("closed by the peer")
            event = s.next(n)
            while event:
                if event == MESSAGE:
                    pid = s.pid
                    try:
                        if self.on_message is not None:
                            result = self.on_message(s.topic, s.payload, s.qos, pid)
                            if result is False:
                                pid = 0  # the owner calls acknowledge(pid) later
                            elif result is not None:
                                await result
                        if pid:
                            self._acknowledge(pid)
                    except Exception as error:
                        self._blame(error)
                else:
                    await self._event(event)
                event = s.next()
            if self._error is not None:  # a write of ours has failed meanwhile
                raise self._error
            turns += 1
            if turns == _READS:
                turns = 0
                self._notify()
                await asyncio.sleep_ms(0)
            while len(self._acks) > _ACKS:
                await asyncio.sleep_ms(10)

    def _blame(self, error: Exception) -> None:
        """Go on after a handler that raised: its message is not acknowledged."""
        self._count("handler_errors")
        log.error("mqtt: message handler: %r", error)

    async def _event(self, event: int) -> None:
        s = self.session
        if event == CONNACK:
            if s.code:
                kind, text = _REFUSALS[s.code]
                raise kind("CONNACK %d: %s" % (s.code, text))
            self._online()
        elif event == BEGIN or event == CHUNK:
            await self._large(event)
        else:
            if s.pid in self._answers:
                self._answers[s.pid] = s.code
            self._notify()

    async def _large(self, event: int) -> None:
        """Pass a large message to its sink piece by piece, or let it go by, counted."""
        s = self.session
        try:
            if event == BEGIN:
                self._large_pid = s.pid
                self._sink = None
                if self.on_large is not None and s.topic is not None:
                    self._sink = self.on_large(s.topic, s.size, s.qos, s.pid)
                if self._sink is None:
                    self._count("discarded")
            elif self._sink is not None:
                result = self._sink.write(s.payload)
                if result is not None:
                    await result
            if not s.left:
                sink, self._sink = self._sink, None
                if sink is not None:
                    result = sink.close()
                    if result is False:
                        self._large_pid = 0  # as for small messages
                    elif result is not None:
                        await result
                if self._large_pid:
                    self._acknowledge(self._large_pid)
        except Exception as error:
            self._blame(error)
            sink, self._sink = self._sink, None
            self._large_pid = 0
            if sink is not None:
                sink.abort()

    def _online(self) -> None:
        """Take up work after CONNACK."""
        self._write = getattr(self._link, "write_some", _full)
        self._since = clock.ticks_ms()
        if self._evictions < _EVICTIONS - 1:
            self._backoff.reset()
        self._failures = 0
        self._count("connects")
        self.last_error = None
        self.connected.set()
        self._notify()
        asyncio.create_task(self._greet(self._link, self.session.present))

    async def _greet(self, link: "object", present: bool) -> None:
        """Subscribe again where the server has forgotten us, then resend and tell the owner."""
        try:
            if not present:
                for wanted in list(self._filters):
                    if self._link is link and wanted in self._filters:
                        await self._ask(wanted, self._filters[wanted])
            self._kick()
            if self._link is link and self.on_connected is not None:
                result = self.on_connected(present)
                if result is not None:
                    await result
        except AzureIoTError as error:
            if self._link is link:
                self._drop(error)

    # Writing

    def _post(self, data: "bytes | bytearray") -> None:
        """Write a small packet without waiting; a task finishes what the socket did not take."""
        if self._write is not None:
            n = self._put(data)
            if n != len(data) and self._link is not None and self._error is None:
                self.session.busy = True
                self._write = None
                asyncio.create_task(self._finish(bytes(data), n))

    def _put(self, data: "bytes | memoryview") -> "int | None":
        """Write now; a failure drops the link."""
        try:
            return self._write(data)
        except (OSError, ValueError) as error:
            self._broken(error)
            return None

    def _broken(self, error: Exception) -> None:
        """Drop the link after a failed write."""
        link = self._link
        if hasattr(link, "explain"):
            error = link.explain(error)
        self.last_error = error
        self._drop(error)

    def acknowledge(self, pid: int) -> None:
        """Send the PUBACK that a handler held back by returning False."""
        if self.connected.is_set():
            self._acknowledge(pid)

    def _acknowledge(self, pid: int) -> None:
        if self._write is None or self._acks:
            self._acks.append(pid)
        else:
            self._post(self.session.puback(pid))

    async def _finish(self, view: "bytes | memoryview", n: "int | None") -> None:
        """Write the rest of a packet, the only writer meanwhile."""
        s = self.session
        link = self._link
        if link is None or self._error is not None:
            return
        s.busy = True
        self._write = None
        try:
            if (n or 0) < len(view):
                await link.write(view[n:] if n else view)
            if s.rest is not None:
                await link.write(s.rest)
            while self._acks and self._link is link:
                await link.write(s.puback(self._acks.pop(0)))
        except AzureIoTError as error:
            if self._link is link:
                self._drop(error)
        except BaseException:
            if self._link is link:
                self._drop(ConnectionDroppedError("cancelled in the middle of a packet"))
            raise
        if self._link is link and self._error is None:
            s.rest = None
            s.busy = False
            self._write = getattr(link, "write_some", _full)
        self._notify()

    async def publish(
        self, topic: str, payload: "bytes | str", qos: int = 1, *, wait: bool = True,
        copy: bool = False,
    ) -> int:  # fmt: skip
        """Send, or accept for sending; return the number delivered() takes (QoS 1).

        Waits while the window is full; without a connection, while the queue is. With
        `wait=False` it queues instead and raises QueueFullError when the queue is full.
        """
        # hot path: no allocation beyond the session's and this coroutine
        if not isinstance(payload, bytes):
            payload = owned(payload, copy)
        s = self.session
        if self._write is None or s.sent != s.head or s.sent - s.tail >= s.window:
            if await self._queued(topic, payload, qos, wait):
                return s.head - 1
        view = s.publish(topic, payload, qos)
        try:  # not _put(): one call less, and its frame would come from the heap
            copy = self._write(view)
        except (OSError, ValueError) as error:
            self._broken(error)
            if not qos:
                raise self.last_error
        if copy != len(view) or s.rest is not None:
            await self._finish(view, copy)
        return s.head - 1

    async def _queued(self, topic: str, payload: bytes, qos: int, wait: bool) -> bool:
        """Queue a message (True), or wait until it may be sent at once (False)."""
        s = self.session
        while self._write is None or s.sent != s.head or s.sent - s.tail >= s.window:
            if self._accepts(wait, len(payload)):
                s.enqueue(topic, payload if qos else (0, payload))
                self._kick()
                return True
            self._alive()
            await self._wait()
        return False

    def _accepts(self, wait: bool, size: int) -> bool:
        """Tell whether a message is to be queued. Raises QueueFullError."""
        if wait and self._link is not None and self.connected.is_set():
            return False
        s = self.session
        most, most_bytes = self._limits
        if s.head - s.tail < most and s.pending_bytes() + size <= most_bytes:
            return True
        if not wait:
            raise QueueFullError("%d messages wait for a connection" % (s.head - s.tail))
        return False

    async def delivered(self, number: int) -> None:
        """Wait for the PUBACK of a message."""
        s = self.session
        while not s.done(number):
            self._alive()
            await self._wait()

    def _kick(self) -> None:
        """Have what was accepted sent, if it can be."""
        if self.connected.is_set() and not self._pumping:
            self._pumping = True
            asyncio.create_task(self._pump())

    async def _pump(self) -> None:
        """Send from the queue until it is empty or the link ends."""
        s = self.session
        link = self._link
        try:
            while self._link is link and link is not None and s.sent != s.head:
                view = s.send_next() if self._write is not None else None
                if view is None:
                    await self._wait()
                elif isinstance(view, tuple):
                    from azure_iot.mqtt import stream

                    await stream.send(self, view)
                else:
                    n = self._put(view)
                    if n != len(view) or s.rest is not None:
                        await self._finish(view, n)
        finally:
            self._pumping = False
            self._notify()

    async def publish_stream(
        self, topic: str, factory: "object", size: int, qos: int = 1, *, wait: bool = True
    ) -> int:
        """Publish `size` bytes from `factory()`, a reader with readinto(mv), piece by piece.

        For QoS 1 every call of `factory` must give a fresh reader with the same bytes: checked
        at once by reading two of them, ValueError otherwise.
        """
        from azure_iot.mqtt import stream

        return await stream.publish(self, topic, factory, size, qos, wait)

    # Subscribing

    async def subscribe(self, wanted: str, qos: int = 1) -> int:
        """Subscribe, now and after every loss of the session; return the QoS granted.

        Raises ServiceError where the server refuses; the link stays.
        """
        packet.topic_filter(wanted)
        code = await self._ask(wanted, qos)
        if code == 128:
            raise ServiceError("subscription to '%s' refused" % wanted, 128)
        self._filters[wanted] = qos
        return code

    async def unsubscribe(self, wanted: str) -> None:
        """Unsubscribe."""
        packet.topic_filter(wanted)
        self._filters.pop(wanted, None)
        await self._ask(wanted, -1)

    async def _ask(self, wanted: str, qos: int) -> int:
        """Send SUBSCRIBE (or UNSUBSCRIBE for -1) until it is answered; return the code."""
        s = self.session
        answers = self._answers
        while True:
            while self._write is None:
                self._alive()
                await self._wait()
            out = s.subscribe(wanted, qos) if qos >= 0 else s.unsubscribe(wanted)
            pid = s.pid
            answers[pid] = -1
            try:
                n = self._put(out)
                if n != len(out):
                    await self._finish(out, n)
                while answers.get(pid) == -1:
                    self._alive()
                    await self._wait()
                if pid in answers:
                    return answers[pid]
            finally:
                answers.pop(pid, None)

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
when the socket is full does one writer wait, and PUBACKs of the reader are kept for it. `_write`
is the stream's write method while writing is allowed, else None. Everybody who waits for a change (room, an answer, the link) waits for
`_changed` and looks again.

Message handler: `on_message(topic, payload, qos, pid)`; `payload` is valid until it returns. A
QoS 1 message is acknowledged afterwards, not if the handler raised: then it comes again with the
next connection. One that returns False calls `acknowledge(pid)` itself, on the same connection. A
handler may be a coroutine function; reading pauses while it runs, so it must not wait for the
link itself (publish(wait=False) is allowed).
"""

import asyncio

from ..errors import (
    AzureIoTError,
    ConnectionDroppedError,
    QueueFullError,
    ServiceError,
)
from . import packet
from .connection import Connection

_bytes = bytes  # per message: a builtin is searched for one by one
_FAILED = (OSError, ValueError)  # what a stream's write raises


def owned(payload: object, copy: bool) -> bytes:
    """Return a payload that nobody can change while it is in flight."""
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, str):
        return payload.encode()
    if not copy:
        raise TypeError("%s may change before PUBACK: pass bytes, or copy=True" % type(payload))
    return bytes(payload)


class MQTTClient(Connection):
    """See the module; Connection takes the arguments and holds the attributes."""

    def _post(self, data: "bytes | bytearray") -> None:
        """Write a small packet without waiting; a task finishes what the socket did not take."""
        if self._write is not None:
            n = self._put(data)
            if n != len(data) and self._link is not None and self._error is None:
                self._write = None
                asyncio.create_task(self._finish(bytes(data), n))

    def _put(self, data: "bytes | memoryview") -> "int | None":
        """Write now; a failure drops the link."""
        try:
            return self._write(data)
        except _FAILED as error:
            self._broken(error)
            return None

    def _broken(self, error: Exception) -> None:
        """Drop the link after a failed write."""
        self.last_error = error = self._link.explain(error)
        self._drop(error)

    def acknowledge(self, pid: int) -> None:
        """Send PUBACK, for a handler that held it back by returning False."""
        if self._write is not None and not self._acks:
            self._post(self.session.puback(pid))
        elif self.connected.is_set():
            self._acks.append(pid)

    async def _finish(self, view: "bytes | memoryview", n: "int | None") -> None:
        """Write the rest of a packet, the only writer meanwhile."""
        s = self.session
        link = self._link
        if link is None or self._error is not None:
            return
        self._write = None
        try:
            if (n or 0) < len(view):
                await link.write(view[n:] if n else view)
            if s.rest is not None:
                await link.write(s.rest)
        except BaseException as error:
            self._cut(link, error)
        await self._release(link)

    def _cut(self, link: "object", error: BaseException) -> None:
        """Drop a link whose stream ends within a packet; raise again what is not of the link."""
        ours = isinstance(error, AzureIoTError)
        if self._link is link:
            self._drop(error if ours else ConnectionDroppedError("cut in a packet: %r" % error))
        if not ours:
            raise error

    async def _release(self, link: "object") -> None:
        """Write the PUBACKs that came up meanwhile, then let the others write again."""
        s = self.session
        try:
            while self._acks and self._link is link and self._error is None:
                await link.write(s.puback(self._acks.pop(0)))
        except BaseException as error:
            self._cut(link, error)
        if self._link is link and self._error is None:
            s.rest = None
            self._write = link.write_some
        self._notify()

    async def publish(
        self, topic: str, payload: "bytes | str", qos: int = 1, wait: bool = True,
        copy: bool = False,
    ) -> int:  # fmt: skip
        """Send, or accept for sending; return the number delivered() takes (QoS 1).

        Waits while the window is full; without a connection, while the queue is. With
        `wait=False` it queues instead and raises QueueFullError when the queue is full. Name
        `wait` and `copy`: keyword-only ones would cost 900 instructions in every call.
        """
        # hot path: no allocation beyond the session's and this coroutine, whose names are used
        # twice because each of them is held by every call
        if qos >> 1:
            raise ValueError("QoS %d: 0 or 1" % qos)
        if payload.__class__ is not _bytes:
            payload = owned(payload, copy)
        s = self.session
        write = self._write
        if write is None or s.sent >= s.until and not s.room():
            if await self._queued(topic, payload, qos, wait):
                return s.sent + s.queued - 1
            write = self._write
        payload = self._publish(topic, payload, qos)
        try:  # not _put(): one call less, and its frame would come from the heap
            copy = write(payload)
        except _FAILED as error:
            self._broken(error)
            if not qos:
                raise self.last_error
            return s.sent - 1
        if copy != s.due:
            await self._finish(payload, copy)
        return s.sent - 1

    async def _queued(self, topic: str, payload: bytes, qos: int, wait: bool) -> bool:
        """Queue a message (True), or wait until it may be sent at once (False)."""
        s = self.session
        while True:
            if self._accepts(wait, len(payload)):
                s.enqueue(topic, payload if qos else (0, payload))
                self._kick()
                return True
            if self._task is None:
                self._alive()
            await self._wait()
            if self._write is not None and s.room():
                return False

    def _accepts(self, wait: bool, size: int) -> bool:
        """Tell whether a message is to be queued. Raises QueueFullError."""
        if wait and self._link is not None and self.connected.is_set():
            return False
        s = self.session
        pending = s.sent + s.queued - s.tail
        most, most_bytes = self._limits
        if pending < most and s.held() + size <= most_bytes:
            return True
        if not wait:
            raise QueueFullError("%d messages wait for a connection" % pending)
        return False

    async def ready(self) -> None:
        """Wait until publish() would send at once; it does if it is called before any other wait."""
        while self._write is None or not self.session.room():
            self._alive()
            await self._wait()

    async def delivered(self, number: int) -> None:
        """Wait for the PUBACK of a message. Raises what its reader raised (publish_stream)."""
        while not self.session.done(number):
            if self._task is None:
                self._alive()
            await self._wait()
        if self._given_up:
            self._look_up(number)

    def _look_up(self, number: int) -> None:
        """Raise what the reader of a message raised when it was sent."""
        for given_up, error in self._given_up:
            if given_up == number:
                raise error

    def _kick(self) -> None:
        """Have what was accepted sent, if it can be."""
        if self.connected.is_set() and not self._pumping:
            asyncio.create_task(self._pump())
            self._pumping = True  # not if there was no memory for the task

    async def _pump(self) -> None:
        """Send from the queue until it is empty or the link ends."""
        s = self.session
        link = self._link
        try:
            while self._link is link and link is not None and s.queued:
                view = s.send_next() if self._write is not None else None
                if view is None:
                    await self._wait()
                elif isinstance(view, tuple):
                    from . import stream

                    await stream.send(self, view)
                else:
                    n = self._put(view)
                    if n != s.due:
                        await self._finish(view, n)
        except MemoryError as error:
            self._drop(error)  # the next link starts it again
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
        from . import stream

        return await stream.publish(self, topic, factory, size, qos, wait)

    async def subscribe(self, wanted: str, qos: int = 1) -> int:
        """Subscribe, now and after every loss of the session; return the QoS granted.

        Raises ServiceError where the server refuses; the link stays. A refusal when it subscribes
        again is logged and counted as `refused`.
        """
        packet.topic_filter(wanted)
        if qos not in (0, 1):
            raise ValueError("QoS %d: 0 or 1" % qos)
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

    async def _ask(self, wanted: str, qos: int, link: "object | None" = None) -> int:
        """Send SUBSCRIBE (or UNSUBSCRIBE for -1) until it is answered; return the code.

        With `link` on that one only. Raises ConnectionDroppedError when it has ended.
        """
        s = self.session
        answers = self._answers
        while True:
            while self._write is None or link is not None and link is not self._link:
                self._alive()
                if link is not None and link is not self._link:
                    raise ConnectionDroppedError("the link has ended")
                await self._wait()
            out = s.subscribe(wanted, qos)
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

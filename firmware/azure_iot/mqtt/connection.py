"""The link of an MQTT client: connect, read, notice trouble, back off, again.

Responsible for: the two tasks of a client (see client.py, theory of operation), CONNECT, handing
messages over, telling an eviction by its pattern. Not responsible for: publishing and
subscribing (client.py), the rules of MQTT (session.py), TCP and TLS (the opener's transport).
"""

import asyncio
import os

from micropython import const

from .. import clock, log
from ..backoff import Backoff, first_window
from ..errors import (
    AzureIoTError,
    ConnectionDroppedError,
    ConnectionFailedError,
    CredentialError,
    ProtocolError,
    ServiceError,
)
from ..transport import Waitable
from . import packet
from .receiving import BEGIN, CHUNK, CONNACK, MESSAGE
from .session import Session

_READS = const(32)  # packets read in a row before other tasks get a turn
_ACKS = const(64)  # PUBACKs kept while a writer waits
_SOON_MS = const(30000)  # a link closed by the peer within this time counts as an eviction
_MOST = const(32767)  # messages at a time: packet ids half a lap away belong to SUBSCRIBE
_PROVEN_MS = const(2000)  # one that ended earlier does not start the backoff again
_EVICTIONS = const(3)

_REFUSALS = const(
    (
        "",
        "protocol version refused",
        "client id refused",
        "server unavailable",
        "bad user name or password",
        "not authorised: unknown to the server, disabled, or a wrong key",
    )
)


def _random(n: int) -> int:
    """Return a random integer below `n` (below 2^24)."""
    return int.from_bytes(os.urandom(3), "big") % n


class Connection:
    """Half of an MQTTClient. `connected` is an Event, `last_error` why the last link or attempt ended."""

    on_message = None  # (topic, payload, qos, pid)
    on_large = None  # (topic, size, qos, pid) -> sink with write(mv), close(), abort(); or None
    on_connected = None  # (session_present), after subscribing again
    on_disconnected = None  # (error); not after stop()
    on_connect_failed = None  # (error)
    _given_up = ()  # (number, error) of messages whose reader failed, for delivered()

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
        fleet_size_hint: int = 1000,
    ) -> None:
        """Raises ValueError or TypeError for what MQTT does not allow."""
        if not 0 < window <= max_pending + window <= _MOST:
            raise ValueError("window and max_pending: from 1 and 0, together up to %d" % _MOST)
        packet.connect(client_id, keepalive_s, clean_session, None, None, will)
        self.session = Session(
            keepalive_s=keepalive_s,
            clean=clean_session,
            window=window,
            buffer_in=buffer_in,
            buffer_out=buffer_out,
            max_packet=max_packet,
            deadlines=deadlines,
        )
        self._publish = self.session.publish
        self.client_id = client_id
        self.connected = asyncio.Event()
        self.last_error = None
        self._opener = opener
        self._credentials = credentials or (username, None)
        self._will = will
        self._limits = (max_pending, max_pending_bytes)
        self._at_once = False
        self._backoff = backoff or Backoff(
            500, 120000, _random, window_ms=first_window(fleet_size_hint)
        )
        self._waiters = asyncio.core.TaskQueue()  # type: ignore[attr-defined]
        self._changed = Waitable(self._queue_up, None)
        self._task = self._link = self._error = self._sink = None
        self._write: object | None = None
        self._pumping = self._handling = False
        self._filters = {}
        self._answers = {}
        self._acks = []
        self._evictions = self._failures = 0
        self._counts = {}

    @property
    def stats(self) -> dict:
        """Counters since the client was made: only those that are not zero, and the queue."""
        s = self.session
        found = {"packets": s.packets, "strangers": s.strangers, "resent": s.resent}
        found["pending"] = s.sent + s.queued - s.tail
        found.update(self._counts)
        return found

    def _count(self, name: str) -> None:
        self._counts[name] = self._counts.get(name, 0) + 1

    async def start(self) -> None:
        """Connect in the background and stay connected until stop()."""
        if self._task is not None:  # left over from an asyncio.run that has ended
            await self.stop()
        self._pumping = False  # who pumped then may be gone with its run
        self._waiters = asyncio.core.TaskQueue()  # type: ignore[attr-defined]
        self._task = asyncio.create_task(self._run())

    def abandon(self) -> None:
        """Forget who works and waits: nobody does any more, their asyncio.run has ended."""
        self._task = None
        self._waiters = asyncio.core.TaskQueue()  # type: ignore[attr-defined]

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
        # A handler or hook runs in that task, which ends by itself when they return.
        if task is not None and not task.done() and task is not asyncio.current_task():
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:  # that task's: a cancel of ours is handed on to it
                self._write = None
        if self._link is not None:
            await self._down(ConnectionDroppedError("stopped"))
        self._notify()

    async def reconnect(self, error: "Exception | None" = None) -> None:
        """Drop the link, if any, and connect again now."""
        self._backoff.reset()
        self._at_once = self._link is not None
        self._drop(error or ConnectionDroppedError("reconnect asked for"))
        self._notify()

    def retry_soon(self) -> None:
        """Let the next attempt come as early as after a first failure."""
        self._backoff.reset()

    def _alive(self) -> None:
        if self._task is None:
            raise ConnectionDroppedError("the client is stopped")

    def _wait(self) -> "object":
        """Return what to await until something has changed."""
        if self._handling and asyncio.current_task() is self._task:
            raise RuntimeError("a message handler must not wait for the link")
        return self._changed

    def _queue_up(self, _: None) -> None:
        """Put the running task among those that `_notify` wakes."""
        task = asyncio.core.cur_task  # type: ignore[attr-defined]
        self._waiters.push(task)
        task.data = self._waiters  # where a cancel removes it from

    def _notify(self) -> None:
        """Wake everybody who waits for a change."""
        waiters = self._waiters
        while waiters.peek():
            asyncio.core._task_queue.push(waiters.pop())  # type: ignore[attr-defined]

    def _drop(self, error: Exception) -> None:
        """End the link from outside its task; the first reason stays."""
        if self._link is not None and self._error is None:
            self._error = error
            self._write = None
            if self._task is not None and asyncio.current_task() is not self._task:
                self._task.cancel()

    async def _run(self) -> None:
        s = self.session
        task = self._task
        while self._task is task:
            link = watch = None
            try:
                self._error = None
                link = self._link = await self._opener()
                watch = asyncio.create_task(self._watch())
                login = self._credentials
                if not isinstance(login, tuple):
                    login = login()
                    if not isinstance(login, tuple):
                        login = await login
                hello = packet.connect(self.client_id, s.keepalive_s, s.clean, *login, self._will)
                await link.write(hello)
                hello = login = None
                await self._read(link)
            except asyncio.CancelledError:
                if self._task is not task:
                    raise
                # Without _error nobody cancelled: asyncio's wait_for had no memory for its result.
                error = self._error or MemoryError("no memory to wait")
            except Exception as raised:
                error = self._error or raised
            finally:
                if watch is not None:
                    watch.cancel()
            if self._task is not task:
                break
            if not isinstance(error, AzureIoTError):
                error = (
                    ConnectionFailedError("no connection: %r" % error, "", error)
                    if link is None
                    else link.explain(error)
                )
            try:
                await self._down(error)
            except Exception as failure:  # a hook's, or no memory: this task goes on all the same
                self.last_error = failure
                log.error("mqtt: %r after: %s", failure, error)
            if not self._at_once:
                await self._pause()
            self._at_once = False

    async def _pause(self) -> None:
        """Wait as the backoff says, or until reconnect()."""
        end = clock.ticks_add(clock.ticks_ms(), self._backoff.next())
        while self._backoff.attempts:
            left = clock.ticks_diff(end, clock.ticks_ms())
            if left <= 0:
                break
            await asyncio.sleep_ms(min(left, 250))

    async def _down(self, error: Exception) -> None:
        """Tidy up after a link or an attempt that has ended with `error`."""
        link, self._link = self._link, None
        self._write = None
        s = self.session
        if s.sent != s.tail:
            self._count("hit")
        s.lost()
        if link is not None:
            await link.close()
        self._answers.clear()
        self._acks = []
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.abort()
        was = self.connected.is_set()
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
        asked = self._task is None or self._at_once  # stop() or reconnect()
        log.write(log.INFO if asked else log.WARNING, "mqtt: %s", error)
        self._notify()
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
        else:
            self._evictions += 1
        if self._evictions < _EVICTIONS:
            if lasted > _PROVEN_MS:
                self._backoff.reset()
            return error
        self._count("evictions")
        return ConnectionDroppedError(
            "closed %d times soon after connecting: another client seems to use the id '%s'"
            % (self._evictions, self.client_id),
            error,
        )

    async def _watch(self) -> None:
        """Ask the session for what is overdue."""
        s = self.session
        then = clock.ticks_ms()
        while True:
            await asyncio.sleep_ms(s.deadline())
            now = clock.ticks_ms()
            try:
                ms = max(0, clock.ticks_diff(now, then))
                if s.elapse(ms, self._write is None, self._handling):
                    self._post(b"\xc0\0")
            except Exception as error:  # without this task nobody would notice a dead peer
                self._drop(error)
                return
            then = now

    async def _read(self, link: "object") -> None:
        """Read and handle packets until the link ends."""
        s = self.session
        step = s.next
        read = link.read_some
        ready = None if read is None else link.readable()
        waiters = self._waiters
        turns = 0
        while True:
            view = s.space
            if ready is None:
                self._notify()
                n = await link.read_into(view)
            else:
                n = read(view)
            if n:
                event = step(n)
                while event:
                    later = self._message(s) if event == MESSAGE else self._event(event)
                    if later is not None:
                        await self._paused(link, later)
                    event = step() if s.more else 0
                if self._error is not None:  # a write of ours has failed meanwhile
                    raise self._error
            elif n is not None:
                raise ConnectionDroppedError("closed by the peer")
            if ready is not None and (n is None or n < len(view)):
                # nothing is left: a stream reads on until it has filled the view or must wait
                turns = 0
                if waiters.peek():
                    self._notify()
                await ready
                continue
            turns += 1
            if turns == _READS:  # give other tasks a turn
                turns = 0
                self._notify()
                await asyncio.sleep_ms(0)
                while len(self._acks) > _ACKS:
                    await asyncio.sleep_ms(10)

    def _message(self, s: Session) -> "object | None":
        """Hand a message over and acknowledge it; return what is still to be awaited."""
        pid = s.pid
        try:
            if self.on_message is not None:
                result = self.on_message(s.topic, s.payload, s.qos, pid)
                if result is False:  # acknowledged later
                    return None
                if result is not None:
                    return self._await(result, pid)
        except Exception as error:
            self._blame(error)
            return None
        if pid:
            self.acknowledge(pid)
        return None

    async def _paused(self, link: "object", work: "object") -> None:
        """Wait for a handler or a sink; nothing is read meanwhile."""
        self._handling = True
        try:
            await work
        finally:
            self._handling = False
        if self._link is not link:
            raise ConnectionDroppedError("stopped by a handler")

    async def _await(self, result: "object", pid: int) -> None:
        """Wait for a handler that is a coroutine, then acknowledge."""
        try:
            await result
        except Exception as error:
            self._blame(error)
            return
        if pid:
            self.acknowledge(pid)

    def _blame(self, error: Exception) -> None:
        """Go on after a handler that raised: its message is not acknowledged."""
        self._count("handler_errors")
        log.error("mqtt: message handler: %r", error)

    def _event(self, event: int) -> "object | None":
        """Handle what is not a message; return what is still to be awaited."""
        s = self.session
        if event <= CHUNK:
            return self._large(event)
        if event > CONNACK:  # SUBACK, UNSUBACK
            if s.pid in self._answers:
                self._answers[s.pid] = s.code
        elif s.code:
            kind = CredentialError
            if s.code == 1:
                kind = ProtocolError
            elif s.code == 3:
                kind = ConnectionFailedError
            raise kind("CONNACK %d: %s" % (s.code, _REFUSALS[s.code]))
        else:
            self._write = self._link.write_some
            self._since = clock.ticks_ms()
            self._failures = 0
            self._count("connects")
            self.last_error = None
            self.connected.set()
            asyncio.create_task(self._greet(self._link, s.present))
        self._notify()
        return None

    async def _large(self, event: int) -> None:
        """Pass a large message to its sink piece by piece, or let it go by, counted."""
        s = self.session
        try:
            result = None
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
                result = sink.close() if sink is not None else None
                if result is False:  # acknowledged later
                    return
                if result is not None:
                    await result
                if self._large_pid:
                    self.acknowledge(self._large_pid)
        except Exception as error:
            self._blame(error)
            sink, self._sink = self._sink, None
            self._large_pid = 0  # not acknowledged: it comes again
            if sink is not None:
                sink.abort()

    async def _greet(self, link: "object", present: bool) -> None:
        """Subscribe again where the server has forgotten us, then resend and tell the owner."""
        try:
            if not present:
                for wanted in list(self._filters):
                    qos = self._filters.get(wanted)
                    if qos is not None and await self._ask(wanted, qos, link) == 128:
                        self._count("refused")
                        log.error("mqtt: the server now refuses a subscription to '%s'", wanted)
            self._kick()
            if self._link is link and self.on_connected is not None:
                result = self.on_connected(present)
                if result is not None:
                    await result
        except Exception as error:
            if self._link is link:
                self._drop(error)

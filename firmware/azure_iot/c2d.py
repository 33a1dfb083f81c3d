"""Cloud-to-device messages (and module inputs): acknowledged only when the application took them.

Responsible for: handing messages on in order and holding each PUBACK back until then. Not for:
MQTT. Source: azure-docs "Send cloud-to-device messages": a message leaves the hub at PUBACK.

Theory of operation. A message waits in the inbox; whoever takes it accepts it by returning from
the handler, or by asking an iterator for the next one. Then its PUBACK goes out. If the connection
ends first, the hub sends everything unacknowledged again: what still waited here is forgotten, and
a message that was being handled is recognised when it comes back, so it is not handled twice:
with DUP, its packet id and the same bytes (MQTT-3.3.1-1, MQTT-4.4.0-1), on the next connection.
Anything else is another message, however equal. After a restart of the device, or from a hub
that does not say DUP, it may be handled twice: at least once, look at `message_id`.

What finds no room, and all that follows it, is left at the hub, so that the order stays; when
everything here is done, the client connects anew to get it. A message whose handler failed is
left there, too: for it the client connects anew after 15 s, twice as long after each failure.
"""

import asyncio

from micropython import const

from . import hub, log
from .errors import QueueFullError
from .inbox import Inbox

_REMEMBERED = const(4)
_PAUSE_MS = const(15000)
_LONGEST_MS = const(3600000)


class _Held:
    """One message on its way to the application."""

    def __init__(self, message: "hub.Message", mark: tuple) -> None:
        self.message = message
        self.mark = mark  # packet id, properties, body


class C2D:
    """The way of messages to one handler, or to whoever iterates; `acknowledge(pid)` is MQTT's.

    `reconnect()` has the hub send again what was left there.
    """

    def __init__(
        self, inbox_size: int, acknowledge: object, session: object, reconnect: object
    ) -> None:
        self.handler = None
        self.sink = None  # (message, size) -> where a large body goes
        self.inbox = Inbox(inbox_size)
        self.pause_ms = _PAUSE_MS
        self._size = inbox_size
        self._reconnect = reconnect
        self._retry = None
        self._left = self._failing = self._took = False  # on this connection
        self._acknowledge = acknowledge
        self._session = session  # MQTT's: tells DUP
        self._open = []
        self._stale = []  # with the application, but their connection has ended
        self._done = []
        self._worker = None

    def stream(self, found: tuple, size: int, pid: int) -> "object | None":
        """Give the sink for a large message; None: the application does not want it."""
        if self._refuses():
            raise QueueFullError("the inbox is full: the message stays at the hub")
        sink = self.sink(hub.message_from_bag(found[-1], b""), size)
        if sink is None:
            return None
        from .large import Through

        return Through(sink, lambda digest: self.on_message(found, sink, pid, digest))

    def on_message(
        self, found: tuple, data: object, pid: int, digest: bytes = b""
    ) -> "bool | None":
        """Take what `hub.parse` found; False: the PUBACK comes later."""
        mark = (pid, found[-1], digest or data)
        if self._session.dup:
            if mark in self._done:
                self._done.remove(mark)
                return None
            for held in self._stale:
                if held.mark == mark:
                    # It came again while the application still has it: only the PUBACK is new.
                    self._stale.remove(held)
                    self._open.append(held)
                    return False
        if self._refuses():
            return False
        message = hub.message_from_bag(found[-1], data)
        if found[0] == hub.INPUT:
            message.input_name = found[1]
        held = _Held(message, mark)
        self._open.append(held)
        self.inbox.put(held)
        if self.handler is not None and (self._worker is None or self._worker.done()):
            self._worker = asyncio.create_task(self._work())
        return False

    def _refuses(self) -> bool:
        """Tell whether a message has to stay at the hub: not acknowledged, it comes again."""
        if self._left or len(self.inbox) >= self._size:
            self._left = True
            self.inbox.drops += 1
        return self._left

    def _look(self) -> None:
        """Connect anew when everything here is done and something was left at the hub."""
        if self._open:
            return
        pause = 0
        if not self._left or not self._took:
            if not self._failing or self._retry is not None:
                return
            pause = self.pause_ms
            self.pause_ms = min(2 * pause, _LONGEST_MS)
        if self._retry is not None:
            self._retry.cancel()
        self._retry = asyncio.create_task(self._again(pause))

    async def _again(self, pause: int) -> None:
        await asyncio.sleep_ms(pause)
        self._retry = None
        self._reconnect()

    def on_disconnected(self) -> None:
        """Forget what nobody took yet; the hub sends it again."""
        while True:
            held = self.inbox.get_nowait()
            if held is None:
                break
            if held in self._open:
                self._open.remove(held)
        self._stale = self._open  # what did not come again by now is unknown to the hub
        self._open = []
        self._done = []
        self._left = self._failing = self._took = False
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def begin_anew(self) -> None:
        """Forget who worked on messages: their asyncio.run has ended."""
        self._retry = None
        self.on_disconnected()
        self._stale = []  # what they had comes again, to be handled
        self._worker = None

    def accept(self, held: _Held) -> None:
        """Acknowledge, or remember it for when it comes again."""
        if held in self._open:
            self._open.remove(held)
            self._acknowledge(held.mark[0])
            self._took = True
            if not self._failing:
                self.pause_ms = _PAUSE_MS
            self._look()
        elif held in self._stale:
            self._stale.remove(held)
            self._done.append(held.mark)
            if len(self._done) > _REMEMBERED:
                self._done.pop(0)

    def _failed(self, held: _Held) -> None:
        if held in self._open:
            self._open.remove(held)
            self._failing = True
            self._look()
        elif held in self._stale:
            self._stale.remove(held)

    async def _work(self) -> None:
        while True:
            held = await self.inbox.get()
            try:
                work = self.handler(held.message)
                if hasattr(work, "send"):  # of an async function
                    await work
            except (Exception, asyncio.CancelledError) as error:  # of a task that it awaited
                log.error("the message handler failed: %s", repr(error))
                self._failed(held)
                continue
            self.accept(held)

    def messages(self) -> "Messages":
        """Give an iterator over messages."""
        return Messages(self)


class Messages:
    """`async for message in client.c2d_messages()`; the next step accepts the last message."""

    def __init__(self, owner: C2D) -> None:
        self._owner = owner
        self._last = None

    def __aiter__(self) -> "Messages":
        return self

    async def __anext__(self) -> "hub.Message":
        self.accept()
        self._last = await self._owner.inbox.__anext__()
        return self._last.message

    def accept(self) -> None:
        """Accept the last message now, before asking for the next."""
        last = self._last
        self._last = None
        if last is not None:
            self._owner.accept(last)

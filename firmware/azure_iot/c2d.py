"""Cloud-to-device messages (and module inputs): acknowledged only when the application took them.

Responsible for: handing a message on and holding its PUBACK back until then. Not for: MQTT.
Source: azure-docs "Send cloud-to-device messages": a message leaves the hub's queue at PUBACK.

Theory of operation. `on_message` returns a coroutine; the MQTT client acknowledges once it ends
well. If it raises, nothing is acknowledged, and the hub sends the message again with the next
connection: at least once, so an application that must not act twice looks at `message_id`.
"""

import asyncio

from . import hub
from .errors import QueueFullError
from .inbox import Inbox

HELD = 0
ACCEPTED = 1
DROPPED = 2


class _Waiting:
    def __init__(self, message: "hub.Message") -> None:
        self.message = message
        self.event = asyncio.Event()
        self.state = HELD

    def settle(self, state: int) -> None:
        if self.state == HELD:
            self.state = state
            self.event.set()


class C2D:
    """The way of messages to one handler, or to whoever iterates."""

    def __init__(self, inbox_size: int) -> None:
        self.handler = None
        self.inbox = Inbox(inbox_size)

    def on_message(self, found: tuple, data: bytes) -> object:
        """Take what `hub.parse` found; return the coroutine that PUBACK waits for."""
        message = hub.message_from_bag(found[-1], data)
        if found[0] == hub.INPUT:
            message.input_name = found[1]
        if self.handler is not None:
            return self.handler(message)
        return self._wait(_Waiting(message))

    async def _wait(self, waiting: _Waiting) -> None:
        dropped = self.inbox.put(waiting)
        if dropped is not None:
            dropped.settle(DROPPED)
        await waiting.event.wait()
        if waiting.state == DROPPED:
            raise QueueFullError("too many cloud-to-device messages wait for the application")

    def messages(self) -> "Messages":
        """Give an iterator over messages."""
        return Messages(self.inbox)


class Messages:
    """`async for message in client.c2d_messages()`; the next step accepts the last message."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._last = None

    def __aiter__(self) -> "Messages":
        return self

    async def __anext__(self) -> "hub.Message":
        self.accept()
        self._last = await self._inbox.__anext__()
        return self._last.message

    def accept(self) -> None:
        """Accept the last message now, before asking for the next."""
        if self._last is not None:
            self._last.settle(ACCEPTED)
            self._last = None

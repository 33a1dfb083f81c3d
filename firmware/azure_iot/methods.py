"""Direct methods: requests routed to handlers, answered exactly once.

Responsible for: handlers by name, the queue for the rest, status and body of the answer. Not for:
subscriptions (client.py), topics (hub.py).
Source: azure-docs "Understand and invoke direct methods from IoT Hub".
"""

import asyncio
import json

from micropython import const

from . import hub, log
from .errors import ServiceError
from .inbox import Inbox

_MOST_AT_ONCE = const(4)
_BAD_REQUEST = const(400)
_TOO_LARGE = const(413)
_UNKNOWN = const(501)
_BUSY = const(503)
_FAILED = const(500)


class MethodRequest:
    """One call: `name`, `payload` (decoded JSON, None for an empty body), `request_id`."""

    def __init__(self, name: str, payload: object, request_id: str, publish: object) -> None:
        self.name = name
        self.payload = payload
        self.request_id = request_id
        self.answered = False
        self._publish = publish

    async def respond(self, status: int, body: object = None) -> None:
        """Answer once; `body` is JSON-able, None gives an empty body.

        Topic `$iothub/methods/res/{status}/?$rid={request id as it came}`, QoS 1. Raises
        ServiceError 409 for a second answer, 413 for more than 128 KB, ValueError for no JSON.
        Source: azure-docs "Direct methods from IoT Hub".
        """
        if self.answered:
            raise ServiceError("this method call is answered already", 409)
        data = b"" if body is None else hub.to_json(body)
        if len(data) > hub.MAX_METHOD:
            raise ServiceError("a method answer of %d bytes is too large" % len(data), 413)
        self.answered = True
        await self._publish(hub.method_response_topic(status, self.request_id), data, 1)

    def __repr__(self) -> str:
        return "<MethodRequest %s>" % self.name


class Methods:
    """Routes calls; `handlers` maps a name to `handler(payload)`, a function or coroutine function."""

    def __init__(self, publish: object, inbox_size: int) -> None:
        self.handlers = {}
        self._publish = publish
        self._size = inbox_size
        self._inbox = None
        self.running = 0

    def begin_anew(self) -> None:
        """Forget the calls whose asyncio.run has ended."""
        self.running = 0

    def requests(self) -> Inbox:
        """Give the queue of calls that have no handler."""
        if self._inbox is None:
            self._inbox = Inbox(self._size)
        return self._inbox

    def on_request(self, name: str, rid: str, body: bytes) -> None:
        """Take a call from the hub; never waits."""
        request = MethodRequest(name, None, rid, self._publish)
        handler = self.handlers.get(name)
        try:
            if body:
                request.payload = json.loads(body)
        except ValueError:
            self._answer(request, _BAD_REQUEST, {"error": "the payload is no JSON"})
            return
        if handler is not None:
            if self.running >= _MOST_AT_ONCE:
                self._answer(request, _BUSY, {"error": "too many calls at once"})
            else:
                asyncio.create_task(self._run(handler, request))
                self.running += 1  # not if there was no memory for the task
        elif self._inbox is not None:
            dropped = self._inbox.put(request)
            if dropped is not None:
                self._answer(dropped, _BUSY, {"error": "too many calls waiting"})
        else:
            self._answer(request, _UNKNOWN, {"error": "this device has no method %s" % name[:64]})

    def refuse(self, name: str, rid: str, size: int) -> None:
        """Answer a call whose payload this device does not take in."""
        text = "a payload of %d bytes is over this device's limit (max_inbound)" % size
        self._answer(MethodRequest(name, None, rid, self._publish), _TOO_LARGE, {"error": text})

    async def _run(self, handler: object, request: MethodRequest) -> None:
        try:
            answer = handler(request.payload)
            if hasattr(answer, "send"):  # a coroutine
                answer = await answer
            status, body = answer if isinstance(answer, tuple) else (answer, None)
            if not isinstance(status, int):
                # A handler that returns a body alone, or nothing, has done its work.
                status, body = 200, answer
        except (Exception, asyncio.CancelledError) as error:  # of a task that it awaited
            log.error("method %s failed: %s", request.name, repr(error))
            status, body = _FAILED, {"error": "the method failed on the device"}
        finally:
            self.running -= 1
        await self._respond(request, status, body)

    def _answer(self, request: MethodRequest, status: int, body: object) -> None:
        asyncio.create_task(self._respond(request, status, body))

    async def _respond(
        self, request: MethodRequest, status: int, body: object, last: bool = False
    ) -> None:
        try:
            await request.respond(status, body)
        except Exception as error:
            log.warning("the answer to method %s was not sent: %r", request.name, error)
            if not request.answered and not last:
                why = "no JSON" if isinstance(error, ValueError) else "too large"
                await self._respond(request, _FAILED, {"error": "the answer is %s" % why}, True)

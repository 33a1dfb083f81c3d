"""Direct methods: calls that wait for a device's answer, with the hub's own status codes.

Responsible for: request ids, matching responses, time-outs while waiting for the device to
connect and to answer, the limit of 128 KB. Not for: topics (`hub.py`), REST (`service.py`).
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

PAYLOAD_LIMIT = 131_072
MIN_TIMEOUT, MAX_TIMEOUT = 5, 300


@dataclass
class MethodResult:
    """What the caller gets: the hub's status, and the device's answer when there is one."""

    hub_status: int
    status: int | None = None
    payload: Any = None
    error: dict[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """True when the device answered, whatever its status."""
        return self.hub_status == 200


def not_connected() -> MethodResult:
    """The device was not there in time."""
    text = "Timed out waiting for device to connect."
    return MethodResult(404, error={"errorCode": 404103, "message": text})


def timed_out() -> MethodResult:
    """The device did not answer in time."""
    text = "Timed out waiting for the response from device."
    return MethodResult(504, error={"errorCode": 504101, "message": text})


def too_large() -> MethodResult:
    """The request is above the limit."""
    text = f"Method payload is above {PAYLOAD_LIMIT} bytes."
    return MethodResult(413, error={"errorCode": 413001, "message": text})


def bad_answer(text: str) -> MethodResult:
    """The device answered with something that is not JSON."""
    return MethodResult(502, error={"errorCode": 502000, "message": text})


def check_name(name: str) -> None:
    """Raise ValueError for a name that cannot stand in a topic (MQTT-3.3.2-2)."""
    if not name or any(letter in "/+#" or letter < " " for letter in name):
        raise ValueError(f"no method can be named {name!r}: it is one level of a topic")


class Calls:
    """The calls that wait for one device or module."""

    def __init__(self) -> None:
        self._next = 0
        self._waiting: dict[str, asyncio.Future[MethodResult]] = {}

    def begin(self) -> tuple[str, asyncio.Future[MethodResult]]:
        """Give a call its request id and the future of its answer."""
        self._next += 1
        rid = f"{self._next:x}"
        future: asyncio.Future[MethodResult] = asyncio.get_running_loop().create_future()
        self._waiting[rid] = future
        return rid, future

    def end(self, rid: str) -> None:
        """Forget a call."""
        self._waiting.pop(rid, None)

    def answer(self, rid: str, status: int, body: bytes) -> bool:
        """Give a response to the call it belongs to; False when nobody waits for it."""
        future = self._waiting.pop(rid, None)
        if future is None or future.done():
            return False
        if len(body) > PAYLOAD_LIMIT:
            future.set_result(bad_answer(f"the response has {len(body)} bytes"))
            return True
        payload = None
        if body.strip():
            try:
                payload = json.loads(body)
            except (ValueError, RecursionError):
                future.set_result(bad_answer("the response is not JSON"))
                return True
        future.set_result(MethodResult(200, status, payload))
        return True

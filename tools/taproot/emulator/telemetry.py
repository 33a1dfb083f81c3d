"""Messages from devices: property bags and the bounded record of what arrived.

Responsible for: decoding `k=v&k2=v2` bags with the system keys of IoT Hub, the message record
and its memory. Not for: topics and limits (`hub.py`). The bag: percent-encoded, `+` is a plus,
`$` may be written `%24`, a leading `?` is accepted.
"""

from __future__ import annotations

import functools
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

# What a device may set -> the name the service gives it.
SYSTEM = {
    "$.mid": "message-id",
    "$.cid": "correlation-id",
    "$.uid": "user-id",
    "$.ct": "content-type",
    "$.ce": "content-encoding",
    "$.exp": "absolute-expiry-time",
    "$.ctime": "iothub-creation-time-utc",
    "$.on": "iothub-outputname",
    "$.sub": "dt-subject",
    "$.ifid": "iothub-interface-id",
    "$.to": "to",
}

Bag = dict[str, "str | None"]


def parse_bag(text: str) -> Bag:
    """Decode a property bag; `key` is None, `key=` is the empty string."""
    return dict(_parse(text))


@functools.lru_cache(maxsize=1024)  # a device sends the same bag again and again
def _parse(text: str) -> Bag:
    bag: Bag = {}
    for part in text.removeprefix("?").removesuffix("/").split("&"):
        if part:
            key, equals, value = part.partition("=")
            bag[unquote(key)] = unquote(value) if equals else None
    return bag


def format_bag(bag: Bag) -> str:
    """Encode a property bag as the hub does: `%24.mid=…`."""
    parts = []
    for key, value in bag.items():
        name = quote(key, safe="-._~")
        parts.append(name if value is None else f"{name}={quote(str(value), safe='-._~')}")
    return "&".join(parts)


def split_bag(bag: Bag) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide a bag into system and application properties."""
    if bag.keys().isdisjoint(SYSTEM):
        return {}, bag
    system = {SYSTEM[key]: value for key, value in bag.items() if key in SYSTEM}
    return system, {key: value for key, value in bag.items() if key not in SYSTEM}


@dataclass(slots=True)
class Message:
    """One device-to-cloud message as the hub recorded it."""

    seq: int
    device: str
    module: str | None
    body: bytes
    properties: dict[str, Any]
    system: dict[str, Any]
    qos: int
    dup: bool
    enqueued: float
    transport: str = "mqtt"
    packet_id: int = 0

    @property
    def identity(self) -> str:
        """`device` or `device/module`."""
        return f"{self.device}/{self.module}" if self.module else self.device

    def json(self) -> Any:
        """The body read as JSON."""
        return json.loads(self.body)


@dataclass
class Messages:
    """The last `limit` messages; `total` counts all."""

    limit: int = 100_000
    total: int = 0
    kept: deque[Message] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.kept = deque(maxlen=self.limit)

    def add(self, **facts: Any) -> Message:
        """Record one message."""
        self.total += 1
        message = Message(seq=self.total, **facts)
        self.kept.append(message)
        return message

    def of(self, identity: str | None = None, since: int = 0) -> list[Message]:
        """Return the messages of a device (its modules included only by name), or all."""
        return [
            message
            for message in self.kept
            if message.seq > since and (identity is None or message.identity == identity)
        ]

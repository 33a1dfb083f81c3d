"""Cloud-to-device messages of one device: the queue, time to live, redelivery, feedback.

Responsible for: at most 50 pending messages, each kept until its PUBACK, delivered again with
DUP after a lost connection, dead-lettered after ten deliveries or when its time is over, and
the feedback a sender asked for. Not for: topics and packet identifiers (`hub.py`).
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from taproot.emulator.telemetry import Bag

ACKS = ("none", "positive", "negative", "full")
FEEDBACK_LIMIT = 1000


class QueueFull(Exception):
    """The device has 50 pending messages."""


class TooLarge(Exception):
    """The message is above the limit."""


@dataclass
class Letter:
    """One message on its way."""

    body: bytes
    bag: Bag
    expires: float
    ack: str
    id: str
    deliveries: int = 0
    in_flight: bool = False
    packet_id: int = 0  # of the first delivery; the next one repeats it (MQTT-4.4.0-1)


@dataclass
class Queue:
    """The letters of one device, oldest first."""

    device: str
    now: Callable[[], float]
    limit: int = 50
    max_bytes: int = 65_536
    max_deliveries: int = 10
    ttl: float = 3600.0
    letters: deque[Letter] = field(default_factory=deque)
    feedback: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=FEEDBACK_LIMIT))

    def put(
        self,
        body: bytes,
        properties: Bag | None = None,
        *,
        message_id: str | None = None,
        ttl: float | None = None,
        ack: str = "none",
    ) -> Letter:
        """Queue one message; raise QueueFull or TooLarge."""
        if ack not in ACKS:
            raise ValueError(f"ack is one of {', '.join(ACKS)}")
        self.expire()
        if len(self.letters) >= self.limit:
            raise QueueFull(f"{self.limit} messages are pending for '{self.device}'")
        number = message_id or str(uuid.uuid4())
        bag: Bag = {"$.mid": number, "$.to": f"/devices/{self.device}/messages/devicebound"}
        if ack != "none":
            bag["iothub-ack"] = ack
        bag.update(properties or {})
        size = len(body) + sum(len(key) + len(value or "") for key, value in bag.items())
        if size > self.max_bytes:
            raise TooLarge(f"{size} bytes, limit {self.max_bytes}")
        life = self.ttl if ttl is None else ttl
        letter = Letter(body, bag, self.now() + life, ack, number)
        self.letters.append(letter)
        return letter

    def expire(self) -> None:
        """Dead-letter what is over time; a message in flight may still be acknowledged."""
        for letter in [x for x in self.letters if not x.in_flight and x.expires <= self.now()]:
            self._finish(letter, "Expired")

    def due(self) -> list[Letter]:
        """Return what is to be sent now, marked as in flight."""
        self.expire()
        ready = []
        for letter in list(self.letters):
            if letter.in_flight:
                continue
            if letter.deliveries >= self.max_deliveries:
                self._finish(letter, "DeliveryCountExceeded")
                continue
            letter.deliveries += 1
            letter.in_flight = True
            ready.append(letter)
        return ready

    def done(self, letter: Letter) -> None:
        """The device has acknowledged."""
        self._finish(letter, "Success")

    def lost(self) -> None:
        """The connection is gone: what was in flight is due again."""
        for letter in self.letters:
            letter.in_flight = False

    def purge(self) -> int:
        """Drop everything; return how many."""
        count = len(self.letters)
        for letter in list(self.letters):
            self._finish(letter, "Purged")
        return count

    def _finish(self, letter: Letter, outcome: str) -> None:
        try:
            self.letters.remove(letter)
        except ValueError:
            return  # expired while its PUBACK was on the way
        good = outcome == "Success"
        if letter.ack == "full" or letter.ack == ("positive" if good else "negative"):
            self.feedback.append(
                {
                    "originalMessageId": letter.id,
                    "deviceId": self.device,
                    "description": outcome,
                    "statusCode": outcome,
                    "enqueuedTime": self.now(),
                }
            )

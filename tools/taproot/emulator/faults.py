"""Faults on demand, for one device or for all, and a seeded plan of random ones.

Responsible for: the fault specification and its checks, choosing the fault that a packet meets,
counting them down, the random plan. Not for: doing what a fault says: packets suffer in
`connection.py`, handshakes in `tls.py`, replies of the hub in `hub.py`.

A specification is a flat table, as TOML, JSON or keyword arguments write it:

    {"action": "withhold", "packet": "PUBACK", "device": "dev1", "count": 3}
    {"action": "blackout", "seconds": 5}
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from taproot.emulator.strict import NAMES

# action -> (where it applies, default packet, what it does)
ACTIONS: dict[str, tuple[str, str | None, str]] = {
    "refuse": ("in", "CONNECT", "answer CONNECT with CONNACK `code`"),
    "drop": ("any", None, "close the connection instead of handling or sending the packet"),
    "drop_after": ("any", None, "handle or send the packet, then close"),
    "delay": ("any", None, "handle or send the packet `seconds` later"),
    "ignore": ("in", None, "read the packet and do nothing"),
    "withhold": ("out", None, "never send the packet"),
    "duplicate": ("out", "PUBLISH", "send the packet twice, a QoS 1 PUBLISH with DUP"),
    "malformed": ("out", None, "send `data` (hex) in place of the packet"),
    "one_byte": ("out", None, "send the packet byte by byte, `seconds` apart"),
    "half_open": ("any", None, "stop reading and answering, keep the socket"),
    "status": ("reply", None, "answer a twin request with `code`"),
    "throttle": ("reply", None, "answer a twin request with 429, and `seconds` as retry-after"),
    "wrong_rid": ("reply", None, "answer with another request id"),
    "cut": ("tls", None, "cut the handshake after `bytes` bytes of the server's answer"),
    "mute": ("tls", None, "accept the TCP connection and say nothing"),
    "plain": ("tls", None, "answer the ClientHello with `data` instead of TLS"),
    "reset": ("now", None, "reset the connection, without close_notify"),
    "kick": ("now", None, "close the connection in good order"),
    "expire": ("now", None, "treat the token as expired now"),
    "garbage": ("now", None, "send `data` (hex) to the client now"),
    "oversize": ("now", None, "send a PUBLISH of `bytes` bytes now"),
    "half_open_now": ("now", None, "stop reading and answering now"),
    "blackout": ("all", None, "for `seconds` no listener answers; what is connected is reset"),
}
_KEYS = {
    "action", "packet", "direction", "device", "count", "after", "seconds", "code", "data",
    "bytes", "reset", "probability",
}  # fmt: skip
_PACKETS = {name for name in NAMES if not name.startswith("RESERVED")}


class FaultError(ValueError):
    """The specification is wrong; the text says what is expected."""


@dataclass
class Fault:
    """One fault that waits for its packet."""

    action: str
    direction: str = "any"
    packet: str | None = None
    device: str | None = None
    count: int | None = 1  # None: until cleared
    after: int = 0  # how many matching packets pass before
    seconds: float = 0.0
    code: int = 3
    data: bytes = b"\xf0\xff"
    bytes: int = 0
    reset: bool = False
    probability: float = 1.0
    id: int = 0
    met: int = field(default=0, compare=False)

    @property
    def where(self) -> str:
        """Where the action applies: in, out, any, reply, tls, now or all."""
        return ACTIONS[self.action][0]

    @property
    def text(self) -> str:
        """One line for the event list."""
        parts = [self.action]
        if self.packet:
            parts.append(
                self.packet if self.direction == "any" else f"{self.direction} {self.packet}"
            )
        if self.seconds:
            parts.append(f"{self.seconds:g} s")
        return " ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """What `status` shows."""
        return {
            "id": self.id,
            "action": self.action,
            "packet": self.packet,
            "device": self.device,
            "count": self.count,
            "met": self.met,
        }


def parse(spec: dict[str, Any]) -> Fault:
    """Make a fault from a specification; raise FaultError with the remedy."""
    unknown = sorted(set(spec) - _KEYS)
    if unknown:
        raise FaultError(
            f"unknown key '{unknown[0]}' in a fault: known are {', '.join(sorted(_KEYS))}"
        )
    action = spec.get("action")
    if action not in ACTIONS:
        raise FaultError(f"unknown fault action {action!r}: one of {', '.join(sorted(ACTIONS))}")
    where, default_packet, _ = ACTIONS[action]
    packet = spec.get("packet", default_packet)
    if packet is not None:
        packet = str(packet).upper()
        if packet not in _PACKETS:
            raise FaultError(f"unknown packet {packet!r}: one of {', '.join(sorted(_PACKETS))}")
    elif where in ("in", "out", "any"):
        raise FaultError(f"fault '{action}' needs 'packet', for example \"PUBLISH\"")
    direction = spec.get("direction", where if where in ("in", "out") else "any")
    if direction not in ("in", "out", "any"):
        raise FaultError("direction is in, out or any")
    if action == "drop_after" and direction == "any" and packet == "PUBLISH":
        direction = spec.get("direction", "in")
    if spec.get("device") is not None and where in ("tls", "all"):
        raise FaultError(f"fault '{action}' takes no 'device': nobody is known yet")
    try:
        data = (
            spec["data"]
            if isinstance(spec.get("data"), bytes)
            else bytes.fromhex(spec.get("data", "f0ff"))
        )
        count = spec.get("count", 1)
        fault = Fault(
            action=action,
            direction=direction,
            packet=packet,
            device=spec.get("device"),
            count=None if count is None or int(count) <= 0 else int(count),
            after=int(spec.get("after", 0)),
            seconds=float(spec.get("seconds", 0.0)),
            code=int(spec.get("code", 3 if action == "refuse" else 500)),
            data=data,
            bytes=int(spec.get("bytes", 1500 if action == "cut" else 400_000)),
            reset=bool(spec.get("reset", False)),
            probability=float(spec.get("probability", 1.0)),
        )
    except (TypeError, ValueError) as error:
        raise FaultError(f"fault '{action}': {error}") from None
    if not 0.0 < fault.probability <= 1.0:
        raise FaultError("probability is above 0 and at most 1")
    if fault.seconds < 0 or fault.after < 0:
        raise FaultError("seconds and after are not negative")
    return fault


class Faults:
    """The faults that wait, in the order they were set."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.waiting: list[Fault] = []
        self._number = 0

    @property
    def active(self) -> bool:
        """True when any fault waits: the check every packet can afford."""
        return bool(self.waiting)

    def add(self, fault: Fault) -> Fault:
        """Let a fault wait for its packet."""
        self._number += 1
        fault.id = self._number
        self.waiting.append(fault)
        return fault

    def keep(self, most: int) -> None:
        """Forget the oldest beyond `most`: a random plan must not pile up what never matches."""
        del self.waiting[: max(0, len(self.waiting) - most)]

    def clear(self, device: str | None = None) -> int:
        """Forget the faults of a device, or all; return how many."""
        kept = [f for f in self.waiting if device is not None and f.device != device]
        gone = len(self.waiting) - len(kept)
        self.waiting = kept
        return gone

    def take(
        self, identity: str | None, direction: str, packet: str | None, action: str | None = None
    ) -> Fault | None:
        """Return the fault that this packet meets, counted down."""
        for fault in self.waiting:
            if fault.device is not None and fault.device != identity:
                continue
            if fault.packet is not None and fault.packet != packet:
                continue
            if fault.where in ("in", "out", "any"):
                if direction not in ("in", "out") or fault.direction not in ("any", direction):
                    continue
            elif fault.where != direction:
                continue
            # `refuse` is taken when the service has accepted, never at the packet itself
            if (fault.action == "refuse") != (action == "refuse"):
                continue
            if fault.after > 0:
                fault.after -= 1
                continue
            if fault.probability < 1.0 and self.random.random() >= fault.probability:
                continue
            fault.met += 1
            if fault.count is not None:
                fault.count -= 1
                if fault.count <= 0:
                    self.waiting.remove(fault)
            return fault
        return None


# What the random plan draws from: (weight, specification). Nothing here loses data that a
# correct client keeps: every fault ends, and what was not acknowledged is sent again.
_PLAN: list[tuple[int, dict[str, Any]]] = [
    (4, {"action": "reset"}),
    (3, {"action": "kick"}),
    (3, {"action": "withhold", "packet": "PUBACK"}),
    (2, {"action": "delay", "packet": "PUBACK", "seconds": 1.5}),
    (2, {"action": "drop", "packet": "PUBLISH", "direction": "in"}),
    (2, {"action": "drop_after", "packet": "PUBLISH", "direction": "in"}),
    (2, {"action": "drop_after", "packet": "CONNACK", "direction": "out"}),
    (1, {"action": "withhold", "packet": "SUBACK"}),
    (1, {"action": "withhold", "packet": "PINGRESP"}),
    (1, {"action": "refuse", "code": 3}),
    (1, {"action": "half_open", "packet": "PUBLISH", "direction": "in"}),
    (1, {"action": "one_byte", "packet": "PUBACK", "seconds": 0.01}),
    (1, {"action": "duplicate", "packet": "PUBLISH"}),
    (1, {"action": "malformed", "packet": "PUBACK"}),
    (1, {"action": "garbage"}),
    (1, {"action": "cut", "bytes": 700}),
    (1, {"action": "mute"}),
    (1, {"action": "throttle"}),
    (1, {"action": "blackout", "seconds": 2.0}),
]


def random_plan(
    seed: int, devices: list[str] | None = None, interval: float = 1.0
) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield (seconds to wait, specification) without end; the same seed, the same plan.

    `interval` is the mean time between two faults.
    """
    draw = random.Random(seed)
    weights = [weight for weight, _ in _PLAN]
    while True:
        spec = dict(draw.choices(_PLAN, weights)[0][1])
        if devices and ACTIONS[spec["action"]][0] not in ("tls", "all"):
            spec["device"] = draw.choice(devices)
        yield draw.expovariate(1.0 / interval), spec

"""What MQTT 3.1.1 forbids a client to send, checked on the raw frame before it is decoded.

Responsible for: one check per normative statement that concerns what a server receives; each
refusal names its statement (`MQTT-3.8.1-1`) or, for what only IoT Hub forbids, a rule of the
hub. Not for: topics and filters the hub knows (`topics.py`), decoding (`codec.py`).
MQTT Version 3.1.1, OASIS Standard, 29 October 2014.
"""

from __future__ import annotations

from typing import NamedTuple

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = range(1, 8)
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = range(8, 15)

NAMES = (
    "RESERVED0 CONNECT CONNACK PUBLISH PUBACK PUBREC PUBREL PUBCOMP "
    "SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK PINGREQ PINGRESP DISCONNECT RESERVED15"
).split()

# QoS 2 never runs on the hub, so PUBREC, PUBREL and PUBCOMP cannot be answers to anything.
FROM_CLIENT = {CONNECT, PUBLISH, PUBACK, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT}
UNACCEPTABLE_VERSION = 1


class Violation(Exception):
    """A frame the server must refuse. `connack` is the code to send before closing, if any."""

    def __init__(self, rule: str, text: str, connack: int | None = None) -> None:
        super().__init__(f"[{rule}] {text}")
        self.rule, self.text, self.connack = rule, text, connack


class PublishFrame(NamedTuple):
    """A PUBLISH taken apart by its own checks; decoding it again would say nothing new."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int  # 0 at QoS 0


def check_header(first: int, connected: bool) -> None:
    """Check the first byte as soon as it is there, before the body is waited for."""
    kind, flags = first >> 4, first & 15
    if not connected and kind != CONNECT:
        raise Violation("MQTT-3.1.0-1", f"the first packet is {NAMES[kind]}, not CONNECT")
    if connected and kind == CONNECT:
        raise Violation("MQTT-3.1.0-2", "second CONNECT")
    if kind not in FROM_CLIENT:
        raise Violation("MQTT-2.2.1", f"{NAMES[kind]} is not a packet of a client")
    if kind == PUBLISH:
        check_publish_flags(flags)
    elif flags != (2 if kind in (SUBSCRIBE, UNSUBSCRIBE) else 0):
        rule = {SUBSCRIBE: "MQTT-3.8.1-1", UNSUBSCRIBE: "MQTT-3.10.1-1"}.get(kind)
        if kind == DISCONNECT:
            rule = "MQTT-3.14.1-1"
        raise Violation(rule or "MQTT-2.2.2-2", f"flags of {NAMES[kind]} are {flags:#x}")


def check_publish_flags(flags: int) -> None:
    """QoS 3 does not exist; DUP has no meaning at QoS 0."""
    if flags & 6 == 6:
        raise Violation("MQTT-3.3.1-4", "PUBLISH with both QoS bits set")
    if flags & 8 and not flags & 6:
        raise Violation("MQTT-3.3.1-2", "DUP set on a PUBLISH with QoS 0")


def check_body(first: int, body: bytes) -> None:
    """Check the body of every packet but PUBLISH (see `take_publish`)."""
    kind = first >> 4
    if kind == CONNECT:
        check_connect(body)
    elif kind == SUBSCRIBE:
        check_subscribe(body)
    elif kind == UNSUBSCRIBE:
        check_unsubscribe(body)
    elif kind == PUBACK:
        if len(body) != 2:
            raise Violation("MQTT-3.4.1", f"PUBACK with a body of {len(body)} bytes, not 2")
        packet_id(body, 0, "MQTT-2.3.1-1")
    elif body:
        raise Violation("MQTT-2.2.3", f"{NAMES[kind]} with a body of {len(body)} bytes, not 0")


def packet_id(body: bytes, at: int, rule: str = "MQTT-2.3.1-1") -> int:
    """Read a packet identifier; it must be there and not zero."""
    if len(body) < at + 2:
        raise Violation("MQTT-2.3.1", "the packet ends before its packet identifier")
    number = body[at] << 8 | body[at + 1]
    if number == 0:
        raise Violation(rule, "packet identifier 0")
    return number


def field(body: bytes, at: int, what: str) -> tuple[bytes, int]:
    """Read a length-prefixed field; return it and the position after it."""
    if len(body) < at + 2:
        raise Violation("MQTT-1.5.3", f"the packet ends inside {what}")
    end = at + 2 + (body[at] << 8 | body[at + 1])
    if end > len(body):
        raise Violation("MQTT-1.5.3", f"{what} is longer than the packet")
    return body[at + 2 : end], end


def text(raw: bytes, what: str) -> str:
    """Decode strict UTF-8 without U+0000 (surrogates are not UTF-8)."""
    try:
        found = raw.decode()
    except UnicodeDecodeError:
        raise Violation("MQTT-1.5.3-1", f"{what} is not UTF-8") from None
    if "\0" in found:
        raise Violation("MQTT-1.5.3-2", f"{what} contains U+0000")
    return found


def topic_name(raw: bytes, what: str = "the topic name") -> str:
    """Decode a topic name: not empty, no wildcard."""
    name = text(raw, what)
    if not name:
        raise Violation("MQTT-4.7.3-1", f"{what} is empty")
    if "#" in name or "+" in name:
        raise Violation("MQTT-3.3.2-2", f"{what} contains a wildcard")
    return name


def topic_filter(raw: bytes) -> str:
    """Decode a topic filter: not empty, wildcards only where they may stand."""
    found = text(raw, "the topic filter")
    if not found:
        raise Violation("MQTT-4.7.3-1", "the topic filter is empty")
    levels = found.split("/")
    for number, level in enumerate(levels):
        if "#" in level and (level != "#" or number != len(levels) - 1):
            raise Violation("MQTT-4.7.1-2", "'#' is not alone in the last level")
        if "+" in level and level != "+":
            raise Violation("MQTT-4.7.1-3", "'+' is not alone in its level")
    return found


def check_connect(body: bytes) -> None:
    """Protocol name and level first: the codec takes a well-formed v5 CONNECT for a 3.1.1 one."""
    name, at = field(body, 0, "the protocol name")
    if name != b"MQTT":
        code = UNACCEPTABLE_VERSION if name == b"MQIsdp" else None
        raise Violation("MQTT-3.1.2-1", "the protocol name is not MQTT", code)
    if len(body) < at + 4:
        raise Violation("MQTT-3.1.2", "CONNECT ends before its keep alive")
    level, flags = body[at], body[at + 1]
    if level != 4:
        raise Violation("MQTT-3.1.2-2", f"protocol level {level}", UNACCEPTABLE_VERSION)
    _check_connect_flags(flags)
    client_id, at = field(body, at + 4, "the client identifier")
    text(client_id, "the client identifier")
    if flags & 4:
        topic, at = field(body, at, "the will topic")
        topic_name(topic, "the will topic")
        _, at = field(body, at, "the will message")
    if flags & 0x80:
        user, at = field(body, at, "the user name")
        text(user, "the user name")
    if flags & 0x40:
        _, at = field(body, at, "the password")
    if at != len(body):
        raise Violation("MQTT-3.1.3-1", f"{len(body) - at} bytes after the last field of CONNECT")


def client_id(body: bytes) -> str:
    """Return the client identifier of a checked CONNECT."""
    return field(body, 10, "the client identifier")[0].decode()


def _check_connect_flags(flags: int) -> None:
    if flags & 1:
        raise Violation("MQTT-3.1.2-3", "reserved connect flag is set")
    if flags & 4:
        if flags & 0x18 == 0x18:
            raise Violation("MQTT-3.1.2-14", "will QoS 3")
    elif flags & 0x18:
        raise Violation("MQTT-3.1.2-13", "will QoS without a will")
    elif flags & 0x20:
        raise Violation("MQTT-3.1.2-15", "will retain without a will")
    if flags & 0x40 and not flags & 0x80:
        raise Violation("MQTT-3.1.2-22", "password without a user name")


def check_subscribe(body: bytes) -> None:
    """At least one filter, each with a QoS byte of 0, 1 or 2."""
    packet_id(body, 0)
    at, filters = 2, 0
    while at < len(body):
        raw, at = field(body, at, "a topic filter")
        topic_filter(raw)
        if at >= len(body):
            raise Violation("MQTT-3.8.3-3", "a topic filter without its QoS byte")
        if body[at] > 2:
            raise Violation("MQTT-3-8.3-4", f"requested QoS byte {body[at]:#04x}")
        at += 1
        filters += 1
    if not filters:
        raise Violation("MQTT-3.8.3-3", "SUBSCRIBE without a topic filter")


def check_unsubscribe(body: bytes) -> None:
    """At least one filter."""
    packet_id(body, 0)
    at, filters = 2, 0
    while at < len(body):
        raw, at = field(body, at, "a topic filter")
        topic_filter(raw)
        filters += 1
    if not filters:
        raise Violation("MQTT-3.10.3-2", "UNSUBSCRIBE without a topic filter")


def take_publish(first: int, body: bytes) -> PublishFrame:
    """Check a PUBLISH and take it apart."""
    qos = first >> 1 & 3
    raw, at = field(body, 0, "the topic name")
    name = topic_name(raw)
    number = 0
    if qos:
        number = packet_id(body, at)
        at += 2
    return PublishFrame(name, body[at:], qos, bool(first & 1), bool(first & 8), number)

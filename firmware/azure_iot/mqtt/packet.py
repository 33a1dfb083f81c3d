"""MQTT 3.1.1 packets that are built whole: CONNECT, SUBSCRIBE, UNSUBSCRIBE, and the text rules.

Responsible for: encoding those packets into a buffer of exactly their size, and the checks on
topics, filters and UTF-8. Not responsible for: PUBLISH and everything received (session.py).
Spec: MQTT Version 3.1.1, OASIS Standard, sections 1.5.3, 2.2.3, 3.1, 3.8, 3.10, 4.7.

A caller's mistake is a ValueError; a peer's is a ProtocolError that names the rule.
"""

from micropython import const

from azure_iot.errors import ProtocolError

_TEXT_MAX = const(65535)
MAX_REMAINING = const(268435455)  # four length bytes (MQTT section 2.2.3)


def text(value: "str | bytes") -> bytes:
    """Return `value` as UTF-8 for a length-prefixed field. Raises ValueError."""
    data = value if isinstance(value, bytes) else value.encode()
    if len(data) > _TEXT_MAX:
        raise ValueError("text of %d bytes: MQTT allows 65535" % len(data))
    return data


def topic_name(topic: str) -> bytes:
    """Return a topic to publish to, checked. Raises ValueError."""
    if not topic or "+" in topic or "#" in topic or "\0" in topic:
        raise ValueError("not a topic name (MQTT-4.7.1-1, -4.7.3-1, -4.7.3-2): %r" % topic)
    return text(topic)


def topic_filter(wanted: str) -> bytes:
    """Return a filter to subscribe to, checked. Raises ValueError."""
    levels = wanted.split("/")
    bad = not wanted or "\0" in wanted
    for i in range(len(levels)):
        level = levels[i]
        if "#" in level and (level != "#" or i + 1 < len(levels)):
            bad = True
        if "+" in level and level != "+":
            bad = True
    if bad:
        raise ValueError("not a topic filter (MQTT-4.7.1-2, -3, -4.7.3-1): %r" % wanted)
    return text(wanted)


def received_topic(raw: "bytes | memoryview") -> str:
    """Return the topic of a PUBLISH received, checked. Raises ProtocolError."""
    try:
        topic = str(raw, "utf-8")
    except ValueError as error:  # UnicodeError is one
        raise ProtocolError("topic is not UTF-8", "MQTT-1.5.3-1", error)
    if not topic:
        raise ProtocolError("empty topic", "MQTT-4.7.3-1")
    if "\0" in topic:
        raise ProtocolError("U+0000 in a topic", "MQTT-1.5.3-2")
    if "+" in topic or "#" in topic:
        raise ProtocolError("wildcard in a topic", "MQTT-3.3.2-2")
    if len(topic) != len(raw):
        _check_utf8(raw)
    return topic


def _check_utf8(raw: "bytes | memoryview") -> None:
    """Refuse what MicroPython's decoder lets through: surrogates, long forms, > U+10FFFF."""
    for i in range(len(raw) - 1):
        lead, second = raw[i], raw[i + 1]
        if (
            lead in (0xC0, 0xC1)
            or lead > 0xF4
            or (lead == 0xE0 and second < 0xA0)
            or (lead == 0xED and second > 0x9F)
            or (lead == 0xF0 and second < 0x90)
            or (lead == 0xF4 and second > 0x8F)
        ):
            raise ProtocolError("topic is not UTF-8", "MQTT-1.5.3-1")


def packet(head: int, flags: bytes, fields: "list", tail: int = -1) -> bytearray:
    """Return a packet: first byte, remaining length, `flags`, length-prefixed fields, `tail`."""
    size = len(flags) + (tail >= 0)
    for field in fields:
        size += 2 + len(field)
    out = bytearray(1 + length_size(size) + size)
    out[0] = head
    at = put_length(out, 1, size)
    out[at : at + len(flags)] = flags
    at += len(flags)
    for field in fields:
        n = len(field)
        out[at] = n >> 8
        out[at + 1] = n & 255
        out[at + 2 : at + 2 + n] = field
        at += 2 + n
    if tail >= 0:
        out[at] = tail
    return out


def length_size(n: int) -> int:
    """Return how many bytes the remaining length `n` takes."""
    if n > MAX_REMAINING:
        raise ValueError("packet of %d bytes: MQTT allows 268435455" % n)
    return 1 if n < 128 else 2 if n < 16384 else 3 if n < 2097152 else 4


def put_length(out: bytearray, at: int, n: int) -> int:
    """Write the remaining length `n` at `at`; return where it ends (MQTT section 2.2.3)."""
    while n > 127:
        out[at] = n & 127 | 128
        n >>= 7
        at += 1
    out[at] = n
    return at + 1


def connect(
    client_id: str,
    keepalive_s: int,
    clean: bool,
    username: "str | None",
    password: "str | bytes | None",
    will: "tuple | None",
) -> bytearray:
    """Return CONNECT; `will` is (topic, payload, qos, retain). MQTT section 3.1."""
    flags = 2 if clean else 0
    fields = [text(client_id)]
    if will is not None:
        topic, payload, qos, retain = will
        flags |= 4 | qos << 3 | (32 if retain else 0)
        fields += [topic_name(topic), text(payload)]
    if username is not None:
        flags |= 128
        fields.append(text(username))
        if password is not None:  # never without a user name (MQTT-3.1.2-22)
            flags |= 64
            fields.append(text(password))
    head = bytes((0, 4, 77, 81, 84, 84, 4, flags, keepalive_s >> 8, keepalive_s & 255))
    return packet(0x10, head, fields)


def subscribe(pid: int, wanted: str, qos: int) -> bytearray:
    """Return SUBSCRIBE for one filter (MQTT section 3.8)."""
    return packet(0x82, bytes((pid >> 8, pid & 255)), [topic_filter(wanted)], qos)


def unsubscribe(pid: int, wanted: str) -> bytearray:
    """Return UNSUBSCRIBE for one filter (MQTT section 3.10)."""
    return packet(0xA2, bytes((pid >> 8, pid & 255)), [topic_filter(wanted)])

"""MQTT 3.1.1 packets that are built whole: CONNECT, SUBSCRIBE, UNSUBSCRIBE, and the text rules.

Responsible for: encoding those packets, the fixed header of every packet, and the checks on
topics, filters and UTF-8. Not responsible for: PUBLISH and everything received (session.py).
Spec: MQTT Version 3.1.1, OASIS Standard, sections 1.5.3, 2.2.3, 3.1, 3.8, 3.10, 4.7.

A caller's mistake is a ValueError; a peer's is a ProtocolError that names the rule.
"""

from azure_iot.errors import ProtocolError


def text(value: "str | bytes") -> bytes:
    """Return `value` as UTF-8 for a length-prefixed field. Raises ValueError."""
    data = value if isinstance(value, bytes) else value.encode()
    if len(data) > 65535:
        raise ValueError("text of %d bytes: MQTT allows 65535" % len(data))
    return data


def topic_name(topic: str) -> bytes:
    """Return a topic to publish to, checked. Raises ValueError."""
    if not topic or "+" in topic or "#" in topic or "\0" in topic:
        raise ValueError("not a topic name (MQTT-4.7.1-1, -4.7.3-1, -4.7.3-2): %r" % topic)
    return text(topic)


def topic_filter(wanted: str) -> bytes:
    """Return a filter to subscribe to, checked. Raises ValueError."""
    bad = not wanted or "\0" in wanted or "#/" in wanted
    for level in wanted.split("/"):
        bad = bad or len(level) > 1 and ("#" in level or "+" in level)
    if bad:
        raise ValueError("not a topic filter (MQTT-4.7.1-2, -3, -4.7.3-1): %r" % wanted)
    return text(wanted)


def received_topic(raw: memoryview) -> str:
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


def put_head(out: bytearray, end: int, first: int, n: int) -> int:
    """Write the first byte and the remaining length `n` before `end`; return where they start."""
    if n >> 28:  # four length bytes (MQTT section 2.2.3)
        raise ValueError("packet of %d bytes: MQTT allows 268435455" % n)
    at = end - (1 if n < 128 else 2 if n < 16384 else 3 if n < 2097152 else 4)
    out[at - 1] = first
    for i in range(at, end):
        out[i] = n & 127 | 128
        n >>= 7
    out[end - 1] &= 127
    return at - 1


def _packet(first: int, start: bytes, fields: "list[object]", tail: bytes = b"") -> memoryview:
    """Return a packet: fixed header, `start`, length-prefixed fields, `tail`."""
    out = bytearray(5) + start
    for field in fields:
        field = text(field)
        out += bytes((len(field) >> 8, len(field) & 255)) + field
    out += tail
    return memoryview(out)[put_head(out, 5, first, len(out) - 5) :]


def connect(
    client_id: str,
    keepalive_s: int,
    clean: bool,
    username: "str | None",
    password: "str | bytes | None",
    will: "tuple | None",
) -> memoryview:
    """Return CONNECT; `will` is (topic, payload, qos, retain). MQTT section 3.1."""
    flags = 2 if clean else 0
    fields: list[object] = [client_id]
    if will is not None:
        topic, payload, qos, retain = will
        if qos not in (0, 1):
            raise ValueError("a will with QoS %d: 0 or 1" % qos)
        flags |= 4 | qos << 3 | (32 if retain else 0)
        fields += [topic_name(topic), payload]
    if username is not None:
        flags |= 128
        fields.append(username)
        if password is not None:  # never without a user name (MQTT-3.1.2-22)
            flags |= 64
            fields.append(password)
    start = b"\0\4MQTT\4" + bytes((flags, keepalive_s >> 8, keepalive_s & 255))
    return _packet(0x10, start, fields)


def subscribe(pid: int, wanted: str, qos: int) -> memoryview:
    """Return SUBSCRIBE for one filter, UNSUBSCRIBE for QoS -1 (MQTT sections 3.8, 3.10)."""
    start = bytes((pid >> 8, pid & 255))
    name = topic_filter(wanted)
    if qos < 0:
        return _packet(0xA2, start, [name])
    return _packet(0x82, start, [name], bytes((qos,)))

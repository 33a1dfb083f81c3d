"""MQTT 3.1.1 packets that are built whole: CONNECT, SUBSCRIBE, UNSUBSCRIBE, and the text rules.

Responsible for: encoding those packets, the fixed header of every packet, the checks on topics,
filters and UTF-8, and making the errors. Not responsible for: PUBLISH and everything received
(session.py), the words of an error (words.py).
Spec: MQTT Version 3.1.1, OASIS Standard, sections 1.5.3, 2.2.3, 3.1, 3.8, 3.10, 4.7.

A caller's mistake is a ValueError; a peer's is a ProtocolError that names the rule.
"""

from micropython import const

from ..errors import ProtocolError
from ..transient import Transient

# What MicroPython's decoder lets through: long forms, surrogates, above U+10FFFF (RFC 3629).
_NOT_UTF8 = const(b"\xe0\x80\xe0\x90\xed\xa0\xed\xb0\xf0\x80\xf4\x90\xf4\xa0\xf4\xb0")


def words(key: str, *figures: object) -> str:
    """Return the words for `key`, loaded for the moment; the key itself without memory for them."""
    try:
        with Transient():
            from .words import words

            return words(key, figures)
    except MemoryError:
        return key


def broken(key: str, *figures: object) -> ProtocolError:
    """Return the error for a rule the peer broke; `key` is the rule and may have a word more."""
    return ProtocolError(words(key, *figures), "MQTT-" + key.partition(" ")[0])


def field(value: "str | bytes") -> bytes:
    """Return `value` as UTF-8 with its length before it. Raises ValueError."""
    data = value if isinstance(value, bytes) else value.encode()
    if len(data) > 65535:
        raise ValueError(words("field", len(data)))
    if isinstance(value, str) and ("\0" in value or _is_no_utf8(data)):
        raise ValueError(words("text", value))
    return len(data).to_bytes(2, "big") + data


def topic_name(topic: str) -> bytes:
    """Return the field of a topic to publish to, checked. Raises ValueError."""
    if not topic or "+" in topic or "#" in topic or "\0" in topic:
        raise ValueError(words("name", topic))
    return field(topic)


def topic_filter(wanted: str) -> bytes:
    """Return the field of a filter to subscribe to, checked. Raises ValueError."""
    bad = not wanted or "\0" in wanted or "#/" in wanted
    for level in wanted.split("/"):
        bad = bad or len(level) > 1 and ("#" in level or "+" in level)
    if bad:
        raise ValueError(words("filter", wanted))
    return field(wanted)


def received_topic(raw: memoryview) -> str:
    """Return the topic of a PUBLISH received, checked. Raises ProtocolError."""
    topic = _decoded(raw)
    if topic is None:
        raise broken("1.5.3-1")
    if not topic:
        raise broken("4.7.3-1")
    if "\0" in topic:
        raise broken("1.5.3-2")
    if "+" in topic or "#" in topic:
        raise broken("3.3.2-2")
    return topic


def _decoded(raw: memoryview) -> "str | None":
    """Return the text, None for what is not UTF-8."""
    try:
        text = str(raw, "utf-8")
    except ValueError:  # UnicodeError is one
        return None
    return None if len(text) != len(raw) and _is_no_utf8(raw) else text


def _is_no_utf8(raw: "bytes | memoryview") -> bool:
    """Tell whether a rule of UTF-8 is broken that MicroPython does not check."""
    for i in range(len(raw) - 1):
        lead = raw[i]
        if lead > 0xBF and (
            lead & 0xFE == 0xC0 or lead > 0xF4 or bytes((lead, raw[i + 1] & 0xF0)) in _NOT_UTF8
        ):
            return True
    return False


def put_head(out: bytearray, end: int, first: int, n: int) -> int:
    """Write the first byte and the remaining length `n` before `end`; return where they start."""
    if n >> 28:  # four length bytes (MQTT section 2.2.3)
        raise ValueError(words("large", n))
    start = end - 2
    left = n
    while left > 127:
        left >>= 7
        start -= 1
    out[start] = first
    for i in range(start + 1, end):
        out[i] = n & 127 | 128
        n >>= 7
    out[end - 1] = left
    return start


def _packet(first: int, body: bytes) -> memoryview:
    """Return a packet: `body` behind its fixed header."""
    out = bytearray(5) + body
    return memoryview(out)[put_head(out, 5, first, len(body)) :]


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
    fields = field(client_id)
    if will is not None:
        topic, payload, qos, retain = will
        if qos not in (0, 1):
            raise ValueError(words("will", qos))
        flags |= 4 | qos << 3 | (32 if retain else 0)
        fields += topic_name(topic) + field(payload)
    if username is not None:
        flags |= 128
        fields += field(username)
        if password is not None:  # never without a user name (MQTT-3.1.2-22)
            flags |= 64
            fields += field(password)
    start = b"\0\4MQTT\4" + bytes((flags, keepalive_s >> 8, keepalive_s & 255))
    return _packet(0x10, start + fields)


def subscribe(pid: int, wanted: str, qos: int) -> memoryview:
    """Return SUBSCRIBE for one filter, UNSUBSCRIBE for QoS -1 (MQTT sections 3.8, 3.10)."""
    body = pid.to_bytes(2, "big") + topic_filter(wanted)
    if qos < 0:
        return _packet(0xA2, body)
    return _packet(0x82, body + bytes((qos,)))

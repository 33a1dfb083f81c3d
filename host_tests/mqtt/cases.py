"""Bytes a server must not send, with the rule each breaks; and the caller's mistakes.

Runs on CPython and MicroPython. `before` says whether CONNACK goes first.
"""

CONNACK = b"\x20\x02\x00\x00"

# (name, first CONNACK?, bytes, rule)
VIOLATIONS = (
    ("publish before connack", False, b"\x30\x05\x00\x03a/b", "MQTT-3.2.0-1"),
    ("half a publish before connack", False, b"\x30\x05\x00", "MQTT-3.2.0-1"),
    ("puback before connack", False, b"\x40\x02\x00\x01", "MQTT-3.2.0-1"),
    ("pingresp before connack", False, b"\xd0\x00", "MQTT-3.2.0-1"),
    ("http instead of mqtt", False, b"HTTP/1.1 400 Bad Request\r\n", "MQTT-3.2.0-1"),
    ("connack flags", False, b"\x20\x02\x02\x00", "MQTT-4.8.0-1"),
    ("connack code", False, b"\x20\x02\x00\x06", "MQTT-4.8.0-1"),
    ("session present in a refusal", False, b"\x20\x02\x01\x05", "MQTT-3.2.2-4"),
    ("connack of 3 bytes", False, b"\x20\x03\x00\x00\x00", "MQTT-4.8.0-1"),
    ("connack flags in the first byte", False, b"\x21\x02\x00\x00", "MQTT-3.2.0-1"),
    ("second connack", True, CONNACK, "MQTT-4.8.0-1"),
    ("length of five bytes", True, b"\x30\xff\xff\xff\xff\xff\x7f", "MQTT-4.8.0-1"),
    ("length over the maximum", True, b"\x30\xff\xff\xff\x7f", "MQTT-4.8.0-1"),
    ("type 0", True, b"\x00\x00", "MQTT-4.8.0-1"),
    ("type 15", True, b"\xf0\x00", "MQTT-4.8.0-1"),
    ("connect from a server", True, b"\x10\x00", "MQTT-4.8.0-1"),
    ("pubrec", True, b"\x50\x02\x00\x01", "MQTT-4.8.0-1"),
    ("subscribe from a server", True, b"\x82\x02\x00\x01", "MQTT-4.8.0-1"),
    ("pingreq from a server", True, b"\xc0\x00", "MQTT-4.8.0-1"),
    ("pingresp flags", True, b"\xd1\x00", "MQTT-2.2.2-2"),
    ("pingresp of 5 bytes", True, b"\xd0\x05hello", "MQTT-4.8.0-1"),
    ("puback of 3 bytes", True, b"\x40\x03\x00\x01\x00", "MQTT-4.8.0-1"),
    ("puback flags", True, b"\x41\x02\x00\x01", "MQTT-2.2.2-2"),
    ("puback for id 0", True, b"\x40\x02\x00\x00", "MQTT-2.3.1-1"),
    ("qos 3", True, b"\x36\x07\x00\x03a/bq3", "MQTT-3.3.1-4"),
    ("qos 3, begun", True, b"\x36\x70\x00", "MQTT-3.3.1-4"),
    ("qos 2", True, b"\x34\x07\x00\x03a/b\x00\x01", "MQTT-3.8.4-6"),
    ("dup with qos 0", True, b"\x38\x05\x00\x03a/b", "MQTT-3.3.1-2"),
    ("publish for id 0", True, b"\x32\x07\x00\x03a/b\x00\x00", "MQTT-2.3.1-1"),
    ("publish without a topic", True, b"\x30\x01\x00", "MQTT-4.8.0-1"),
    ("topic longer than the packet", True, b"\x30\x0a\xff\xffa/bzzzzz", "MQTT-4.8.0-1"),
    ("the same, begun", True, b"\x30\x0a\xff\xffa", "MQTT-4.8.0-1"),
    ("no room for the id", True, b"\x32\x05\x00\x03a/b", "MQTT-4.8.0-1"),
    ("empty topic", True, b"\x30\x02\x00\x00", "MQTT-4.7.3-1"),
    ("nul in a topic", True, b"\x30\x05\x00\x03a\x00b", "MQTT-1.5.3-2"),
    ("wildcard in a topic", True, b"\x30\x05\x00\x03a/#", "MQTT-3.3.2-2"),
    ("plus in a topic", True, b"\x30\x05\x00\x03a/+", "MQTT-3.3.2-2"),
    ("not utf-8", True, b"\x30\x05\x00\x03a\xff\xfe", "MQTT-1.5.3-1"),
    ("surrogate", True, b"\x30\x06\x00\x04a\xed\xa0\x80", "MQTT-1.5.3-1"),
    ("long form of /", True, b"\x30\x05\x00\x03a\xc0\xaf", "MQTT-1.5.3-1"),
    ("above U+10FFFF", True, b"\x30\x07\x00\x05a\xf4\x90\x80\x80", "MQTT-1.5.3-1"),
    ("suback for nothing", True, b"\x90\x03\x77\x77\x00", "MQTT-3.8.4-2"),
    ("unsuback for nothing", True, b"\xb0\x02\x77\x77", "MQTT-3.10.4-4"),
    ("suback of 4 bytes", True, b"\x90\x04\x00\x01\x00\x00", "MQTT-4.8.0-1"),
    ("large publish for id 0", True, b"\x32\xc8\x01\x00\x03a/b\x00\x00" + b"z" * 60, "MQTT-2.3.1-1"),
    (
        "overlong topic, id 0", True,
        b"\x32\xc8\x01\x00\x80" + b"t" * 128 + b"\x00\x00" + b"z" * 60, "MQTT-2.3.1-1",
    ),
)  # fmt: skip


def new_session(**more):
    """A session with small buffers, so that large messages are short."""
    from azure_iot.mqtt.session import Session

    return Session(buffer_in=64, buffer_out=64, max_packet=5000, **more)


def feed(session, data):
    """Copy in as much of `data` as there is space for; return how much."""
    n = min(len(session.space), len(data))
    session.space[:n] = data[:n]
    return n


def drain(session, data, split=0):
    """Feed `data` whole, or `split` bytes at a time; return the events as tuples."""
    from azure_iot.mqtt.receiving import BEGIN, CHUNK, MESSAGE

    events = []
    at = 0
    while at < len(data):
        end = len(data) if not split else min(len(data), at + split)
        n = feed(session, memoryview(data)[at:end])
        at += n
        while True:
            event = session.next(n)
            if not event:
                break
            n = 0
            if event == MESSAGE:
                events.append((event, session.topic, bytes(session.payload), session.qos))
            elif event == BEGIN:
                events.append((event, session.topic, session.size, session.pid))
            elif event == CHUNK:
                events.append((event, bytes(session.payload)))
            else:
                events.append((event, session.code))
    return events

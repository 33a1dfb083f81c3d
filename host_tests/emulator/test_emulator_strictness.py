"""Every malformed input is refused as the standard demands, and the refusal names its statement.

The table below is also the proof that the normative statements of MQTT 3.1.1 which concern a
server are covered: each is behind a case here, behind a test of `test_emulator_mqtt.py`, or
listed with the reason why it does not apply to a hub.
"""

from __future__ import annotations

import importlib
import random
import struct

import pytest
from support import wire
from support.wire import connect, field, packet, publish, subscribe, unsubscribe
from taproot.emulator import codec, strict

GOOD = "$iothub/twin/res/#"
BAD_UTF8 = b"devices/\xc3\x28"
SURROGATE = b"devices/\xed\xa0\x80"

# After a good CONNECT: (name, bytes, statement the refusal names)
AFTER_CONNECT = [
    ("SUBSCRIBE with flags 0", subscribe(1, (GOOD, 0), first=0x80), "MQTT-3.8.1-1"),
    ("SUBSCRIBE with flags 3", subscribe(1, (GOOD, 0), first=0x83), "MQTT-3.8.1-1"),
    ("SUBSCRIBE with id 0", subscribe(0, (GOOD, 0)), "MQTT-2.3.1-1"),
    ("SUBSCRIBE without a filter", subscribe(1), "MQTT-3.8.3-3"),
    ("SUBSCRIBE with QoS 3", subscribe(1, (GOOD, 3)), "MQTT-3-8.3-4"),
    ("SUBSCRIBE with reserved QoS bits", subscribe(1, (GOOD, 0x81)), "MQTT-3-8.3-4"),
    ("SUBSCRIBE without the QoS byte", packet(0x82, b"\0\1" + field(GOOD)), "MQTT-3.8.3-3"),
    ("SUBSCRIBE shorter than its id", packet(0x82, b"\0"), "MQTT-2.3.1"),
    ("SUBSCRIBE with '#' inside a level", subscribe(1, ("a#", 0)), "MQTT-4.7.1-2"),
    ("SUBSCRIBE with '#' before the end", subscribe(1, ("a/#/b", 0)), "MQTT-4.7.1-2"),
    ("SUBSCRIBE with '+' inside a level", subscribe(1, ("a/b+", 0)), "MQTT-4.7.1-3"),
    ("SUBSCRIBE with an empty filter", subscribe(1, ("", 0)), "MQTT-4.7.3-1"),
    ("SUBSCRIBE with invalid UTF-8", subscribe(1, (BAD_UTF8, 0)), "MQTT-1.5.3-1"),
    ("SUBSCRIBE with U+0000", subscribe(1, ("a\0", 0)), "MQTT-1.5.3-2"),
    ("UNSUBSCRIBE with flags 0", unsubscribe(1, GOOD, first=0xA0), "MQTT-3.10.1-1"),
    ("UNSUBSCRIBE with id 0", unsubscribe(0, GOOD), "MQTT-2.3.1-1"),
    ("UNSUBSCRIBE without a filter", unsubscribe(1), "MQTT-3.10.3-2"),
    ("UNSUBSCRIBE with invalid UTF-8", unsubscribe(1, BAD_UTF8), "MQTT-1.5.3-1"),
    ("PUBLISH QoS 1 with id 0", publish("a", b"x", 1, 0), "MQTT-2.3.1-1"),
    ("PUBLISH QoS 1 without an id", packet(0x32, field("a")), "MQTT-2.3.1"),
    ("PUBLISH with '#' in the topic", publish("devices/#"), "MQTT-3.3.2-2"),
    ("PUBLISH with '+' in the topic", publish("devices/+/x"), "MQTT-3.3.2-2"),
    ("PUBLISH with QoS 3", packet(0x36, field("a") + b"\0\1"), "MQTT-3.3.1-4"),
    ("PUBLISH with DUP at QoS 0", packet(0x38, field("a")), "MQTT-3.3.1-2"),
    ("PUBLISH with an empty topic", publish(""), "MQTT-4.7.3-1"),
    ("PUBLISH with invalid UTF-8", publish(BAD_UTF8), "MQTT-1.5.3-1"),
    ("PUBLISH with a surrogate", publish(SURROGATE), "MQTT-1.5.3-1"),
    ("PUBLISH with U+0000", publish("a\0b"), "MQTT-1.5.3-2"),
    ("PUBLISH whose topic is longer than it", packet(0x30, b"\0\x20abc"), "MQTT-1.5.3"),
    ("PUBLISH without a topic", packet(0x30), "MQTT-1.5.3"),
    ("PINGREQ with flags 1", packet(0xC1), "MQTT-2.2.2-2"),
    ("PINGREQ with a body", packet(0xC0, b"x"), "MQTT-2.2.3"),
    ("DISCONNECT with flags 1", packet(0xE1), "MQTT-3.14.1-1"),
    ("DISCONNECT with a body", packet(0xE0, b"\0"), "MQTT-2.2.3"),
    ("PUBACK with flags 2", packet(0x42, b"\0\1"), "MQTT-2.2.2-2"),
    ("PUBACK with id 0", packet(0x40, b"\0\0"), "MQTT-2.3.1-1"),
    ("PUBACK of 3 bytes", packet(0x40, b"\0\1\0"), "MQTT-3.4.1"),
    ("PUBACK of 1 byte", packet(0x40, b"\0"), "MQTT-3.4.1"),
    ("second CONNECT", connect("x"), "MQTT-3.1.0-2"),
    ("CONNACK from a client", packet(0x20, b"\0\0"), "MQTT-2.2.1"),
    ("SUBACK from a client", packet(0x90, b"\0\1\0"), "MQTT-2.2.1"),
    ("UNSUBACK from a client", packet(0xB0, b"\0\1"), "MQTT-2.2.1"),
    ("PINGRESP from a client", packet(0xD0), "MQTT-2.2.1"),
    ("PUBREC, though QoS 2 never runs", packet(0x50, b"\0\1"), "MQTT-2.2.1"),
    ("PUBREL with flags 0", packet(0x60, b"\0\1"), "MQTT-2.2.1"),
    ("PUBREL", packet(0x62, b"\0\1"), "MQTT-2.2.1"),
    ("PUBCOMP", packet(0x70, b"\0\1"), "MQTT-2.2.1"),
    ("packet type 0", packet(0x00), "MQTT-2.2.1"),
    ("packet type 15, empty", packet(0xF0), "MQTT-2.2.1"),
    ("AUTH of MQTT 5", packet(0xF0, b"\0\0"), "MQTT-2.2.1"),
    ("remaining length of 5 bytes", b"\x30\x80\x80\x80\x80\x01", "MQTT-2.2.3"),
    ("packet above the limit", b"\x30\xff\xff\xff\x7f", "size"),
]

# Instead of a CONNECT: (name, bytes, statement, CONNACK code or None)
WELL_FORMED_V5 = packet(
    0x10, field("MQTT") + struct.pack("!BBH", 5, 2, 60) + b"\x00" + field("dev1")
)
INSTEAD_OF_CONNECT = [
    ("PINGREQ first", packet(0xC0), "MQTT-3.1.0-1", None),
    ("PUBLISH first", publish("a"), "MQTT-3.1.0-1", None),
    ("DISCONNECT first", packet(0xE0), "MQTT-3.1.0-1", None),
    ("flags on CONNECT", b"\x11" + connect("x")[1:], "MQTT-2.2.2-2", None),
    ("reserved connect flag", connect("x", flags=3), "MQTT-3.1.2-3", None),
    ("MQIsdp, level 3", connect("x", name=b"MQIsdp", level=3), "MQTT-3.1.2-1", 1),
    ("another protocol name", connect("x", name=b"MQTU"), "MQTT-3.1.2-1", None),
    ("level 3", connect("x", level=3), "MQTT-3.1.2-2", 1),
    ("level 5, body of 3.1.1", connect("x", level=5), "MQTT-3.1.2-2", 1),
    ("level 5, well-formed", WELL_FORMED_V5, "MQTT-3.1.2-2", 1),
    ("level 0x84, a bridge", connect("x", level=0x84), "MQTT-3.1.2-2", 1),
    ("will QoS 3", connect("x", will=("a", b""), flags=2 | 4 | 0x18), "MQTT-3.1.2-14", None),
    ("will QoS without will", connect("x", flags=2 | 8), "MQTT-3.1.2-13", None),
    ("will retain without will", connect("x", flags=2 | 32), "MQTT-3.1.2-15", None),
    ("will flag without its fields", connect("x", flags=2 | 4), "MQTT-1.5.3", None),
    (
        "will fields without the flag",
        connect("x", will=("a", b"b"), flags=2),
        "MQTT-3.1.3-1",
        None,
    ),
    ("will topic with a wildcard", connect("x", will=("a/#", b"")), "MQTT-3.3.2-2", None),
    ("will topic not UTF-8", connect("x", will=(b"\xff", b"")), "MQTT-1.5.3-1", None),
    ("user name flag without one", connect("x", flags=2 | 128), "MQTT-1.5.3", None),
    ("user name without its flag", connect("x", "u", flags=2), "MQTT-3.1.3-1", None),
    ("user name not UTF-8", connect("x", b"\xff"), "MQTT-1.5.3-1", None),
    ("password without a user name", connect("x", None, "p"), "MQTT-3.1.2-22", None),
    ("password flag without one", connect("x", "u", flags=2 | 192), "MQTT-1.5.3", None),
    ("password without its flag", connect("x", "u", "p", flags=2 | 128), "MQTT-3.1.3-1", None),
    ("client id not UTF-8", connect(b"\xff"), "MQTT-1.5.3-1", None),
    ("client id with U+0000", connect("a\0"), "MQTT-1.5.3-2", None),
    ("no client id", packet(0x10, field("MQTT") + b"\4\2\0\x3c"), "MQTT-1.5.3", None),
    ("CONNECT that ends early", packet(0x10, field("MQTT") + b"\4\2"), "MQTT-3.1.2", None),
    ("bytes after the last field", connect("x", tail=b"z"), "MQTT-3.1.3-1", None),
    ("empty CONNECT", packet(0x10), "MQTT-1.5.3", None),
    ("remaining length of 5 bytes", b"\x10\x80\x80\x80\x80\x01", "MQTT-2.2.3", None),
    ("an HTTP request", b"GET / HTTP/1.1\r\n\r\n", "MQTT-3.1.0-1", None),
]


@pytest.mark.parametrize(
    "data,rule", [row[1:] for row in AFTER_CONNECT], ids=[row[0] for row in AFTER_CONNECT]
)
def test_malformed_packet_closes(device, since, data, rule):
    """[MQTT-4.8.0-1] The connection is closed, and the event names the statement."""
    link = device.connect()
    link.send(data)
    assert link.closed() == []
    refused = since("strictness")
    assert [(e["rule"], e["identity"], e["closed"]) for e in refused] == [(rule, device.id, True)]


@pytest.mark.parametrize(
    "data,rule,code",
    [row[1:] for row in INSTEAD_OF_CONNECT],
    ids=[row[0] for row in INSTEAD_OF_CONNECT],
)
def test_malformed_connect_closes(hub, since, data, rule, code):
    """[MQTT-3.1.4-1] Closed without a CONNACK, but for a protocol level that is not spoken."""
    with wire.Wire.plain(hub.plain_port) as link:
        link.send(data)
        assert link.closed() == ([] if code is None else [(0x20, bytes([0, code]))])
    assert [e["rule"] for e in since("strictness")] == [rule]


@pytest.mark.parametrize("step", [1, 2, 7])
def test_a_malformed_packet_is_refused_in_pieces_too(device, since, step):
    """TCP may cut anywhere: what follows a good packet in small pieces is judged alike."""
    link = device.connect()
    data = subscribe(1, (GOOD, 0)) + packet(0xC0) + packet(0xC1)
    for at in range(0, len(data), step):
        link.send(data[at : at + step])
    assert link.closed() == [(0x90, b"\0\1\0"), (0xD0, b"")]
    assert [e["rule"] for e in since("strictness")] == ["MQTT-2.2.2-2"]


def test_a_bad_first_byte_is_refused_before_its_body(device, since):
    """A server that waited for the body of a forbidden packet would wait for ever."""
    link = device.connect()
    link.send(b"\x82\xff\xff", b"")
    link.quiet(0.2)  # a SUBSCRIBE may be long
    link.close()
    second = device.connect()
    second.send(b"\x80")
    assert second.closed() == []
    assert since("strictness")[-1]["rule"] == "MQTT-3.8.1-1"


def test_nothing_after_a_refused_connect_is_processed(hub, device):
    """[MQTT-3.1.4-5] Packets behind a refused CONNECT are not looked at."""
    before = len(hub.messages())
    link = wire.Wire.plain(hub.plain_port)
    login = {"username": f"{hub.host}/{device.id}/?api-version=2021-04-12", "password": "wrong"}
    link.send(connect(device.id, **login), publish(device.events, b"x", 1, 1))
    assert link.closed() == [(0x20, b"\0\5")]
    assert len(hub.messages()) == before


def test_an_empty_client_id_is_rejected(hub):
    """[MQTT-3.1.3-8] CONNACK 2, then closed."""
    for clean in (False, True):
        with wire.Wire.plain(hub.plain_port) as link:
            link.send(connect("", f"{hub.host}//?api-version=2021-04-12", "x", clean=clean))
            assert link.closed() == [(0x20, b"\0\2")]


def test_an_unknown_puback_is_reported_and_the_connection_kept(device, since):
    """The hub cannot know it of a lost session; the event fails the test that asserts none."""
    link = device.connect()
    link.send(wire.puback(77))
    link.ping()
    assert [(e["rule"], e["closed"]) for e in since("strictness")] == [("puback-unknown", False)]


def test_an_identifier_in_use_is_refused(hub, device, since):
    """[MQTT-2.3.1-2] An id whose PUBACK is outstanding is taken, unless DUP says so."""
    hub.fault({"action": "withhold", "packet": "PUBACK", "device": device.id, "count": 2})
    link = device.connect()
    link.send(publish(device.events, b"1", 1, 9), publish(device.events, b"1", 1, 9, dup=True))
    link.ping()
    link.send(publish(device.events, b"2", 1, 9))
    assert link.closed() == []
    assert [e["rule"] for e in since("strictness")] == ["MQTT-2.3.1-2"]


def test_a_good_client_leaves_no_strictness_event(device, since):
    """The layer is strict, not wrong: a session with every packet a client has passes."""
    link = device.connect(clean=False, will=(device.events, b"gone"))
    link.send(subscribe(1, (GOOD, 1), (device.inbox, 1)))
    link.expect(wire.SUBACK)
    link.send(publish("$iothub/twin/GET/?$rid=1", b" ", 1, 2))
    kinds = sorted(link.take()[0] >> 4 for _ in range(2))
    assert kinds == [wire.PUBLISH, wire.PUBACK]
    link.send(wire.puback(1))
    link.send(publish(device.events + "a=%C3%A4", b"x", 0), publish(device.events, b"y", 1, 3))
    link.expect(wire.PUBACK)
    link.send(unsubscribe(4, GOOD))
    link.expect(wire.UNSUBACK)
    link.ping()
    link.send(packet(0xE0))
    assert link.closed() == []
    assert since("strictness") == []


@pytest.mark.timeout(400)
def test_the_codec_is_never_the_last_guard(count):
    """Random damage to good packets: strict refuses or the codec reads; nothing else escapes."""
    source = random.Random(3_1_1)
    seeds = [
        connect("dev", "u", "p", will=("a", b"b")), publish("a/b", b"xyz", 1, 7), packet(0xC0),
        subscribe(5, ("a/b", 1), ("c", 0)), unsubscribe(6, "a/b", "c"), wire.puback(9), packet(0xE0),
    ]  # fmt: skip
    decoded = refused = 0
    for _ in range(count(6_000, 200_000)):
        data = bytearray(source.choice(seeds))
        for _ in range(source.randrange(1, 4)):
            data[source.randrange(len(data))] = source.randrange(256)
        first, body = data[0], bytes(data[2:])
        frame = packet(first, body)
        try:
            strict.check_header(first, first >> 4 != strict.CONNECT)
            if first >> 4 == strict.PUBLISH:
                strict.take_publish(first, body)
            else:
                strict.check_body(first, body)
        except strict.Violation:
            refused += 1
            continue
        codec.decode(frame)  # DecodeError here would mean that strict.py has a hole
        decoded += 1
    assert decoded > 100 and refused > 1000


# -- the statements --------------------------------------------------------------------------

# Covered by a case of the tables above under the statement that the refusal names.
BY_ANOTHER_NAME = {
    "MQTT-2.2.2-1": "MQTT-2.2.2-2",  # what the client must send is what the server must refuse
    "MQTT-3.1.2-9": "will flag without its fields",
    "MQTT-3.1.2-11": "will fields without the flag",
    "MQTT-3.1.2-18": "user name without its flag",
    "MQTT-3.1.2-19": "user name flag without one",
    "MQTT-3.1.2-20": "password without its flag",
    "MQTT-3.1.2-21": "password flag without one",
    "MQTT-3.1.3-3": "no client id",
    "MQTT-3.1.3-4": "client id not UTF-8",
    "MQTT-3.1.3-10": "will topic not UTF-8",
    "MQTT-3.1.3-11": "user name not UTF-8",
    "MQTT-3.3.2-1": "PUBLISH without a topic",
    "MQTT-3.8.3-1": "SUBSCRIBE with invalid UTF-8",
    "MQTT-3.10.3-1": "UNSUBSCRIBE with invalid UTF-8",
    "MQTT-3.6.1-1": "PUBREL with flags 0",
    "MQTT-4.7.1-1": "PUBLISH with '#' in the topic",
    "MQTT-4.7.3-2": "PUBLISH with U+0000",
}
_RETAIN = "the hub retains nothing: RETAIN becomes the property mqtt-retain"
_QOS2 = "the hub closes on QoS 2, so the exchange never runs"
_CLIENT = "binds the client; nothing a server could see or refuse"
NOT_APPLICABLE = {
    "MQTT-2.3.1-3": _CLIENT,
    "MQTT-3.1.2-7": _RETAIN,
    "MQTT-3.1.2-16": _RETAIN,
    "MQTT-3.1.2-17": _RETAIN,
    "MQTT-3.1.2-23": _CLIENT,
    "MQTT-3.1.3-6": "optional: the hub does not allow an empty client id",
    "MQTT-3.1.3-7": "the hub rejects every empty client id",
    "MQTT-3.3.1-5": _RETAIN,
    "MQTT-3.3.1-6": _RETAIN,
    "MQTT-3.3.1-7": _RETAIN,
    "MQTT-3.3.1-8": _RETAIN,
    "MQTT-3.3.1-10": _RETAIN,
    "MQTT-3.3.1-11": _RETAIN,
    "MQTT-3.3.1-12": _RETAIN,
    "MQTT-3.3.5-1": "documented filters do not overlap",
    "MQTT-3.14.4-1": _CLIENT,
    "MQTT-3.14.4-2": _CLIENT,
    "MQTT-4.1.0-2": "sessions last as long as the process",
    "MQTT-4.2.0-1": "TCP, TLS and WebSocket are ordered and lossless",
    "MQTT-4.3.3-1": _QOS2,
    "MQTT-4.3.3-2": _QOS2,
    "MQTT-4.5.0-2": _CLIENT,
    "MQTT-4.6.0-3": _QOS2,
    "MQTT-4.6.0-4": _QOS2,
    "MQTT-4.7.2-1": "the hub matches no wildcard against topics: filters name a kind of message",
    "MQTT-4.8.0-2": "advice on transient errors",
    "MQTT-6.0.0-2": _CLIENT,
    "MQTT-7.0.0-1": "conformance as a whole",
    "MQTT-7.0.0-2": "conformance as a whole",
    "MQTT-7.1.1-1": "conformance as a whole",
    "MQTT-7.1.2-1": _CLIENT,
}
_COUNTS = {  # section -> how many statements it has in the standard's appendix B
    "1.5.3": 3, "2.2.2": 2, "2.3.1": 7, "3.1.0": 2, "3.1.2": 24, "3.1.3": 11, "3.1.4": 5,
    "3.2.0": 1, "3.2.2": 6, "3.3.1": 12, "3.3.2": 3, "3.3.4": 1, "3.3.5": 2, "3.6.1": 1,
    "3.8.1": 1, "3.8.3": 3, "3.8.4": 6, "3.9.3": 2, "3.10.1": 1, "3.10.3": 2, "3.10.4": 6,
    "3.12.4": 1, "3.14.1": 1, "3.14.4": 3, "4.1.0": 2, "4.2.0": 1, "4.3.1": 1, "4.3.2": 2,
    "4.3.3": 2, "4.4.0": 1, "4.5.0": 2, "4.6.0": 6, "4.7.1": 3, "4.7.2": 1, "4.7.3": 4,
    "4.8.0": 2, "6.0.0": 4, "7.0.0": 2, "7.1.1": 1, "7.1.2": 1,
}  # fmt: skip


def statements() -> set[str]:
    """All normative statements of MQTT 3.1.1, with the standard's own typing error."""
    found = {f"MQTT-{s}-{n}" for s, many in _COUNTS.items() for n in range(1, many + 1)}
    return found | {"MQTT-3-8.3-4"}


def test_every_normative_statement_about_a_server_is_covered():
    """Each statement is behind a case, behind a named test, or not applicable for a reason."""
    behaviour = importlib.import_module("emulator.test_emulator_mqtt")
    websocket = importlib.import_module("emulator.test_emulator_https")
    tables = {row[2] for row in AFTER_CONNECT} | {row[2] for row in INSTEAD_OF_CONNECT}
    names = {row[0] for row in AFTER_CONNECT} | {row[0] for row in INSTEAD_OF_CONNECT}
    tests = {
        mark
        for module in (behaviour, websocket)
        for name, test in vars(module).items()
        if name.startswith("test_")
        for one in getattr(test, "pytestmark", [])
        if one.name == "requirement"
        for mark in one.args
    }
    here = {
        "MQTT-3.1.4-1", "MQTT-3.1.4-5", "MQTT-3.1.3-8", "MQTT-3.1.3-9", "MQTT-4.8.0-1",
        "MQTT-2.3.1-2",
    }  # fmt: skip
    for statement, other in BY_ANOTHER_NAME.items():
        assert other in tables | names, f"{statement}: no case '{other}'"
    covered = tables | tests | here | set(BY_ANOTHER_NAME)
    twice = covered & set(NOT_APPLICABLE)
    assert not twice, f"covered and yet not applicable: {sorted(twice)}"
    missing = statements() - covered - set(NOT_APPLICABLE)
    assert not missing, f"no case, no test, no reason: {sorted(missing)}"

"""The pinned codec behaves as it did when it was chosen: a new version that differs fails here.

Its laxness is listed too. `strict.py` stands in front of it, so each entry that a new version
refuses is an improvement, and a reason to look at what else has changed.
"""

from __future__ import annotations

import random
import struct
from importlib.metadata import version

import pytest
from support import wire
from taproot.emulator import codec, frames, strict
from taproot.emulator.strict import Violation


def test_the_pin():
    """The version whose private module was read and fuzzed."""
    assert version("zmqtt") == "0.2.5"


@pytest.mark.parametrize(
    "made,bytes_",
    [
        (codec.connack(0, True), b"\x20\2\1\0"), (codec.connack(5), b"\x20\2\0\5"),
        (codec.puback(0x1234), b"\x40\2\x12\x34"), (codec.pingresp(), b"\xd0\0"),
        (codec.suback(7, [0, 1, 0x80]), b"\x90\5\0\7\0\1\x80"), (codec.unsuback(9), b"\xb0\2\0\t"),
        (codec.publish("a/b", b"xy"), wire.publish("a/b", b"xy")),
        (codec.publish("ä", b"", 1, 300, True), wire.publish("ä", b"", 1, 300, dup=True)),
        (codec.publish("t", bytes(300), 1, 65_535), wire.publish("t", bytes(300), 1, 65_535)),
        (codec.publish("t", bytes(2_100_000)), wire.publish("t", bytes(2_100_000))),
    ],
)  # fmt: skip
def test_what_the_server_sends(made, bytes_):
    """Byte for byte what the standard defines, remaining lengths of 1 to 4 bytes included."""
    assert made == bytes_


def test_what_the_server_reads():
    """Every field of CONNECT, SUBSCRIBE and UNSUBSCRIBE."""
    packet = codec.decode(
        wire.connect(
            "dev", "user", b"\xff", clean=False, keep_alive=1177, will=("w/t", b"\0"), will_qos=1
        )
    )
    assert isinstance(packet, codec.Connect)
    assert (packet.client_id, packet.username, packet.password) == ("dev", "user", b"\xff")
    assert (packet.clean_session, packet.keepalive) == (False, 1177)
    assert (packet.will.topic, packet.will.payload, packet.will.qos) == ("w/t", b"\0", 1)
    packet = codec.decode(wire.subscribe(513, ("a/#", 0), ("ü", 2)))
    assert isinstance(packet, codec.Subscribe) and packet.packet_id == 513
    assert [(s.topic_filter, int(s.qos)) for s in packet.subscriptions] == [("a/#", 0), ("ü", 2)]
    packet = codec.decode(wire.unsubscribe(2, "a", "b"))
    assert isinstance(packet, codec.Unsubscribe) and packet.topic_filters == ("a", "b")


V5 = wire.packet(
    0x10, wire.field("MQTT") + struct.pack("!BBH", 5, 2, 60) + b"\0" + wire.field("d")
)
LAX = {
    "SUBSCRIBE flags 0": wire.subscribe(1, ("a", 0), first=0x80),
    "SUBSCRIBE id 0": wire.subscribe(0, ("a", 0)),
    "SUBSCRIBE without a filter": wire.subscribe(1),
    "reserved bits in the QoS byte": wire.subscribe(1, ("a", 0x81)),
    "filter a#": wire.subscribe(1, ("a#", 0)),
    "empty filter": wire.subscribe(1, ("", 0)),
    "UNSUBSCRIBE flags 0": wire.unsubscribe(1, "a", first=0xA0),
    "UNSUBSCRIBE without a filter": wire.unsubscribe(1),
    "PUBLISH id 0": wire.publish("a", b"", 1, 0),
    "PUBLISH with a wildcard": wire.publish("a/#"),
    "PUBLISH with an empty topic": wire.publish(""),
    "PUBLISH with U+0000": wire.publish("a\0"),
    "DUP at QoS 0": wire.packet(0x38, wire.field("a")),
    "PINGREQ flags": wire.packet(0xC1),
    "PINGREQ with a body": wire.packet(0xC0, b"x"),
    "PUBACK of 3 bytes": wire.packet(0x40, b"\0\1\0"),
    "PUBACK id 0": wire.packet(0x40, b"\0\0"),
    "DISCONNECT with a body": wire.packet(0xE0, b"\0"),
    "CONNECT reserved flag": wire.connect("x", flags=3),
    "CONNECT with trailing bytes": wire.connect("x", tail=b"z"),
    "password without a user name": wire.connect("x", None, "p"),
    "will QoS without a will": wire.connect("x", flags=2 | 8),
    "CONNACK from a client": wire.packet(0x20, b"\0\0"),
    "a well-formed v5 CONNECT": V5,
}


@pytest.mark.parametrize("data", LAX.values(), ids=LAX)
def test_what_the_codec_lets_through_the_strict_layer_does_not(data):
    """The codec decodes each of these; `strict.py` names a statement for each."""
    codec.decode(data)
    splitter = frames.Splitter()
    splitter.connected = data[0] >> 4 != strict.CONNECT
    with pytest.raises(Violation):
        for first, body, _ in splitter.feed(data):
            if first >> 4 == strict.PUBLISH:
                strict.take_publish(first, body)
            else:
                strict.check_body(first, body)


@pytest.mark.timeout(400)
def test_publish_is_taken_apart_as_the_codec_would(count):
    """`strict.take_publish` and the codec agree on every good PUBLISH: decoding twice says nothing."""
    source = random.Random(7)
    for _ in range(count(2_000, 100_000)):
        topic = "".join(source.choices("ab/ä€$%=&?.\ufeff", k=source.randrange(1, 40)))
        qos = source.randrange(2)
        data = wire.publish(
            topic, source.randbytes(source.randrange(300)), qos, source.randrange(1, 65_536) if qos else None,
            dup=bool(qos and source.randrange(2)), retain=bool(source.randrange(2)),
        )  # fmt: skip
        splitter = frames.Splitter()
        splitter.connected = True
        [(first, body, whole)] = splitter.feed(data)
        mine, theirs = strict.take_publish(first, body), codec.decode(whole)
        assert isinstance(theirs, codec.Publish)
        assert mine == (
            theirs.topic, theirs.payload, int(theirs.qos), theirs.retain, theirs.dup, theirs.packet_id or 0,
        )  # fmt: skip


def test_the_splitter_in_any_pieces(count):
    """However TCP cuts the stream, the same frames come out."""
    source = random.Random(9)
    packets = [
        wire.publish("a", bytes(source.randrange(400)))
        if source.randrange(3)
        else wire.packet(0xC0)
        for _ in range(60)
    ]
    stream = b"".join(packets)
    for _ in range(count(20, 500)):
        splitter, got, at = frames.Splitter(), [], 0
        splitter.connected = True
        while at < len(stream):
            step = source.choice((1, 2, 3, 50, 5000))
            got += [whole for _, _, whole in splitter.feed(stream[at : at + step])]
            at += step
        assert got == packets and splitter.pending == 0


def test_a_large_packet_byte_by_byte_costs_linear_time():
    """A slow sender must not make the server copy the packet again for every byte."""
    import time

    def seconds(size):
        splitter = frames.Splitter()
        splitter.connected = True
        data = wire.publish("a", bytes(size))
        start = time.thread_time()  # not what other processes took
        for at in range(0, len(data), 16):
            list(splitter.feed(data[at : at + 16]))
        return time.thread_time() - start

    def best(size):
        return min(seconds(size) for _ in range(3))

    seconds(1000)
    assert best(200_000) < 20 * max(best(20_000), 0.002)

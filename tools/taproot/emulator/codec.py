"""MQTT 3.1.1 packets to bytes and back: the one module that imports the zmqtt codec.

Responsible for: decoding a frame that `strict.py` has let through and encoding what the server
sends. Not for: splitting a stream (`frames.py`), refusing bad input (`strict.py`): the codec is
lax, and parsed packets have lost header flags, reserved bits and trailing bytes.
The codec's packet module is private API, hence the exact pin and `host_tests/emulator/
test_codec.py`, which fails when a new version behaves differently.
"""

from __future__ import annotations

import functools
import struct
from typing import Final

from zmqtt._internal.packets import (
    ConnAck,
    Connect,
    Packet,
    PingResp,
    PubAck,
    Publish,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    Will,
)
from zmqtt._internal.packets.codec import decode as _decode
from zmqtt._internal.packets.codec import encode as _encode
from zmqtt._internal.types.qos import QoS

__all__ = [
    "Connect",
    "DecodeError",
    "Packet",
    "Publish",
    "Subscribe",
    "Unsubscribe",
    "Will",
    "connack",
    "decode",
    "pingresp",
    "puback",
    "publish",
    "suback",
    "unsuback",
]

# What a 40,000-packet fuzz made the codec raise; UnicodeDecodeError is a ValueError.
_RAISED = (ValueError, IndexError, KeyError, BufferError, struct.error)
_VERSION: Final = "3.1.1"


class DecodeError(Exception):
    """The codec could not make sense of a frame."""


def decode(frame: bytes) -> Packet:
    """Decode one whole frame."""
    try:
        found = _decode(frame, version=_VERSION)
    except _RAISED as error:
        raise DecodeError(str(error) or type(error).__name__) from None
    if found is None or found[1] != len(frame):
        raise DecodeError("the frame is not one whole packet")
    return found[0]


def connack(code: int, session_present: bool = False) -> bytes:
    """Encode CONNACK."""
    return _encode(ConnAck(session_present=session_present, return_code=code), version=_VERSION)


def publish(
    topic: str, payload: bytes, qos: int = 0, packet_id: int | None = None, dup: bool = False
) -> bytes:
    """Encode PUBLISH; the hub never sets RETAIN."""
    packet = Publish(
        topic=topic, payload=payload, qos=QoS(qos), retain=False, dup=dup, packet_id=packet_id
    )
    return _encode(packet, version=_VERSION)


@functools.lru_cache(maxsize=4096)
def puback(packet_id: int) -> bytes:
    """Encode PUBACK."""
    return _encode(PubAck(packet_id=packet_id), version=_VERSION)


def suback(packet_id: int, codes: list[int]) -> bytes:
    """Encode SUBACK: 0, 1 or 0x80 per filter."""
    return _encode(SubAck(packet_id=packet_id, return_codes=tuple(codes)), version=_VERSION)


def unsuback(packet_id: int) -> bytes:
    """Encode UNSUBACK."""
    return _encode(UnsubAck(packet_id=packet_id), version=_VERSION)


def pingresp() -> bytes:
    """Encode PINGRESP."""
    return _encode(PingResp(), version=_VERSION)

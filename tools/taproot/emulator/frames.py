"""Cuts a byte stream into MQTT frames and nothing else.

Responsible for: fixed headers, the remaining length and its limits, checking the first byte of
a packet before its body is waited for. Not for: what is inside a frame (`strict.py`).
MQTT 3.1.1 §2.2.
"""

from __future__ import annotations

from collections.abc import Iterator

from taproot.emulator import strict
from taproot.emulator.strict import Violation

# 256 KiB of message plus 64 KiB for the topic with its properties.
LIMIT = 262_144 + 65_536


class Splitter:
    """Collects bytes and hands out whole frames as (first byte, body, whole frame)."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.connected = False
        self._rest = bytearray()
        self._need = 0  # bytes of the unfinished frame, as far as known

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield the frames completed by `data`; raise Violation for a bad header."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:
                return
            data = bytes(self._rest)
            self._rest = bytearray()
        at, size = 0, len(data)
        self._need = 0
        while at < size:
            first = data[at]
            strict.check_header(first, self.connected)
            length, start = self._length(data, at, size)
            if start == 0 or start + length > size:
                self._need = start + length - at if start else 0
                break
            end = start + length
            yield first, data[start:end], data[at:end]
            at = end
        self._rest = bytearray(data[at:])

    def _length(self, data: bytes, at: int, size: int) -> tuple[int, int]:
        """Return the remaining length and where the body starts; 0 when more bytes are needed."""
        length = shift = 0
        for position in range(at + 1, at + 5):
            if position >= size:
                return 0, 0
            byte = data[position]
            length |= (byte & 127) << shift
            if byte < 128:
                if length + position + 1 - at > self.limit:
                    raise Violation("size", f"a packet of {length} bytes is above the limit")
                return length, position + 1
            shift += 7
        raise Violation("MQTT-2.2.3", "remaining length of more than four bytes")

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame."""
        return len(self._rest)

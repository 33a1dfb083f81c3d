"""RTC memory as a key-value store: what deep sleep keeps, and nothing else does.

Responsible for: a few small values in RTC memory, 2,048 bytes in all. Not for: flash (NVS).
Source: MicroPython documentation, machine.RTC.memory. Not yet run on hardware.

    client = IoTHubDeviceClient.from_connection_string(
        text, sessions=Sessions(clock, kv=RTCStore(), mac_key=secret), …)
"""

import machine
from micropython import const

_SIZE = const(2048)


class RTCStore:
    """Values of at most 65,535 bytes, as `name length, name, value length, value` one after another."""

    def __init__(self) -> None:
        self._rtc = machine.RTC()

    def _read(self) -> dict:
        raw = self._rtc.memory()
        found = {}
        at = 0
        while at < len(raw) and raw[at]:
            name = bytes(raw[at + 1 : at + 1 + raw[at]]).decode()
            at += 1 + raw[at]
            size = int.from_bytes(raw[at : at + 2], "big")
            found[name] = bytes(raw[at + 2 : at + 2 + size])
            at += 2 + size
        return found

    def _write(self, values: dict) -> None:
        raw = bytearray()
        for name, value in values.items():
            raw.append(len(name))
            raw.extend(name.encode())
            raw.extend(len(value).to_bytes(2, "big"))
            raw.extend(value)
        if len(raw) > _SIZE:
            raise ValueError("RTC memory holds %d bytes" % _SIZE)
        raw.extend(bytes(max(len(self._rtc.memory()) - len(raw), 0)))  # leaves nothing behind it
        self._rtc.memory(raw)

    def get(self, key: str) -> "bytes | None":
        """Read a value; None when there is none."""
        return self._read().get(key)

    def set(self, key: str, value: bytes) -> None:
        """Write a value."""
        values = self._read()
        values[key] = value
        self._write(values)

    def delete(self, key: str) -> None:
        """Forget a value."""
        values = self._read()
        if values.pop(key, None) is not None:
            self._write(values)

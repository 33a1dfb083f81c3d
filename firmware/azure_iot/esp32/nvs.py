"""Small values and the trust store's floors in NVS, which survives what the file system does not.

Responsible for: the key-value store of the platform (contracts.md section 5) and the mirror of the
trust store's counters: `bver`, `kver`, `tfloor`, each an i32 in the namespace `trust`. Not for:
what they mean and the order they are written in (trust/changes.py). Not yet run on hardware.
Source: MicroPython documentation, esp32.NVS; keys have at most 15 characters (ESP-IDF, NVS).
"""

from esp32 import NVS
from micropython import const

_MAX_VALUE = const(1024)
_MAX_KEY = const(15)
_NOT_FOUND = const(-4354)  # ESP_ERR_NVS_NOT_FOUND (nvs.h)


class NVSStore:
    """Small values, atomic per key: `get(key) -> bytes | None`, `set(key, bytes)`, `delete(key)`."""

    def __init__(self, namespace: str = "azure_iot") -> None:
        self._nvs = NVS(namespace)

    def get(self, key: str) -> "bytes | None":
        """Read a value; None when there is none."""
        buffer = bytearray(_MAX_VALUE)
        try:
            size = self._nvs.get_blob(key, buffer)
        except OSError:
            return None
        return bytes(buffer[:size])

    def set(self, key: str, value: bytes) -> None:
        """Write a value of at most 1,024 bytes under a key of at most 15 characters."""
        if len(value) > _MAX_VALUE or len(key) > _MAX_KEY:
            raise ValueError("a key has at most %d bytes, a value %d" % (_MAX_KEY, _MAX_VALUE))
        self._nvs.set_blob(key, value)
        self._nvs.commit()

    def delete(self, key: str) -> None:
        """Forget a value."""
        try:
            self._nvs.erase_key(key)
            self._nvs.commit()
        except OSError:  # it was not there
            return


class NVSMirror:
    """A copy of the trust store's floors: `get(name) -> int | None`, `set(name, value)`.

    A value that is there already is not written again: a page of NVS wears out.
    """

    def __init__(self, namespace: str = "trust") -> None:
        self._nvs = NVS(namespace)

    def get(self, name: str) -> "int | None":
        """Read a counter; None when there is none."""
        try:
            return self._nvs.get_i32(name)
        except OSError as error:
            if error.args[0] != _NOT_FOUND:
                raise
            return None

    def set(self, name: str, value: int) -> None:
        """Write a counter below 2 ** 31."""
        if self.get(name) != value:
            self._nvs.set_i32(name, value)
            self._nvs.commit()

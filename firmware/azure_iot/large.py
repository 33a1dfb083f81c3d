"""Messages larger than the MQTT input buffer, collected in one piece of memory.

Responsible for: twins, method payloads and messages that the application wants whole. Not for:
trust packages, which go to flash (updater.py).
"""

from micropython import const

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable


class Collector:
    """Takes `size` bytes, then calls `deliver(bytes)`; its result decides about PUBACK."""

    def __init__(self, size: int, deliver: "Callable") -> None:
        self._data = bytearray(size)
        self._at = 0
        self._deliver = deliver

    def write(self, part: memoryview) -> None:
        """Take the next part."""
        self._data[self._at : self._at + len(part)] = part
        self._at += len(part)

    def close(self) -> "object | None":
        """Deliver the whole message."""
        return self._deliver(self._data)

    def abort(self) -> None:
        """Forget what came: the connection ended in the middle."""
        self._data = bytearray()

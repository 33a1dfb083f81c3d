"""Messages larger than the MQTT input buffer: in one piece of memory, or through to a sink.

Responsible for: twins, method payloads and messages that the application wants whole; messages it
takes as a stream. Not for: trust packages, which go to flash (updater.py).
"""

from hashlib import sha256

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


class Through:
    """Passes a message on to the application's sink, then calls `deliver(digest of the body)`."""

    def __init__(self, sink: object, deliver: "Callable") -> None:
        self._sink = sink
        self._digest = sha256()
        self._deliver = deliver
        self.abort = sink.abort  # type: ignore[attr-defined]

    def write(self, part: memoryview) -> None:
        """Pass the next part on."""
        self._digest.update(part)
        self._sink.write(part)  # type: ignore[attr-defined]

    def close(self) -> "object | None":
        """Close the sink and deliver the message."""
        self._sink.close()  # type: ignore[attr-defined]
        return self._deliver(self._digest.digest())

"""A large twin on its way in: chunks of a trust package go to flash, the rest stays JSON.

Responsible for: finding the members c0, c1, … of the desired object `trust` in the text as it
arrives, whatever its pieces, so that a package in the twin never stands in memory. In the JSON
that is left a chunk is the number of its characters. Not for: what a wish means (updater.py).
Source: contracts.md section 1 and the `twin` row of section 5.

The hub sends the twin after every reconnect, so a chunk that is already on flash is compared and
not written again.
"""

from micropython import const

from . import log

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

_QUOTE = const(0x22)
_BACKSLASH = const(0x5C)
_LONGEST_NAME = const(8)
_MAX_CHUNK = const(8192)
# Where a wish lies: in a desired patch, and in the answer to a twin GET.
_PLACES = (["", "trust"], ["", "desired", "trust"])


class ChunkFile:
    """One chunk on flash: written only from the first byte on that differs."""

    def __init__(self, path: str) -> None:
        self.size = 0
        self.unchanged = True  # flash holds what came so far
        self._path = path
        self._bad = False
        self._file = None

    def write(self, data: bytes) -> None:
        """Append `data`; what flash refuses is logged and makes the chunk empty."""
        try:
            if self._file is None:
                self._open()
            if self.unchanged and self._file.read(len(data)) != data:
                self.unchanged = False
                self._file.seek(self.size)
            if not self.unchanged and self.size + len(data) <= _MAX_CHUNK:
                self._file.write(data)
        except OSError as error:
            log.warning("trust: a chunk was not kept: %s", error)
            self._bad = True
        self.size += len(data)

    def _open(self) -> None:
        try:
            self._file = open(self._path, "r+b")
        except OSError:
            self._file = open(self._path, "w+b")

    def close(self) -> int:
        """Close the file; return the number of characters kept, 0 if there was a failure."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:  # the last bytes are written here
                log.warning("trust: a chunk was not kept: %s", error)
                self._bad = True
            self._file = None
        return 0 if self._bad or self.size > _MAX_CHUNK else self.size


class DesiredFilter:
    """What MQTTClient writes a large twin into; `deliver(bytearray)` gets the JSON without chunks."""

    def __init__(self, path: "Callable[[str], str]", deliver: "Callable") -> None:
        self._path = path
        self._deliver = deliver
        self._json = bytearray()
        self._places = []  # names of the objects around the place of reading
        self._name = b""
        self._is_value = False
        self._in_string = False
        self._escaped = False
        self._chunk = None

    def write(self, part: memoryview) -> None:
        """Take the next part."""
        data = bytes(part)
        at = 0
        while at < len(data):
            at = self._string(data, at) if self._in_string else self._between(data, at)

    def close(self) -> "object | None":
        """Deliver what is left of the twin."""
        return self._deliver(self._json)

    def abort(self) -> None:
        """Forget what came: the connection ended in the middle."""
        if self._chunk is not None:
            self._chunk.close()

    def _between(self, data: bytes, start: int) -> int:
        """Read up to the next string; return the place behind its opening quote."""
        for at in range(start, len(data)):
            byte = data[at]
            if byte == _QUOTE:
                self._json += data[start:at]
                self._begin()
                return at + 1
            if byte == 0x7B:  # {
                name = str(self._name, "utf-8") if self._is_value else ""
                self._places.append(name)
                self._is_value = False
            elif byte == 0x7D and self._places:  # }
                self._places.pop()
            elif byte == 0x3A:  # :
                self._is_value = True
            elif byte in b",[":
                self._is_value = False
        self._json += data[start:]
        return len(data)

    def _begin(self) -> None:
        self._in_string = True
        name = self._name
        if self._is_value and name[:1] == b"c" and name[1:].isdigit() and self._places in _PLACES:
            self._chunk = ChunkFile(self._path("%s.new" % str(name, "utf-8")))
            return
        if not self._is_value:
            self._name = b""
        self._json += b'"'

    def _string(self, data: bytes, start: int) -> int:
        """Read on in a string; return the place behind what was read."""
        if self._escaped:
            self._escaped = False
            self._take(data[start : start + 1], True)
            return start + 1
        at = data.find(b'"', start)
        end = len(data) if at < 0 else at
        slash = data.find(b"\\", start, end)
        if slash >= 0:
            at = end = slash
        if end > start:
            self._take(data[start:end], False)
        if at < 0:
            return end
        if data[at] == _BACKSLASH:
            self._escaped = True
            if self._chunk is None:
                self._json += b"\\"
        else:
            self._end()
        return at + 1

    def _take(self, text: bytes, escaped: bool) -> None:
        if self._chunk is None:
            self._json += text
            if not self._is_value:
                self._name = (self._name + text)[:_LONGEST_NAME]
        else:
            # A package is ASCII without control characters: no other escape stands for itself.
            self._chunk.write(text if not escaped or text in b'"\\/' else b"?")

    def _end(self) -> None:
        self._in_string = False
        if self._chunk is None:
            self._json += b'"'
        else:
            self._json += b"%d" % self._chunk.close()
            self._chunk = None

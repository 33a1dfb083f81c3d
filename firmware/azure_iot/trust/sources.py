"""Where text comes from: strict base64 and sources read by position.

Responsible for: refusing every second spelling of the same bytes (H14); reading a span of a file
without holding the file. Not for: JSON (scan.py), writing (files.py).

A `source` has `size`, `seek(position)` and `readinto(memoryview)` (0 at the end).
"""

from binascii import a2b_base64, b2a_base64

from micropython import const

from .errors import RefusedError

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from typing import Protocol

    class Source(Protocol):
        """Bytes read by position."""

        size: int

        def seek(self, position: int) -> None: ...
        def readinto(self, view: memoryview) -> int: ...
        def close(self) -> None: ...

    class Hash(Protocol):
        """A hash being computed."""

        def update(self, data: object) -> None: ...
        def digest(self) -> bytes: ...


_BUFFER = const(256)  # read unit, a multiple of 4

_URL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_STD = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_HEX = b"0123456789abcdef"


def base64url(text: bytes) -> bytes:
    """Decode unpadded base64url; any second spelling of the same bytes is refused."""
    if text.strip(_URL) or len(text) % 4 == 1:
        raise RefusedError("not base64url")
    text = text.replace(b"-", b"+").replace(b"_", b"/")
    raw = a2b_base64(text + b"=="[: -len(text) % 4])
    if b2a_base64(raw)[:-1].rstrip(b"=") != text:
        raise RefusedError("base64url with stray bits")
    return raw


def base64std(text: bytes) -> bytes:
    """Decode padded standard base64, as strictly as `base64url`."""
    body = text.rstrip(b"=")
    if body.strip(_STD) or len(text) % 4 or len(text) - len(body) > 2:
        raise RefusedError("not base64")
    raw = a2b_base64(text)
    # Only the last group can hold bits that stand for nothing.
    if b2a_base64(raw[(len(raw) - 1) // 3 * 3 :])[:-1] != text[-4:]:
        raise RefusedError("base64 with stray bits")
    return raw


def is_digest(text: bytes | None) -> bool:
    """Tell whether `text` is 64 lower-case hexadecimal digits."""
    return text is not None and len(text) == 64 and not text.strip(_HEX)


def is_base64url(text: bytes) -> bool:
    """Tell whether every byte of `text` belongs to the base64url alphabet."""
    return not text.strip(_URL)


def read_span(source: "Source", start: int, end: int) -> bytes:
    """Read bytes `start` to `end` of a source into one block."""
    block = bytearray(end - start)
    source.seek(start)
    if read_full(source, memoryview(block)) != len(block):
        raise RefusedError("file shorter than before")
    return bytes(block)


def read_full(source: "Source", view: memoryview) -> int:
    """Fill `view` as far as the source reaches; return the number of bytes."""
    got = 0
    while got < len(view):
        n = source.readinto(view[got:])
        if not n:
            break
        got += n
    return got


class BytesSource:
    """A source over bytes in memory or in ROM."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0
        self.size = len(data)

    def seek(self, position: int) -> None:
        """Continue reading at `position`."""
        self._at = position

    def readinto(self, view: memoryview) -> int:
        """Copy what fits; return the count, 0 at the end."""
        n = min(len(view), self.size - self._at)
        if n <= 0:
            return 0
        view[:n] = self._data[self._at : self._at + n]
        self._at += n
        return n

    def close(self) -> None:
        """Release nothing; files have something to do here."""


class Base64Source:
    """The bytes that a span of base64url text stands for, decoded while they are read.

    `digest`, if given, is a hash object fed with every character read.
    """

    def __init__(self, source: "Source", start: int, end: int, digest: "Hash | None" = None):
        # One letter alone in the last group is refused when the decoder comes to it.
        self.size = (end - start) * 3 // 4
        self._source = source
        self._start = start
        self._at = start
        self._end = end
        self._digest = digest
        self._text = bytearray(_BUFFER)
        self._raw = memoryview(b"")

    def seek(self, position: int) -> None:
        """Continue at byte `position` of the decoded text."""
        self._at = self._start + position // 3 * 4
        self._raw = memoryview(b"")
        if position % 3:
            self._fill()
            self._raw = self._raw[position % 3 :]

    def _fill(self) -> None:
        n = min(_BUFFER, self._end - self._at)
        view = memoryview(self._text)[:n]
        self._source.seek(self._at)
        if read_full(self._source, view) != n:
            raise RefusedError("file shorter than before")
        if self._digest is not None:
            self._digest.update(view)
        self._at += n
        self._raw = memoryview(base64url(bytes(view)))

    def readinto(self, view: memoryview) -> int:
        """Copy what fits of the next decoded bytes; return the count, 0 at the end."""
        if not len(self._raw) and self._at < self._end:
            self._fill()
        n = min(len(view), len(self._raw))
        view[:n] = self._raw[:n]
        self._raw = self._raw[n:]
        return n

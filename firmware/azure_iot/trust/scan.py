"""Strict JSON, token by token, straight from a file.

Responsible for: RFC 8259 structure with nothing left to taste (R-02, H13) and the positions of
values. Not for: what the members mean (jws.py, keyset.py, bundle.py), base64 (sources.py).
Specification: trust store, "Parser facts that force rules".

The built-in `json` takes missing commas, repeated keys, truncated text and more, so it never sees
a package. A `source` has `size`, `seek(position)` and `readinto(memoryview)`; nothing here holds
more of it than 256 bytes and one string.

Theory of operation. `next()` delivers one token: an object or array opening or closing, a string,
an integer or a literal. Inside an object `key` is the name of the member. `_stack` holds, per open
container, the list of names seen (an object) or a count (an array); nothing recurses.
"""

from micropython import const

from .errors import RefusedError
from .sources import read_full

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .sources import Source

# Token kinds are the byte a token begins with; integers are all _INT.
_OBJECT = const(0x7B)
_OBJECT_END = const(0x7D)
_ARRAY = const(0x5B)
_ARRAY_END = const(0x5D)
_STRING = const(0x22)
_INT = const(0x30)

_COMMA = const(0x2C)
_COLON = const(0x3A)
_BACKSLASH = const(0x5C)

_BUFFER = const(256)
_MAX_KEY = const(64)
_MAX_DIGITS = const(10)
_MAX_DEPTH = const(8)
_MAX_MEMBERS = const(32)

_HEX = b"0123456789abcdef"
# What stands for itself in a string, the letters of base64 first.
_PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_ !#$%&'()*,.:;<>?@[]^`{|}~"
_ESCAPES = b'""\\\\//b\bf\fn\nr\rt\t'  # letter after the backslash, then what it stands for
_LITERALS = (b"true", b"false", b"null")


class Scanner:
    """One pass over one JSON text.

    limit: bytes the text may have. keep: longest string whose value is kept in `text`.
    brackets: how many objects and arrays may open in all.
    After `next()`: `key` (str, inside an object), `text` (bytes, a string not longer than `keep`),
    `number` (an integer), `start` and `end` (where a string's characters lie; `start` of an
    opening; `end` just past a closing).
    """

    def __init__(self, source: "Source", limit: int, keep: int = 0, brackets: int = 255):
        if source.size > limit:
            raise RefusedError("%d bytes, %d allowed" % (source.size, limit), "TOO_LARGE")
        self.key: str | None = None
        self.text: bytes | None = None
        self.number = 0
        self.start = 0
        self.end = 0
        self._source = source
        self._limit = limit
        self._keep = keep
        self._brackets = brackets
        self._buffer = bytearray(_BUFFER)
        self._base = 0
        self._at = 0
        self._filled = 0
        self._stack: list = []
        self._first = False
        self._begun = False
        source.seek(0)

    def next(self) -> int:
        """Deliver the kind of the next token; 0 once the text is at its end."""
        self.key = None
        c = self._blank()
        if not self._stack:
            if not self._begun:
                self._begun = True
                return self._value(c)
            if c >= 0:
                raise RefusedError("text after the end")
            return 0
        names = self._stack[-1]
        is_object = names is not None
        if c == (_OBJECT_END if is_object else _ARRAY_END):
            self._stack.pop()
            self._first = False
            self.end = self._base + self._at
            return c
        if not self._first:
            if c != _COMMA:
                raise RefusedError("comma missing at %d" % self.position())
            c = self._blank()
        self._first = False
        if is_object:
            c = self._name(names, c)
        return self._value(c)

    def skip(self, kind: int) -> None:
        """Pass over the value that `kind` began, whatever it holds."""
        depth = len(self._stack)
        if kind == _OBJECT or kind == _ARRAY:
            while len(self._stack) >= depth:
                self.next()

    def each(self, kind: int, opening: int) -> "Iterator[int]":
        """Yield the kind of each value in the object or array (`opening`) that `kind` began."""
        self.want(kind, opening)
        while True:
            kind = self.next()
            if kind == opening + 2:  # } lies two behind {, ] two behind [
                return
            yield kind

    def strings(self, kind: int) -> "Iterator[bytes]":
        """Yield each string of an array of strings."""
        for item in self.each(kind, _ARRAY):
            yield self.string(item)

    def want(self, kind: int, expected: int) -> None:
        """Refuse a value of another kind."""
        if kind != expected:
            raise RefusedError("%s: wrong type" % (self.key or "value"))

    def integer(self, kind: int) -> int:
        """Return the value of an integer member."""
        self.want(kind, _INT)
        return self.number

    def string(self, kind: int) -> bytes:
        """Return the value of a string member that was short enough to keep."""
        self.want(kind, _STRING)
        if self.text is None:
            raise RefusedError("%s: string too long" % (self.key or "value"), "TOO_LARGE")
        return self.text

    def position(self) -> int:
        """Tell how far the text has been read."""
        return self._base + self._at

    def _byte(self) -> int:
        if self._at >= self._filled:
            self._base += self._filled
            self._at = 0
            self._filled = read_full(self._source, memoryview(self._buffer))
            if self._base + self._filled > self._limit:
                raise RefusedError("more than %d bytes" % self._limit, "TOO_LARGE")
            if not self._filled:
                return -1
        self._at += 1
        return self._buffer[self._at - 1]

    def _blank(self) -> int:
        c = self._byte()
        while c == 0x20 or c == 0x0A or c == 0x0D or c == 0x09:
            c = self._byte()
        return c

    def _name(self, names: list, c: int) -> int:
        if c != _STRING:
            raise RefusedError("member name missing at %d" % self.position())
        self._string(_MAX_KEY)
        if self.text is None:
            raise RefusedError("member name too long", "TOO_LARGE")
        name = str(self.text, "utf-8")
        if name in names:
            raise RefusedError("member twice: %s" % name)
        if len(names) >= _MAX_MEMBERS:
            raise RefusedError("more than %d members" % _MAX_MEMBERS, "TOO_LARGE")
        names.append(name)
        if self._blank() != _COLON:
            raise RefusedError("colon missing at %d" % self.position())
        self.key = name
        return self._blank()

    def _value(self, c: int) -> int:
        if c == _STRING:
            self._string(self._keep)
            return c
        if c == _OBJECT or c == _ARRAY:
            self._brackets -= 1
            if self._brackets < 0 or len(self._stack) >= _MAX_DEPTH:
                raise RefusedError("too many or too deep objects and arrays", "TOO_LARGE")
            self._stack.append([] if c == _OBJECT else None)
            self._first = True
            self.start = self._base + self._at - 1
            return c
        if 0x30 <= c <= 0x39:
            return self._integer(c)
        for word in _LITERALS:
            if c == word[0]:
                for expected in word[1:]:
                    if self._byte() != expected:
                        raise RefusedError("unknown word at %d" % self.position())
                return c
        raise RefusedError("no value at %d" % self.position())

    def _integer(self, c: int) -> int:
        # 0 or a number without leading zero; a sign, a fraction or an exponent ends as
        # "comma missing" or "no value": only whole numbers exist here (T7).
        value = c - 0x30
        digits = 1
        while True:
            c = self._byte()
            if not 0x30 <= c <= 0x39:
                break
            if digits >= _MAX_DIGITS or value == 0:
                raise RefusedError("number at %d" % self.position())
            value = value * 10 + c - 0x30
            digits += 1
        if c >= 0:
            self._at -= 1
        self.number = value
        return _INT

    def _string(self, keep: int) -> None:
        out = bytearray()
        start = self._base + self._at
        room = keep
        while True:
            at = self._at
            if at < self._filled and self._buffer[at] in _PLAIN:
                # Nearly all of a package is base64: one native call finds the end of a run.
                end = self._buffer.find(b'"', at, self._filled)
                run = bytes(memoryview(self._buffer)[at : end if end >= 0 else self._filled])
                run = run[: len(run) - len(run.lstrip(_PLAIN))]
                self._at = at + len(run)
            else:
                c = self._byte()
                if c == _STRING:
                    break
                run = self._character(c)
            room -= len(run)
            if room >= 0:
                out.extend(run)
            elif out:
                out = bytearray()
        self.start = start
        self.end = self._base + self._at - 1
        self.text = bytes(out) if room >= 0 else None

    def _character(self, c: int) -> bytes:
        if c < 0x20:
            raise RefusedError("control character or end in a string at %d" % self.position())
        if c == _BACKSLASH:
            return self._escape(self._byte())
        if c < 0x80:
            return bytes((c,))
        # RFC 3629: no overlong form, no surrogate, nothing above U+10FFFF.
        low = 0xA0 if c == 0xE0 else 0x90 if c == 0xF0 else 0x80
        high = 0x9F if c == 0xED else 0x8F if c == 0xF4 else 0xBF
        more = 1 if 0xC2 <= c <= 0xDF else 2 if 0xE0 <= c <= 0xEF else 3
        if not 0xC2 <= c <= 0xF4:
            raise RefusedError("bad UTF-8 at %d" % self.position())
        out = bytearray((c,))
        while more:
            c = self._byte()
            if not low <= c <= high:
                raise RefusedError("bad UTF-8 at %d" % self.position())
            out.append(c)
            low = 0x80
            high = 0xBF
            more -= 1
        return bytes(out)

    def _escape(self, c: int) -> bytes:
        if c == 0x75:
            code = 0
            for _ in range(4):
                # What is no digit gives -1, and a negative code is refused below.
                code = code << 4 | _HEX.find(bytes((self._byte() & 0xFF,)).lower())
            if code < 0x20 or 0xD800 <= code <= 0xDFFF:
                raise RefusedError("forbidden character at %d" % self.position())
            return chr(code).encode()
        for i in range(0, len(_ESCAPES), 2):
            if _ESCAPES[i] == c:
                return _ESCAPES[i + 1 : i + 2]
        raise RefusedError("unknown escape at %d" % self.position())

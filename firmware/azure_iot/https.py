"""One small HTTP(S) client for everything the device fetches or uploads.

Responsible for: requests over verified TLS (or plain HTTP, for packages that carry their own
signature), chunked bodies, limited redirects under the same verification, time limits, caps,
Range downloads. Not for: whom to trust (the context passed in), what the body means.
Source: RFC 9112, RFC 9110 sections 5.6.2 (names of headers), 14 (ranges), 15.4 (redirects).

    await Fetcher().fetch("https://host/path", sink, 32768, context=context)

A body without a length is refused: over TLS a cut connection looks like its end.
"""

import asyncio

from micropython import const

from .deadlines import Deadlines
from .errors import ConnectionDroppedError, ProtocolError, ServiceError
from .transport import open_tcp, open_tls

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from .transport import Transport

_MAX_HEAD = const(4096)
_BUFFER = const(512)
_HEAD = const(1024)  # room for an answer's head beside a range
_LEAST = const(256)
_NO_RANGE = (
    "the server knows no Range requests, and whole answers do not fit this build's TLS buffers: "
    "serve the file by http:// or another channel"
)


class Answer:
    """What a server answered: `status`, `headers` (names in lower case), `size` of the body."""

    def __init__(self, status: int, headers: dict) -> None:
        self.status = status
        self.headers = headers
        self.size = 0

    def __repr__(self) -> str:
        return "<Answer %d, %d bytes>" % (self.status, self.size)


class BytesSink:
    """Collects a small body; `data` is a bytearray."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: memoryview) -> int:
        """Append `data`."""
        self.data.extend(data)
        return len(data)


class Fetcher:
    """Makes requests, one connection each.

    `check(url)` is called with each address before anything connects, those of redirects too; it
    raises for one that this device must not reach.
    """

    def __init__(
        self, deadlines: "Deadlines | None" = None, check: "Callable | None" = None
    ) -> None:
        self.deadlines = deadlines or Deadlines()
        self._check = check

    async def fetch(
        self,
        url: str,
        sink: object,
        limit: int,
        *,
        redirects: int = 0,
        chunked: bool = False,
        context: "object | None" = None,
    ) -> Answer:
        """GET `url` into `sink.write(memoryview)`, at most `limit` bytes.

        From a server whose TLS records would not fit this build's buffers it asks for 2,048 bytes
        at a time. Raises ServiceError (status), ProtocolError (rule "LIMIT", "RANGE", "HTTP";
        "NO_RANGE": the server knows no ranges), and the connection's errors.
        """
        at = 0
        total = 1
        tag = ""
        while at < total:
            answer = await self.request(
                "GET", url, sink, limit, redirects=redirects, chunked=chunked, context=context,
                span=(at, tag),
            )  # fmt: skip
            if not at and answer.status == 200:
                return answer
            if answer.status != 206:
                text = "the server answered %d" % answer.status
                raise ServiceError(text, answer.status)
            first, total = _content_range(answer.headers.get("content-range", ""))
            if first != at or answer.size < max(1, min(_LEAST, total - at)) or total > limit:
                raise ProtocolError("the server sent another range than asked for", "RANGE")
            tag = answer.headers.get("etag", "")
            if not tag or tag.startswith("W/"):
                raise ProtocolError("a Range download needs a strong ETag", "NO_RANGE")
            at += answer.size
        answer.size = at
        return answer

    async def request(
        self,
        method: str,
        url: str,
        sink: "object | None" = None,
        limit: int = 4096,
        *,
        headers: "list | tuple" = (),
        body: "bytes | object | None" = None,
        redirects: int = 0,
        chunked: bool = False,
        context: "object | None" = None,
        span: "tuple | None" = None,
    ) -> Answer:
        """Make one request; return the answer whatever its status, the body of a 2xx in `sink`.

        `body` is bytes, or a source with `size` and `readinto(memoryview)`. An `https://` address
        needs a verifying `context`. `span`: (offset, entity tag) of a range to ask for, if this
        server and these buffers need ranges.

        A redirect keeps the scheme, and leaves `headers` behind when it leads to another host or
        port. 303, and 301 or 302 of a POST, are followed by a GET without the body (HEAD stays
        HEAD), all others by the same method and body; a source cannot be read twice, so the
        redirect itself is the answer then.
        """
        while True:
            if self._check is not None:
                self._check(url)
            secure, host, port, path = split_url(url)
            if secure:
                if context is None:
                    raise ProtocolError("https needs a verifying context", "HTTP")
                link = await open_tls(host, port, context, deadlines=self.deadlines)
            else:
                link = await open_tcp(host, port, deadlines=self.deadlines)
            try:
                link.read_ms = self.deadlines.read_ms
                # Now the handshake has shown whether the server keeps to small records.
                part = _part(context, host) if secure and span is not None else 0
                asked, most = headers, limit
                if part:
                    asked = [("Range", "bytes=%d-%d" % (span[0], span[0] + part - 1))]
                    if span[1]:
                        asked.append(("If-Match", span[1]))
                    most = min(limit, part)
                size = body.size if hasattr(body, "size") else len(body or b"")
                ms = self.deadlines.answer_ms * (1 + (most + size >> 14))
                place = method, path, _host(host, port, secure)
                # A task of its own: a peer that moves a byte now and then meets no other limit.
                work = _exchange(link, place, asked, body, size, (sink, most, chunked, part))
                answer = await asyncio.wait_for_ms(work, ms)
            except asyncio.TimeoutError:
                raise ConnectionDroppedError("%s gave no whole answer within %d ms" % (host, ms))
            except ProtocolError as error:
                if not part or error.rule != "RECORD_SIZE":
                    raise
                raise ProtocolError(_NO_RANGE, "NO_RANGE", error)  # it sent the whole
            finally:
                await link.close()
            again = redirects and _redirected(answer, (secure, host, port), method, headers, body)
            if not again:
                return answer
            redirects -= 1
            url, method, headers, body = again


def is_token(name: str) -> bool:
    """Tell whether a header can have this name: visible ASCII without delimiters."""
    for letter in name:
        if not "!" <= letter <= "~" or letter in '"(),/:;<=>?@[\\]{}':
            return False
    return name != ""


def _part(context: object, host: str) -> int:
    """Give the size of ranges to ask `host` for, 0 if it may send all at once."""
    plan = context.profile.plan(host)  # type: ignore[attr-defined]
    # The head of the answer may share a record with the range.
    return plan.range_bytes and min(plan.range_bytes, max(plan.in_limit - _HEAD, _LEAST))


def split_url(url: str) -> tuple:
    """Split into (secure, host, port, path). Raises ProtocolError for anything but http(s)."""
    scheme, mark, rest = url.partition("://")
    if not mark or scheme not in ("http", "https"):
        raise ProtocolError("only http:// and https:// addresses can be fetched", "HTTP")
    host, _, path = rest.partition("/")
    host, colon, port = host.partition(":")
    for letter in url:
        if letter <= " " or letter > "~":
            raise ProtocolError("the address has a character that no URL has", "HTTP")
    if not host or "@" in host or colon and not port.isdigit():
        raise ProtocolError("the address has no usable host", "HTTP")
    secure = scheme == "https"
    return secure, host, int(port) if port else (443 if secure else 80), "/" + path


def _redirected(
    answer: Answer, place: tuple, method: str, headers: "list | tuple", body: object
) -> "tuple | None":
    """Give (url, method, headers, body) of the request that follows; None: it is the answer."""
    status = answer.status
    target = answer.headers.get("location")
    if status not in (301, 302, 303, 307, 308) or not target:
        return None
    if status == 303 or status < 303 and method == "POST":
        body = None
        if method != "HEAD":
            method = "GET"
        headers = [pair for pair in headers if not pair[0].lower().startswith("content-")]
    elif hasattr(body, "readinto"):
        return None
    url = _follow(target, *place)
    return url, method, headers if split_url(url)[:3] == place else (), body


def _follow(target: str, secure: bool, host: str, port: int) -> str:
    scheme = "https:" if secure else "http:"
    if target.startswith("//"):
        return scheme + target
    if target.startswith("/"):
        return "%s//%s:%d%s" % (scheme, host, port, target)
    if not target.startswith(scheme + "//"):
        what = "another scheme" if "://" in target else "a relative path"
        raise ProtocolError("the server redirects to %s: give that address" % what, "HTTP")
    return target


def _host(host: str, port: int, secure: bool) -> str:
    return host if port == (443 if secure else 80) else "%s:%d" % (host, port)


async def _exchange(
    link: "Transport", place: tuple, headers: "list | tuple", body: object, size: int, how: tuple
) -> Answer:
    """Send a request and read its answer; `how` is for the reader."""
    method, path, host = place
    lines = ["%s %s HTTP/1.1" % (method, path), "Host: " + host]
    if headers or body is not None or method != "GET":
        # A bare GET carries nothing but Host: that is what recovery promises (G2).
        lines.append("Connection: close")
    for name, value in headers:
        if not is_token(name) or "\r" in value or "\n" in value:
            raise ProtocolError(
                "a header's name is no token, or its value has a line break", "HTTP"
            )
        lines.append("%s: %s" % (name, value))
    if body is not None or method != "GET":
        lines.append("Content-Length: %d" % size)
    lines.append("\r\n")
    await link.write("\r\n".join(lines).encode())
    if size and not hasattr(body, "readinto"):
        await link.write(memoryview(body))
        size = 0
    buffer = memoryview(bytearray(_BUFFER)) if size else b""
    while size:
        n = body.readinto(buffer[: min(_BUFFER, size)])
        if not n:
            raise ProtocolError("the source ended %d bytes early" % size, "HTTP")
        await link.write(buffer[:n])
        size -= n
    lines = buffer = None
    return await _Reader(link).answer(*how)


class _Reader:
    """Reads one answer through one small buffer."""

    def __init__(self, link: "Transport") -> None:
        self._link = link
        self._buffer = memoryview(bytearray(_BUFFER))
        self._at = 0
        self._end = 0

    async def _fill(self) -> None:
        self._at = 0
        self._end = await self._link.read_into(self._buffer)
        if not self._end:
            raise ConnectionDroppedError("the server closed the connection in its answer")

    async def _line(self, left: int) -> bytes:
        line = bytearray()
        while True:
            if self._at == self._end:
                await self._fill()
            byte = self._buffer[self._at]
            self._at += 1
            if byte == 10:
                return bytes(line[:-1] if line.endswith(b"\r") else line)
            line.append(byte)
            if len(line) > left:
                raise ProtocolError("the head of the answer is too long", "LIMIT")

    async def answer(self, sink: object, limit: int, chunked: bool, part: object) -> Answer:
        """Read head and body; `part`: a range was asked for."""
        answer = await self._head()
        while 100 <= answer.status < 200:
            answer = await self._head()
        if part and answer.status == 200:
            raise ProtocolError(_NO_RANGE, "NO_RANGE")
        wanted = 200 <= answer.status < 300
        coding = answer.headers.get("transfer-encoding")
        if answer.status == 204 or not wanted and sink is None:
            return answer
        if coding is not None:
            if coding.lower() != "chunked" or not chunked:
                raise ProtocolError("the answer's transfer coding is not accepted here", "HTTP")
            answer.size = await self._chunks(sink if wanted else None, limit)
            return answer
        length = answer.headers.get("content-length", "")
        if not wanted:
            return answer
        if not length.isdigit():
            raise ProtocolError("the answer has no length, its end could not be told", "HTTP")
        if int(length) > limit:
            raise ProtocolError("the answer has %s bytes, more than %d" % (length, limit), "LIMIT")
        answer.size = int(length)
        await self._body(sink, answer.size)
        return answer

    async def _head(self) -> Answer:
        line = await self._line(_MAX_HEAD)
        if not line.startswith(b"HTTP/1.") or not line[9:12].isdigit():
            raise ProtocolError("the answer is not HTTP", "HTTP")
        answer = Answer(int(line[9:12]), {})
        left = _MAX_HEAD - len(line)
        while True:
            line = await self._line(left)
            if not line:
                return answer
            left -= len(line) + 2
            try:
                name, colon, value = line.decode().partition(":")
            except UnicodeError:
                raise ProtocolError("a header of the answer is not text", "HTTP")
            name = name.lower()
            if not colon or name in answer.headers and name == "content-length":
                raise ProtocolError("the head of the answer is broken", "HTTP")
            answer.headers[name] = value.strip()

    async def _body(self, sink: object, left: int) -> None:
        while left:
            if self._at == self._end:
                await self._fill()
            n = min(left, self._end - self._at)
            if sink is not None:
                sink.write(self._buffer[self._at : self._at + n])
            self._at += n
            left -= n

    async def _chunks(self, sink: object, limit: int) -> int:
        total = 0
        while True:
            text = (await self._line(64)).split(b";")[0].strip()
            for byte in text:
                if byte not in b"0123456789abcdefABCDEF":
                    text = b""
            if not 1 <= len(text) <= 6:
                raise ProtocolError("a chunk has a broken length", "HTTP")
            size = int(text, 16)
            total += size
            if total > limit:
                raise ProtocolError("the answer has more than %d bytes" % limit, "LIMIT")
            await self._body(sink, size)
            if not size:
                while await self._line(_MAX_HEAD):
                    pass
                return total
            if await self._line(2):
                raise ProtocolError("a chunk does not end where it said", "HTTP")


def _content_range(text: str) -> "tuple[int, int]":
    """Read `bytes 0-2047/12345` as (0, 12345); (-1, 0) when it is something else."""
    unit, _, rest = text.partition(" ")
    span, _, total = rest.partition("/")
    first = span.partition("-")[0]
    if unit != "bytes" or not first.isdigit() or not total.isdigit():
        return -1, 0
    return int(first), int(total)

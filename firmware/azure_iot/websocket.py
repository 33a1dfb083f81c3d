"""MQTT over WebSocket: the client's framing, and a transport that looks like plain TLS.

Responsible for: the opening handshake, masked frames out, strict frames in, ping and close.
Not for: TLS (transport.py), MQTT (mqtt/). Specification: RFC 6455; no extension is offered.

    transport = await upgrade(tls_transport, "hub.azure-devices.net", random32)

`Frames` is pure: bytes in, payload spans out, so that it is tested without a socket.
"""

import asyncio
import binascii
import hashlib

from micropython import const

from .errors import ConnectionDroppedError, ProtocolError, ServiceError

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from .transport import Transport

PATH = "/$iothub/websocket"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION = const(0)
_TEXT = const(1)
_BINARY = const(2)
_CLOSE = const(8)
_PING = const(9)
_PONG = const(10)
_MAX_CONTROL = const(125)
_MAX_HEAD = const(2048)
_IN = const(2048)
_OUT = const(1024)
_WORD = const(64)


def mask(view: memoryview, key: bytes) -> None:
    """XOR `view` in place with the four bytes of `key`, over and over."""
    size = len(view)
    at = 0
    if size >= _WORD:
        # A big-number XOR handles 64 bytes at a time, some twenty times faster than a loop.
        pattern = int.from_bytes(key * (_WORD // 4), "big")
        while size - at >= _WORD:
            word = int.from_bytes(view[at : at + _WORD], "big") ^ pattern
            view[at : at + _WORD] = word.to_bytes(_WORD, "big")
            at += _WORD
    while at < size:
        view[at] ^= key[at & 3]
        at += 1


def header(opcode: int, size: int, key: bytes) -> bytes:
    """Give the header of one final, masked frame."""
    if size < 126:
        return bytes((0x80 | opcode, 0x80 | size)) + key
    if size < 65536:
        return bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big") + key
    return bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big") + key


def accept_value(nonce: str) -> str:
    """Give what a server must answer to `nonce` (RFC 6455 section 4.2.2)."""
    digest = hashlib.sha1(nonce.encode() + _GUID).digest()  # noqa: S324 (RFC 6455 names it)
    return binascii.b2a_base64(digest).decode()[:-1]


class Frames:
    """Reads a server's frames from a buffer; `control` holds a complete control frame.

    `feed(view)` returns how many bytes it used and how many bytes of payload now lie at the
    beginning of `view[used - count : used]`; call it again with the rest.
    """

    def __init__(self) -> None:
        self.control = None  # (opcode, payload) of a control frame just completed
        self._head = bytearray(10)
        self._have = 0
        self._need = 2
        self._left = 0
        self._opcode = 0
        self._final = True
        self._open = False  # a data message has begun and is not final yet
        self._body = b""

    def feed(self, view: memoryview) -> tuple:
        """Take bytes; return (used, payload bytes at the end of what was used)."""
        used = 0
        while used < len(view):
            if self._need:
                self._head[self._have] = view[used]
                self._have += 1
                used += 1
                if self._have == self._need:
                    self._parse()
                    if not self._need and not self._left:
                        self._finish()
                        if self.control is not None:
                            return used, 0
                continue
            count = min(self._left, len(view) - used)
            self._left -= count
            used += count
            if self._opcode >= _CLOSE:
                self._body += bytes(view[used - count : used])
                if not self._left:
                    self._finish()
                    return used, 0
                continue
            if not self._left:
                self._finish()
            return used, count
        return used, 0

    def _parse(self) -> None:
        head = self._head
        size = head[1] & 0x7F
        if self._have == 2:
            self._check(head[0], head[1])
            self._need = 2 + (2 if size == 126 else 8 if size == 127 else 0)
            if self._need > 2:
                return
        elif self._have == 4:
            size = int.from_bytes(head[2:4], "big")
            if size < 126:
                raise ProtocolError("frame length not minimal", "RFC6455-5.2")
        else:
            size = int.from_bytes(head[2:10], "big")
            if size < 65536 or size >> 31:
                raise ProtocolError("frame length not minimal or absurd", "RFC6455-5.2")
        self._need = 0
        self._left = size

    def _check(self, first: int, second: int) -> None:
        opcode = first & 0x0F
        if first & 0x70:
            raise ProtocolError("a reserved bit without an extension", "RFC6455-5.2")
        if second & 0x80:
            raise ProtocolError("a masked frame from the server", "RFC6455-5.1")
        if opcode >= _CLOSE:
            if opcode > _PONG or not first & 0x80 or second & 0x7F > _MAX_CONTROL:
                raise ProtocolError("a broken control frame", "RFC6455-5.5")
        elif opcode == _CONTINUATION:
            if not self._open:
                raise ProtocolError("a continuation of nothing", "RFC6455-5.4")
        elif opcode != _BINARY:
            raise ProtocolError("MQTT comes in binary frames only", "MQTT-6.0.0-1")
        elif self._open:
            raise ProtocolError("a new message within another", "RFC6455-5.4")
        self._opcode = opcode
        self._final = bool(first & 0x80)
        self._body = b""

    def _finish(self) -> None:
        if self._opcode >= _CLOSE:
            self.control = (self._opcode, self._body)
        else:
            self._open = not self._final
        self._have = 0
        self._need = 2


class WebSocketTransport:
    """A Transport over another one; `tls` and `verdict_facts` are those of the inner one."""

    read_some = None  # frames have to be taken apart: read_into() alone reads

    def __init__(self, inner: "Transport", random32: "Callable") -> None:
        self._inner = inner
        self._random32 = random32
        self._frames = Frames()
        self._in = memoryview(bytearray(_IN))
        self._at = 0
        self._end = 0
        self._out = bytearray(_OUT)  # None while a frame is written
        self._pong = None  # to be sent after it
        self.tls = inner.tls
        self.explain = inner.explain

    @property
    def verdict_facts(self) -> dict:
        """What the TLS handshake showed."""
        return self._inner.verdict_facts

    async def read_into(self, buffer: memoryview) -> int:
        """Read at least one byte of MQTT into `buffer`; 0 is the end."""
        while True:
            if self._at == self._end:
                self._at = 0
                self._end = await self._inner.read_into(self._in)
                if not self._end:
                    return 0
            most = min(self._end, self._at + len(buffer))
            used, count = self._frames.feed(self._in[self._at : most])
            self._at += used
            if count:
                buffer[:count] = self._in[self._at - count : self._at]
                return count
            control = self._frames.control
            if control is not None:
                self._frames.control = None
                if await self._control(control):
                    return 0

    async def _control(self, control: tuple) -> bool:
        opcode, body = control
        if opcode == _PING:
            if self._out is None:  # a frame is on its way, perhaps half of it
                self._pong = body
            else:
                await self._send(_PONG, body)
        elif opcode == _CLOSE:
            if self._out is not None:
                await self._send(_CLOSE, body[:2])
            return True
        return False

    def write_some(self, buffer: "bytes | memoryview") -> None:
        """Leave everything to write(): a frame has to be built."""

    async def write(self, buffer: "bytes | memoryview") -> None:
        """Write all of `buffer` as one binary message per kilobyte."""
        view = memoryview(buffer)
        at = 0
        while at < len(view):
            part = view[at : at + _OUT - 8]
            await self._send(_BINARY, part)
            at += len(part)

    async def _send(self, opcode: int, part: "bytes | memoryview") -> None:
        while self._out is None:  # two writers never interleave within a frame
            await asyncio.sleep_ms(10)
        owned, self._out = self._out, None
        try:
            key = self._random32().to_bytes(4, "big")
            head = header(opcode, len(part), key)
            out = memoryview(owned)[: len(head) + len(part)]
            out[: len(head)] = head
            out[len(head) :] = part
            mask(out[len(head) :], key)
            await self._inner.write(out)
        finally:
            self._out = owned
        pong, self._pong = self._pong, None
        if pong is not None:
            await self._send(_PONG, pong)

    async def close(self) -> None:
        """Close the connection; a farewell frame is tried, not waited for."""
        try:
            write = self._inner.write_some
            write(header(_CLOSE, 2, b"\0\0\0\0") + b"\x03\xe8")
        except (OSError, ValueError):
            self._frames.control = None  # gone already
        await self._inner.close()


async def upgrade(
    inner: "Transport",
    host: str,
    random32: "Callable",
    *,
    client_cert: bool = False,
    path: str = PATH,
) -> WebSocketTransport:
    """Turn a verified TLS connection into MQTT over WebSocket.

    Without a client certificate the hub is told so in the path, as the official SDKs do.
    Raises ServiceError for another status than 101, ProtocolError for a broken answer.
    """
    raw = b"".join([random32().to_bytes(4, "big") for _ in range(4)])
    nonce = binascii.b2a_base64(raw).decode()[:-1]
    if not client_cert:
        path += "?iothub-no-client-cert=true"
    await inner.write(
        (
            "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: mqtt\r\n\r\n" % (path, host, nonce)
        ).encode()
    )
    try:
        head = await asyncio.wait_for_ms(_head(inner), inner.deadlines.answer_ms)
    except asyncio.TimeoutError:
        raise ConnectionDroppedError("no whole answer to the upgrade")
    check_answer(head, nonce)
    return WebSocketTransport(inner, random32)


async def _head(inner: "Transport") -> bytes:
    """Read the answer's head byte by byte: what follows it belongs to the first frame."""
    head = bytearray()
    byte = memoryview(bytearray(1))
    before = inner.read_ms
    inner.read_ms = inner.deadlines.read_ms
    while not head.endswith(b"\r\n\r\n"):
        if not await inner.read_into(byte):
            raise ConnectionDroppedError("the server closed the connection in the upgrade")
        head.append(byte[0])
        if len(head) > _MAX_HEAD:
            raise ProtocolError("the head of the answer is too long", "RFC6455-4.1")
    inner.read_ms = before
    return bytes(head)


def check_answer(head: bytes, nonce: str) -> None:
    """Check the server's answer (RFC 6455 section 4.1)."""
    try:
        lines = head.decode().split("\r\n")
    except UnicodeError:
        raise ProtocolError("the answer to the upgrade is not HTTP", "RFC6455-4.1")
    status = lines[0].split(" ")
    if not lines[0].startswith("HTTP/1.1 ") or not status[1].isdigit():
        raise ProtocolError("the answer to the upgrade is not HTTP", "RFC6455-4.1")
    if status[1] != "101":
        raise ServiceError("the server refused the upgrade: %s" % status[1], int(status[1]))
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if (
        headers.get("upgrade", "").lower() != "websocket"
        or "upgrade" not in headers.get("connection", "").lower()
        or headers.get("sec-websocket-accept") != accept_value(nonce)
        or headers.get("sec-websocket-protocol") != "mqtt"
        or headers.get("sec-websocket-extensions")
    ):
        raise ProtocolError("the answer to the upgrade breaks RFC 6455", "RFC6455-4.1")

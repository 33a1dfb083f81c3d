"""MQTT 3.1.1 by hand: packets built from their definition, and a client that never helps.

Independent of the emulator's codec and of the device's, so that a shared mistake shows.
"""

from __future__ import annotations

import base64
import hmac
import socket
import ssl
import struct
import time
from typing import Any
from urllib.parse import quote

CONNECT, CONNACK, PUBLISH, PUBACK = 1, 2, 3, 4
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 8, 9, 10, 11
PINGREQ, PINGRESP, DISCONNECT = 12, 13, 14


def exactly(conn: socket.socket, size: int) -> bytes:
    """Read so many bytes; ConnectionError when the peer leaves before."""
    data = b""
    while len(data) < size:
        part = conn.recv(size - len(data))
        if not part:
            raise ConnectionError("the peer left")
        data += part
    return data


def field(data: bytes | str) -> bytes:
    """A length-prefixed field."""
    raw = data.encode() if isinstance(data, str) else data
    return struct.pack("!H", len(raw)) + raw


def packet(first: int, body: bytes = b"") -> bytes:
    """A packet from its first byte and body."""
    length, size = bytearray(), len(body)
    while True:
        size, digit = divmod(size, 128)
        length.append(digit | (128 if size else 0))
        if not size:
            return bytes([first]) + bytes(length) + body


def connect(
    client_id: str | bytes,
    username: str | bytes | None = None,
    password: str | bytes | None = None,
    *,
    clean: bool = True,
    keep_alive: int = 60,
    will: tuple[str | bytes, bytes] | None = None,
    will_qos: int = 0,
    will_retain: bool = False,
    name: bytes = b"MQTT",
    level: int = 4,
    flags: int | None = None,
    tail: bytes = b"",
) -> bytes:
    """A CONNECT; `flags` replaces the computed ones."""
    computed = 2 * clean
    payload = field(client_id)
    if will is not None:
        computed |= 4 | will_qos << 3 | 32 * will_retain
        payload += field(will[0]) + field(will[1])
    if username is not None:
        computed |= 128
        payload += field(username)
    if password is not None:
        computed |= 64
        payload += field(password)
    used = computed if flags is None else flags
    head = field(name) + struct.pack("!BBH", level, used, keep_alive)
    return packet(0x10, head + payload + tail)


def publish(
    topic: str | bytes, payload: bytes = b"", qos: int = 0, pid: int | None = None,
    dup: bool = False, retain: bool = False,
) -> bytes:  # fmt: skip
    """A PUBLISH."""
    body = field(topic) + (struct.pack("!H", pid) if pid is not None else b"") + payload
    return packet(0x30 | 8 * dup | qos << 1 | retain, body)


def subscribe(pid: int, *filters: tuple[str | bytes, int], first: int = 0x82) -> bytes:
    """A SUBSCRIBE."""
    return packet(
        first, struct.pack("!H", pid) + b"".join(field(f) + bytes([q]) for f, q in filters)
    )


def unsubscribe(pid: int, *filters: str | bytes, first: int = 0xA2) -> bytes:
    """An UNSUBSCRIBE."""
    return packet(first, struct.pack("!H", pid) + b"".join(field(f) for f in filters))


def puback(pid: int) -> bytes:
    """A PUBACK."""
    return packet(0x40, struct.pack("!H", pid))


def token(resource: str, key: str, ttl: float = 3600, policy: str | None = None) -> str:
    """A shared access signature."""
    sr, expiry = quote(resource, safe=""), int(time.time() + ttl)
    mac = hmac.digest(base64.b64decode(key), f"{sr}\n{expiry}".encode(), "sha256")
    text = f"SharedAccessSignature sr={sr}&sig={quote(base64.b64encode(mac), safe='')}&se={expiry}"
    return text + (f"&skn={policy}" if policy else "")


def credentials(
    host: str, identity: str, key: str, ttl: float = 3600, query: str = "api-version=2021-04-12"
) -> dict[str, Any]:
    """User name and password of a device (`d`) or module (`d/m`)."""
    resource = f"{host}/devices/" + identity.replace("/", "/modules/")
    return {"username": f"{host}/{identity}/?{query}", "password": token(resource, key, ttl)}


class Closed(Exception):
    """The server has closed the connection."""


class Wire:
    """A socket that sends bytes and takes packets apart."""

    def __init__(self, sock: socket.socket, limit: float = 10.0) -> None:
        self.sock = sock
        self.sock.settimeout(limit)
        self.buffer = b""

    @classmethod
    def plain(cls, port: int) -> Wire:
        """Over plain TCP."""
        return cls(socket.create_connection(("127.0.0.1", port), 10))

    @classmethod
    def tls(
        cls, port: int, context: ssl.SSLContext, name: str | None = "localhost", **how: Any
    ) -> Wire:
        """Over TLS."""
        raw = socket.create_connection(("127.0.0.1", port), 10)
        try:
            return cls(context.wrap_socket(raw, server_hostname=name, **how))
        except BaseException:
            raw.close()
            raise

    def send(self, *packets: bytes) -> Wire:
        """Send bytes."""
        self.sock.sendall(b"".join(packets))
        return self

    def take(self) -> tuple[int, bytes]:
        """Return the next packet as (first byte, body); raise Closed."""
        while True:
            found = self._parse()
            if found is not None:
                return found
            try:
                data = self.sock.recv(65_536)
            except (ConnectionError, ssl.SSLError) as error:
                raise Closed(str(error)) from None
            if not data:
                raise Closed("end of stream")
            self.buffer += data

    def _parse(self) -> tuple[int, bytes] | None:
        length = shift = 0
        for at in range(1, min(5, len(self.buffer))):
            length |= (self.buffer[at] & 127) << shift
            shift += 7
            if self.buffer[at] < 128:
                end = at + 1 + length
                if len(self.buffer) < end:
                    return None
                found = self.buffer[0], self.buffer[at + 1 : end]
                self.buffer = self.buffer[end:]
                return found
        return None

    def expect(self, kind: int) -> tuple[int, bytes]:
        """Return the next packet, which must be of this kind."""
        first, body = self.take()
        assert first >> 4 == kind, f"packet {first:#04x} {body!r} instead of kind {kind}"
        return first, body

    def delivery(self) -> tuple[str, bytes, int, int]:
        """Return the next PUBLISH as (topic, payload, packet id, first byte)."""
        first, body = self.expect(PUBLISH)
        size = body[0] << 8 | body[1]
        topic, rest = body[2 : 2 + size].decode(), body[2 + size :]
        if first & 6:
            return topic, rest[2:], rest[0] << 8 | rest[1], first
        return topic, rest, 0, first

    def closed(self, limit: float = 5.0) -> list[tuple[int, bytes]]:
        """Wait until the server closes; return what it sent before. Raise TimeoutError."""
        self.sock.settimeout(limit)
        before = []
        try:
            while True:
                before.append(self.take())
        except Closed:
            return before

    def quiet(self, seconds: float = 0.3) -> None:
        """Nothing arrives and nothing closes for a while."""
        self.sock.settimeout(seconds)
        try:
            found = self.take()
        except TimeoutError:
            self.sock.settimeout(10)
            return
        raise AssertionError(f"unexpected packet {found!r}")

    def ping(self) -> None:
        """The server still answers."""
        self.send(packet(0xC0))
        self.expect(PINGRESP)

    def close(self) -> None:
        """Close without DISCONNECT."""
        self.sock.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

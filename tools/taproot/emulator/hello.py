"""Reads a TLS ClientHello before OpenSSL does, so that the server can choose by it.

Responsible for: collecting the handshake message from its records, versions, cipher suites,
server name, the max_fragment_length asked for, signature algorithms, whether a session is
offered. Pure. Not for: answering (`tls.py`). RFC 5246 §7.4.1.2, RFC 8446 §4.1.2, RFC 6066.
"""

from __future__ import annotations

from dataclasses import dataclass, field

HANDSHAKE, CLIENT_HELLO = 22, 1
LIMIT = 65_536
MFL = {1: 512, 2: 1024, 3: 2048, 4: 4096}
_SERVER_NAME, _MAX_FRAGMENT, _SIGNATURES, _TICKET = 0, 1, 13, 35
_PRE_SHARED_KEY, _VERSIONS = 41, 43
NAMES = {0x0300: "SSLv3", 0x0301: "TLSv1", 0x0302: "TLSv1.1", 0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}


class NotTLS(Exception):
    """The bytes are no ClientHello."""


@dataclass
class ClientHello:
    """What a client offers."""

    version: int
    suites: list[int] = field(default_factory=list)
    server_name: str | None = None
    mfl: int | None = None  # bytes, not the code
    mfl_code: int | None = None
    signatures: list[int] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    offers_session: bool = False

    def has_rsa(self, tls13: bool = False) -> bool:
        """True when the client could use an RSA certificate; `tls13`: the server speaks it too."""
        if any(suite in RSA_SUITES for suite in self.suites):
            return True
        tls13 = tls13 and 0x0304 in self.versions
        return tls13 and any(s in RSA_SIGNATURES for s in self.signatures)


# Suites whose server certificate holds an RSA key: ECDHE-RSA, DHE-RSA and RSA key exchange.
RSA_SUITES = frozenset(
    int(code, 16)
    for code in (
        "C02F C030 C027 C028 C013 C014 C011 C012 CCA8 CCAA 9C 9D 9E 9F 2F 35 33 39 3C 3D 67 6B "
        "0A 16 05"
    ).split()
)
RSA_SIGNATURES = frozenset([0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806])


class Collector:
    """Takes bytes until the whole ClientHello is there. `seen` keeps them for OpenSSL."""

    def __init__(self) -> None:
        self.seen = bytearray()

    def feed(self, data: bytes) -> ClientHello | None:
        """Add bytes; return the ClientHello when it is complete; raise NotTLS."""
        self.seen += data
        message = bytearray()
        at = 0
        while True:
            if len(self.seen) < at + 5:
                if self.seen and self.seen[0] != HANDSHAKE:
                    raise NotTLS("the first byte is not that of a TLS handshake record")
                return None
            if self.seen[at] != HANDSHAKE or self.seen[at + 1] != 3:
                raise NotTLS("the first record is not a TLS handshake record")
            end = at + 5 + int.from_bytes(self.seen[at + 3 : at + 5], "big")
            if end == at + 5 or end > LIMIT:
                raise NotTLS("a handshake record of impossible length")
            if len(self.seen) < end:
                return None
            message += self.seen[at + 5 : end]
            at = end
            if len(message) >= 4:
                if message[0] != CLIENT_HELLO:
                    raise NotTLS("the first handshake message is not a ClientHello")
                length = int.from_bytes(message[1:4], "big")
                if length > LIMIT:
                    raise NotTLS("a ClientHello of impossible length")
                if len(message) >= 4 + length:
                    return parse(bytes(message[4 : 4 + length]))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        found = self.data[self.at : self.at + count]
        if len(found) < count:
            raise NotTLS("the ClientHello ends too early")
        self.at += count
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        return self.take(self.number(size))

    @property
    def more(self) -> bool:
        return self.at < len(self.data)


def parse(body: bytes) -> ClientHello:
    """Parse the body of a ClientHello."""
    reader = _Reader(body)
    hello = ClientHello(reader.number(2))
    reader.take(32)
    session_id = reader.vector(1)
    hello.suites = _numbers(reader.vector(2))
    reader.vector(1)
    extensions = _Reader(reader.vector(2)) if reader.more else _Reader(b"")
    while extensions.more:
        kind = extensions.number(2)
        _extension(hello, kind, extensions.vector(2))
    if not hello.versions:
        hello.versions = [hello.version]
        # TLS 1.2: a session id means a session; in TLS 1.3 it is only there for middleboxes
        hello.offers_session = hello.offers_session or bool(session_id)
    return hello


def _extension(hello: ClientHello, kind: int, data: bytes) -> None:
    if kind == _SERVER_NAME and data:
        names = _Reader(data[2:])
        while names.more:
            kind_of_name = names.number(1)
            name = names.vector(2)
            if kind_of_name == 0:
                hello.server_name = name.decode("ascii", "replace")
    elif kind == _MAX_FRAGMENT and len(data) == 1:
        hello.mfl_code, hello.mfl = data[0], MFL.get(data[0])
    elif kind == _SIGNATURES:
        hello.signatures = _numbers(data[2:])
    elif kind == _VERSIONS and data:
        hello.versions = _numbers(data[1:])
    elif kind == _PRE_SHARED_KEY or (kind == _TICKET and data):
        hello.offers_session = True


def _numbers(data: bytes) -> list[int]:
    return [data[i] << 8 | data[i + 1] for i in range(0, len(data) - 1, 2)]

"""One question to a TLS server: a ClientHello of our own making and the server's first flight.

Responsible for: ClientHellos of TLS 1.0 to 1.3 with exactly the suites and extensions asked for,
and reading what comes back in the clear: ServerHello, and up to TLS 1.2 Certificate,
CertificateRequest, alerts, record sizes. Not for: verifying (chain.py), complete handshakes
(resumption.py). RFC 5246 section 7.4, RFC 6066, RFC 8422, RFC 8446 section 4.1. Nothing is sent but
the hello; nothing received is trusted.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass, field

from taproot.probe.wire import Wire, connected

CHANGE_CIPHER, ALERT, HANDSHAKE = 20, 21, 22
SERVER_HELLO, CERTIFICATE, SERVER_KEY, CERTIFICATE_REQUEST, HELLO_DONE = 2, 11, 12, 13, 14
VERSIONS = {"TLSv1.0": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
NAMES = {value: name for name, value in VERSIONS.items()}
ALERTS = {
    0: "close_notify", 10: "unexpected_message", 20: "bad_record_mac", 22: "record_overflow",
    40: "handshake_failure", 42: "bad_certificate", 47: "illegal_parameter", 50: "decode_error",
    70: "protocol_version", 71: "insufficient_security", 80: "internal_error",
    109: "missing_extension", 112: "unrecognized_name",
}  # fmt: skip

RSA = {
    0xC02F: "ECDHE-RSA-AES128-GCM-SHA256", 0xC030: "ECDHE-RSA-AES256-GCM-SHA384",
    0xC027: "ECDHE-RSA-AES128-SHA256", 0xC028: "ECDHE-RSA-AES256-SHA384",
}  # fmt: skip
ECDSA = {
    0xC02B: "ECDHE-ECDSA-AES128-GCM-SHA256", 0xC02C: "ECDHE-ECDSA-AES256-GCM-SHA384",
    0xC023: "ECDHE-ECDSA-AES128-SHA256", 0xC024: "ECDHE-ECDSA-AES256-SHA384",
}  # fmt: skip
# Still met, without a known break, but not in the list Azure recommends.
LEGACY = {
    0xCCA8: "ECDHE-RSA-CHACHA20-POLY1305", 0xCCA9: "ECDHE-ECDSA-CHACHA20-POLY1305",
    0x009E: "DHE-RSA-AES128-GCM-SHA256", 0x009F: "DHE-RSA-AES256-GCM-SHA384",
    0xC013: "ECDHE-RSA-AES128-SHA", 0xC014: "ECDHE-RSA-AES256-SHA",
    0xC009: "ECDHE-ECDSA-AES128-SHA", 0xC00A: "ECDHE-ECDSA-AES256-SHA",
}  # fmt: skip
# No forward secrecy, or broken.
WEAK = {
    0x009C: "AES128-GCM-SHA256", 0x009D: "AES256-GCM-SHA384", 0x003C: "AES128-SHA256",
    0x003D: "AES256-SHA256", 0x002F: "AES128-SHA", 0x0035: "AES256-SHA",
    0x000A: "DES-CBC3-SHA", 0xC012: "ECDHE-RSA-DES-CBC3-SHA", 0x0005: "RC4-SHA",
    0xC011: "ECDHE-RSA-RC4-SHA", 0x0004: "RC4-MD5", 0x0034: "ADH-AES128-SHA",
    0x0001: "NULL-MD5", 0x0002: "NULL-SHA",
}  # fmt: skip
SUITES = {**RSA, **ECDSA, **LEGACY, **WEAK}
CLASSES = (
    *((code, "recommended") for code in (*RSA, *ECDSA)),
    *((code, "legacy") for code in LEGACY),
    *((code, "weak") for code in WEAK),
)
TLS13 = [0x1301, 0x1302, 0x1303]
_MAX_FLIGHT = 1 << 20


@dataclass
class Flight:
    """What a server answered to one ClientHello."""

    version: str = ""
    suite: int = 0
    extensions: dict[int, bytes] = field(default_factory=dict)
    session_id: bytes = b""
    random: bytes = b""
    chain: list[bytes] = field(default_factory=list)
    certificate_message: int = 0
    largest_message: int = 0
    wants_certificate: bool = False
    done: bool = False
    alert: str = ""
    note: str = ""
    silent: bool = False  # no answer in time, or no connection: nothing is known
    records: list[tuple[int, int]] = field(default_factory=list)
    sent: int = 0

    @property
    def accepted(self) -> bool:
        """The server went on with the handshake."""
        return bool(self.version) and not self.alert

    @property
    def tls(self) -> bool:
        """Something came back, and it was TLS."""
        return bool(self.records)

    @property
    def mfl(self) -> int:
        """Fragment length acknowledged, 0 for none."""
        value = self.extensions.get(1)
        return 256 << value[0] if value and 1 <= value[0] <= 4 else 0

    @property
    def largest_handshake_record(self) -> int:
        """Largest record of the clear flight."""
        return max([size for kind, size in self.records if kind == HANDSHAKE], default=0)


def client_hello(
    suites: list[int],
    *,
    version: int = 0x0303,
    name: str | None,
    mfl: int = 0,
    ticket: bool = True,
) -> bytes:
    """Return the record with a ClientHello; `mfl` in bytes, `name` None for no SNI."""
    extensions = b""
    if name is not None and not _is_address(name):
        raw = name.encode("idna")
        entry = struct.pack("!BH", 0, len(raw)) + raw
        extensions += _extension(0, struct.pack("!H", len(entry)) + entry)
    if mfl:
        extensions += _extension(1, bytes(((mfl // 256).bit_length() - 1,)))
    extensions += _extension(10, b"\x00\x06\x00\x17\x00\x18\x00\x1d")  # P-256, P-384, X25519
    extensions += _extension(11, b"\x01\x00")
    if version >= 0x0303:
        schemes = struct.pack("!7H", 0x0403, 0x0503, 0x0401, 0x0501, 0x0601, 0x0203, 0x0201)
        if version >= 0x0304:
            schemes = struct.pack("!3H", 0x0804, 0x0805, 0x0806) + schemes  # RSA-PSS
        extensions += _extension(13, struct.pack("!H", len(schemes)) + schemes)
    extensions += _extension(23, b"")  # extended master secret
    if ticket:
        extensions += _extension(35, b"")
    extensions += _extension(0xFF01, b"\x00")
    if version >= 0x0304:
        extensions += _extension(43, struct.pack("!BH", 2, version))
        share = struct.pack("!HH", 0x001D, 32) + os.urandom(32)  # any 32 bytes are an X25519 key
        extensions += _extension(51, struct.pack("!H", len(share)) + share)
        version = 0x0303
    body = struct.pack("!H", version) + os.urandom(32) + b"\x00"
    body += struct.pack("!H", 2 * len(suites)) + b"".join(struct.pack("!H", s) for s in suites)
    body += b"\x01\x00" + struct.pack("!H", len(extensions)) + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return struct.pack("!BHH", HANDSHAKE, min(version, 0x0301), len(message)) + message


def _extension(kind: int, body: bytes) -> bytes:
    return struct.pack("!HH", kind, len(body)) + body


def _is_address(name: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, name)
            return True
        except OSError:
            continue
    return False


def ask(
    address: tuple[str, int], suites: list[int], *, timeout: float = 10, **hello: object
) -> Flight:
    """Send one ClientHello and read the server's first flight."""
    flight = Flight()
    with connected(address, timeout) as wire:
        data = client_hello(suites, **hello)  # type: ignore[arg-type]
        flight.sent = len(data)
        try:
            wire.send(data)
            _read(wire, flight)
        except ConnectionError:
            flight.note = flight.note or "connection reset"
    return flight


def _read(wire: Wire, flight: Flight) -> None:
    messages = bytearray()
    total = 0
    while not flight.done and not flight.alert:
        head = _exactly(wire, 5)
        if head is None:
            flight.note = "connection closed"
            return
        kind, _, size = struct.unpack("!BHH", head)
        if kind not in (CHANGE_CIPHER, ALERT, HANDSHAKE):
            flight.note = "it answered " + repr(head.decode("ascii", "replace"))
            return
        flight.records.append((kind, size))
        body = _exactly(wire, size)
        total += 5 + size
        if body is None or total > _MAX_FLIGHT:
            flight.note = "cut off in the middle of a record"
            return
        if kind == ALERT and size >= 2 and body[0] == 2:
            flight.alert = ALERTS.get(body[1], f"alert {body[1]}")
        elif kind == HANDSHAKE:
            messages += body
            _messages(messages, flight)


def _exactly(wire: Wire, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        part = wire.receive(size - len(data))
        if not part:
            return None
        data += part
    return data


def _messages(buffer: bytearray, flight: Flight) -> None:
    while len(buffer) >= 4:
        size = 4 + int.from_bytes(buffer[1:4], "big")
        if len(buffer) < size:
            return
        kind, body = buffer[0], bytes(buffer[4:size])
        del buffer[:size]
        flight.largest_message = max(flight.largest_message, size)
        try:
            if kind == SERVER_HELLO:
                _server_hello(body, flight)
            elif kind == CERTIFICATE:
                flight.certificate_message = size
                flight.chain = _certificates(body)
        except (IndexError, struct.error):
            flight.note = "malformed message"
            flight.done = True
        flight.wants_certificate |= kind == CERTIFICATE_REQUEST
        flight.done |= kind == HELLO_DONE


def _server_hello(body: bytes, flight: Flight) -> None:
    version = int.from_bytes(body[:2], "big")
    flight.version = NAMES.get(version, f"0x{version:04x}")
    flight.random = body[2:34]
    at = 35 + body[34]
    flight.session_id = body[35:at]
    flight.suite = int.from_bytes(body[at : at + 2], "big")
    at += 3
    if at + 2 > len(body):
        return
    end = at + 2 + int.from_bytes(body[at : at + 2], "big")
    at += 2
    while at + 4 <= end:
        kind, size = struct.unpack_from("!HH", body, at)
        flight.extensions[kind] = body[at + 4 : at + 4 + size]
        at += 4 + size
    if 43 in flight.extensions:  # TLS 1.3: the rest is encrypted
        version = int.from_bytes(flight.extensions[43], "big")
        flight.version, flight.done = NAMES.get(version, f"0x{version:04x}"), True


def _certificates(body: bytes) -> list[bytes]:
    found, at = [], 3
    while at + 3 <= len(body):
        size = int.from_bytes(body[at : at + 3], "big")
        found.append(body[at + 3 : at + 3 + size])
        at += 3 + size
    return found

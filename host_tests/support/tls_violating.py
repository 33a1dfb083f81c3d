"""A TLS 1.2 server that agrees to a fragment length and sends larger records all the same.

No library does that, so it speaks for itself: one suite, no resumption, nothing verified.
RFC 5246, RFC 5288 (AES-GCM), RFC 8422 (ECDHE), RFC 6066 section 4.

    with Violating(leaf, reply=9000) as server: …
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import struct

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support.tls_peer import (
    APPLICATION,
    CHANGE_CIPHER,
    HANDSHAKE,
    MFL_EXTENSION,
    Hello,
    Scripted,
    record,
)
from support.wire import exactly
from taproot.pki import Leaf

_SUITE = 0xC02B  # ECDHE-ECDSA-AES128-GCM-SHA256
_P256 = b"\x03\x00\x17"  # named_curve secp256r1
_ECDSA_SHA256 = b"\x04\x03"


def _prf(secret: bytes, label: bytes, seed: bytes, size: int) -> bytes:
    seed = label + seed
    out, a = b"", seed
    while len(out) < size:
        a = hmac.digest(secret, a, "sha256")
        out += hmac.digest(secret, a + seed, "sha256")
    return out[:size]


def _message(kind: int, body: bytes) -> bytes:
    return struct.pack("!I", kind << 24 | len(body)) + body


def _next(conn: socket.socket) -> tuple[int, bytes]:
    kind, _, size = struct.unpack("!BHH", exactly(conn, 5))
    return kind, exactly(conn, size)


class _Sealed:
    """One direction after ChangeCipherSpec."""

    def __init__(self, key: bytes, salt: bytes) -> None:
        self._aead, self._salt, self._number = AESGCM(key), salt, 0

    def _about(self, kind: int, size: int) -> bytes:
        self._number += 1
        return struct.pack("!QBHH", self._number - 1, kind, 0x0303, size)

    def seal(self, kind: int, body: bytes) -> bytes:
        about = self._about(kind, len(body))
        return record(kind, about[:8] + self._aead.encrypt(self._salt + about[:8], body, about))

    def open(self, kind: int, body: bytes) -> bytes:
        about = self._about(kind, len(body) - 24)
        return self._aead.decrypt(self._salt + body[:8], body[8:], about)


class Violating(Scripted):
    """Agrees to what is asked for; answers the first byte with one record of `reply` bytes."""

    def __init__(self, leaf: Leaf, *, reply: int) -> None:
        super().__init__(self._serve)
        self._leaf, self._reply = leaf, reply

    def _serve(self, conn: socket.socket) -> None:
        _, hello = _next(conn)
        client = Hello(hello, client=True)
        said, sent = hello, b""
        randoms = hello[6:38] + os.urandom(32)
        share = ec.generate_private_key(ec.SECP256R1())
        for body in self._flight(client, randoms, share):
            said += body
            sent += record(HANDSHAKE, body)
        conn.sendall(sent)
        _, exchange = _next(conn)
        said += exchange
        theirs = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), exchange[5:])
        master = _prf(share.exchange(ec.ECDH(), theirs), b"master secret", randoms, 48)
        block = _prf(master, b"key expansion", randoms[32:] + randoms[:32], 40)
        up, down = _Sealed(block[:16], block[32:36]), _Sealed(block[16:32], block[36:])
        _next(conn)  # ChangeCipherSpec
        said += up.open(*_next(conn))
        proof = _prf(master, b"server finished", hashlib.sha256(said).digest(), 12)
        conn.sendall(record(CHANGE_CIPHER, b"\x01") + down.seal(HANDSHAKE, _message(20, proof)))
        while True:
            kind, body = _next(conn)
            if kind == APPLICATION:
                up.open(kind, body)
                conn.sendall(down.seal(APPLICATION, bytes(self._reply)))

    def _flight(
        self, client: Hello, randoms: bytes, share: ec.EllipticCurvePrivateKey
    ) -> list[bytes]:
        agreed = client.extensions.get(MFL_EXTENSION)
        extensions = b"\xff\x01\x00\x01\x00"  # renegotiation_info
        if agreed:
            extensions += struct.pack("!HH", MFL_EXTENSION, 1) + agreed
        hello = b"\x03\x03" + randoms[32:] + b"\x00" + struct.pack("!HB", _SUITE, 0)
        hello += struct.pack("!H", len(extensions)) + extensions
        chain = b"".join(
            len(der).to_bytes(3, "big") + der for der in (one.der for one in self._leaf.chain)
        )
        point = share.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        params = _P256 + bytes((len(point),)) + point
        key = self._leaf.key
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("the leaf needs an EC key")
        signature = key.sign(randoms + params, ec.ECDSA(hashes.SHA256()))
        return [
            _message(2, hello),
            _message(11, len(chain).to_bytes(3, "big") + chain),
            _message(12, params + _ECDSA_SHA256 + struct.pack("!H", len(signature)) + signature),
            _message(14, b""),
        ]

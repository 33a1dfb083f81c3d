"""RSA signature verification: PS256 and RS256 with the built-in three-argument `pow`.

Responsible for: RFC 8017 sections 8.1.2 and 8.2.2 with fixed parameters (R-05, H8), and for the
form of a public key and its name (RFC 7638, R-09). Not for: which key may sign what (jws.py).

`verify` is the whole interface; native.py puts C behind the same call where the firmware has it.
"""

from binascii import b2a_base64
from hashlib import sha256

from micropython import const

from .errors import RefusedError
from .sources import base64url

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from typing import Protocol

    class Verifier(Protocol):
        """Raises BadSignatureError unless the signature is the key's own."""

        def __call__(self, key: "Key", digest: bytes, signature: bytes) -> None: ...


_EXPONENT = const(65537)
_MIN_BYTES = const(256)  # 2,048 bits
_MAX_BYTES = const(512)  # 4,096 bits
_HASH = const(32)  # SHA-256, and the salt of PS256

# DigestInfo of SHA-256 with its NULL (RFC 8017 section 9.2, note 1).
_DIGEST_INFO = b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"


class Key:
    """One public key: `kid` (its RFC 7638 thumbprint), `alg` and the modulus as bytes."""

    def __init__(self, alg: str, n: bytes, e: bytes) -> None:
        if alg != "PS256" and alg != "RS256":
            raise RefusedError("key algorithm not known")
        if e != b"AQAB":
            raise RefusedError("key exponent must be 65537")
        modulus = base64url(n)
        if not _MIN_BYTES <= len(modulus) <= _MAX_BYTES:
            raise RefusedError("key of %d bits" % (len(modulus) * 8))
        if modulus[0] < 0x80 or not modulus[-1] & 1:
            raise RefusedError("key modulus not odd or not a multiple of 8 bits")
        self.alg = alg
        self.modulus = modulus
        self.kid = thumbprint(n)


def thumbprint(n: bytes) -> str:
    """Return the key's name: SHA-256 over `{"e":"AQAB","kty":"RSA","n":"…"}`, base64url."""
    digest = sha256(b'{"e":"AQAB","kty":"RSA","n":"')
    digest.update(n)
    digest.update(b'"}')
    text = b2a_base64(digest.digest())[:43]
    return str(text.replace(b"+", b"-").replace(b"/", b"_"), "utf-8")


def require_form(key: Key, signature: bytes) -> None:
    """Refuse a signature that is no number below the modulus, in as many bytes (RFC 8017, 5.2.2)."""
    size = len(key.modulus)
    if len(signature) != size:
        raise RefusedError(
            "signature of %d bytes, key of %d" % (len(signature), size), "BAD_SIGNATURE"
        )
    # Equal length, so the order of the byte strings is that of the numbers.
    if signature >= key.modulus:
        raise RefusedError("signature not below the modulus", "BAD_SIGNATURE")


def verify(key: Key, digest: bytes, signature: bytes) -> None:
    """Raise BadSignatureError unless `signature` is the key's own over `digest`."""
    require_form(key, signature)
    size = len(key.modulus)
    number = pow(int.from_bytes(signature, "big"), _EXPONENT, int.from_bytes(key.modulus, "big"))
    message = number.to_bytes(size, "big")
    if key.alg == "RS256":
        padding = b"\xff" * (size - 3 - len(_DIGEST_INFO) - _HASH)
        good = message == b"\x00\x01" + padding + b"\x00" + _DIGEST_INFO + digest
    else:
        good = _is_pss(message, digest)
    if not good:
        raise RefusedError("signature does not verify", "BAD_SIGNATURE")


def _is_pss(message: bytes, digest: bytes) -> bool:
    """Check EMSA-PSS with a salt of exactly 32 bytes (RFC 8017 section 9.1.2)."""
    size = len(message)
    if message[-1] != 0xBC or message[0] & 0x80:
        return False
    block = bytearray(message[: size - _HASH - 1])
    stamp = message[size - _HASH - 1 : size - 1]
    at = 0
    counter = 0
    while at < len(block):
        mask = sha256(stamp + counter.to_bytes(4, "big")).digest()
        for byte in mask[: len(block) - at]:
            block[at] ^= byte
            at += 1
        counter += 1
    block[0] &= 0x7F  # the bit above the modulus' last full bit
    zeros = len(block) - _HASH - 1
    if any(block[:zeros]) or block[zeros] != 1:
        return False
    inner = sha256(b"\x00" * 8)
    inner.update(digest)
    inner.update(block[zeros + 1 :])
    return inner.digest() == stamp

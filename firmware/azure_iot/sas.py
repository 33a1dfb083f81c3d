"""SAS tokens of IoT Hub and DPS: what is signed, the token, and when to renew it.

Responsible for: HMAC-SHA256, group key derivation (operator side), the token text, renewal.
Not for: where the key comes from (identity.py), which time it is (clock.py).
Source: Azure documentation "Control access with shared access signatures".

    token = sas.token("myhub.azure-devices.net%2Fdevices%2Fd1", 1900000000, SymmetricKey(...).sign)
"""

import binascii
import hashlib

from micropython import const

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCK = const(64)


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """Compute HMAC-SHA256 (RFC 2104); stock firmware has no `hmac` module."""
    if len(key) > _BLOCK:
        key = hashlib.sha256(key).digest()
    inner = hashlib.sha256(_pad(key, b"\x36"))
    inner.update(message)
    outer = hashlib.sha256(_pad(key, b"\x5c"))
    outer.update(inner.digest())
    return outer.digest()


def _pad(key: bytes, fill: bytes) -> bytearray:
    pad = bytearray(fill * _BLOCK)
    for at in range(len(key)):
        pad[at] ^= key[at]
    return pad


def to_sign(resource: str, expiry: int) -> bytes:
    """Give the bytes to be signed: `{resource}\\n{expiry}`, the resource already encoded."""
    return ("%s\n%d" % (resource, expiry)).encode()


def token(resource: str, expiry: int, sign: "Callable[[bytes], bytes]", policy: str = "") -> str:
    """Make a token for the percent-encoded `resource`, valid until Unix time `expiry`.

    Shape: `SharedAccessSignature sr=h%2Fdevices%2Fd&sig=…%3D&se=1900000000`, with a policy
    `…&skn=registration`. `sign(bytes)` returns the 32 bytes of HMAC-SHA256.
    """
    signature = binascii.b2a_base64(sign(to_sign(resource, expiry)), newline=False).decode()  # type: ignore[call-arg]
    signature = signature.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
    if policy:
        policy = "&skn=" + policy
    return "SharedAccessSignature sr=%s&sig=%s&se=%d%s" % (resource, signature, expiry, policy)


def token_expiry(text: str) -> int:
    """Read `se` from a token made elsewhere; 0 when it has none."""
    for part in text.partition(" ")[2].split("&"):
        name, _, value = part.partition("=")
        if name == "se":
            return int(value) if value.isdigit() else 0
    return 0


def renewal_delay(life: int, random32: int) -> int:
    """When a token of `life` (any unit) is renewed after issue: 70 to 85 % of its life.

    `random32` is a uniform 32-bit number; every device and every token draws its own, so a
    fleet that started together does not renew together.
    """
    return (life * 70 + ((life * 15 * (random32 & 0xFFFF)) >> 16)) // 100


def first_life(life: int, random32: int) -> int:
    """Life of the first token after a start: 30 to 100 % of `life`, at least 2.

    A fleet that lost its power together starts together; renewing at 70 to 85 % of equal lives
    would keep it in step for hours.
    """
    return max(2, (life * 30 + ((life * 70 * (random32 & 0xFFFF)) >> 16)) // 100)


def derive_device_key(group_key: bytes, registration_id: str) -> bytes:
    """Derive a device key from a DPS group key: HMAC-SHA256 over the registration id.

    For the operator's side only: a group key never belongs on a device.
    """
    return hmac_sha256(group_key, registration_id.encode())

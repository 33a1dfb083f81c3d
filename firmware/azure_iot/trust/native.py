"""The signature check in C, where the firmware has the module `tlsopt`; rsa.py everywhere else.

Responsible for: the choice, and giving the C function rsa.verify's manners: form first, one kind
of exception. Not for: what a signature means. Both accept exactly the same signatures; the vectors
hold for both.
"""

from micropython import const

from . import rsa
from .errors import RefusedError

try:
    from tlsopt import verify as _verify
except ImportError:  # stock firmware, or a board without the function
    _verify = None

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .rsa import Key, Verifier

_EXPONENT = b"\x01\x00\x01"  # 65537


def verify(key: "Key", digest: bytes, signature: bytes) -> None:
    """Raise BadSignatureError unless `signature` is the key's own over `digest`."""
    rsa.require_form(key, signature)
    try:
        good = _verify(key.alg, key.modulus, _EXPONENT, digest, signature)
    except OSError as error:
        raise RefusedError("not enough memory to verify a signature", "MEMORY", error)
    if not good:
        raise RefusedError("signature does not verify", "BAD_SIGNATURE")


def verifier() -> "Verifier":
    """Return the verifier of this firmware."""
    return rsa.verify if _verify is None else verify

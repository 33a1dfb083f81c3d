"""The device's own key, as the hub and DPS give it.

Responsible for: reading the key strictly, tokens made with it. Not for: secrets that are kept
elsewhere (external.py), certificates (x509.py), the token's form (sas.py).
Source: Azure documentation "DPS symmetric key attestation".

No object here shows a secret in `repr`, and no error text carries one.
"""

import binascii

from micropython import const

from .errors import CredentialError
from .transient import Transient

_MIN_KEY = const(16)
_MAX_KEY = const(64)


class SymmetricKey:
    """A base64 device key; `sign` is HMAC-SHA256 with it.

    Raises CredentialError when the text is not the base64 of 16 to 64 bytes.
    """

    def __init__(self, key: str) -> None:
        self._key = decode_key(key)

    def sign(self, message: bytes) -> bytes:
        """Sign `message`."""
        with Transient():
            from .sas import hmac_sha256

            return hmac_sha256(self._key, message)

    def key_id(self) -> str:
        """Tell this key from others without showing anything of it."""
        return " %r" % self.sign(b"key id")[:8]

    async def token(self, resource: str, expiry: int, policy: str = "") -> str:
        """Make a token valid until `expiry`."""
        with Transient():
            from .sas import token

            return token(resource, expiry, self.sign, policy)

    def __repr__(self) -> str:
        return "<SymmetricKey of %d bytes>" % len(self._key)


def decode_key(text: str) -> bytes:
    """Decode a base64 key strictly; MicroPython's own decoder skips what it does not know.

    Raises CredentialError.
    """
    try:
        key = binascii.a2b_base64(text)
        canonical = binascii.b2a_base64(key).decode()[:-1] == text
    except (ValueError, UnicodeError, TypeError):
        canonical = False
    if not canonical:
        raise CredentialError(
            "the key is not base64: copy it whole, with the = at its end, and nothing around it"
        )
    if not _MIN_KEY <= len(key) <= _MAX_KEY:
        raise CredentialError(
            "the key has %d bytes, a device key has %d to %d: it was cut or is no device key"
            % (len(key), _MIN_KEY, _MAX_KEY)
        )
    return key

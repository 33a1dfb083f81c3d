"""The device's certificate and private key.

Responsible for: what the TLS context loads (`.cert`, `.key`), dates and common name. Not for:
reading the material and judging it (keymaterial.py, loaded for that), trust in servers (trust/).

    credential = X509Certificate(cert_pem, key_pem)            # chain inside the PEM
    credential = X509Certificate(leaf_der, key_der, intermediates=[issuing_der])
    credential.check(unix_time, "device-1")
"""

from .errors import CredentialError
from .transient import Transient


class X509Certificate:
    """A leaf certificate, its intermediates and its private key.

    `cert` (DER of the leaf, or PEM of leaf and intermediates) and `key` (DER) are what the TLS
    context loads. Raises CredentialError in words for material that cannot work.
    """

    def __init__(
        self, cert: "bytes | str", key: "bytes | str", intermediates: "list | tuple" = ()
    ) -> None:
        with Transient():
            from .keymaterial import read

            self.cert, self.key, about = read(cert, key, intermediates)
        self.common_name, self.not_before, self.not_after = about

    def check(self, now: int, expected_name: str) -> None:
        """Compare dates and common name; raises CredentialError before anything connects."""
        if self.common_name != expected_name:
            raise CredentialError(
                'the certificate is for "%s", the device is "%s": the common name must be the '
                "device id (at DPS: the registration id)" % (self.common_name, expected_name)
            )
        if now > self.not_after:
            raise CredentialError(
                "the device's certificate expired %d days ago: renew it"
                % ((now - self.not_after) // 86400)
            )
        if now < self.not_before:
            raise CredentialError(
                "the device's certificate is valid only in %d s: is the clock right?"
                % (self.not_before - now)
            )

    def __repr__(self) -> str:
        return "<X509Certificate of %s until %d>" % (self.common_name, self.not_after)

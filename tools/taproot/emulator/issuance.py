"""Issues operational certificates from certificate signing requests (preview features).

Responsible for: judging a CSR (base64 DER PKCS #10, common name, key type, self-signature) and
signing a short-lived client certificate under an issuing CA made at start. Used by DPS at
registration and by the hub for renewal. Not for: topics, replies, who may ask.
Documented rules: EC P-384 with SHA-384; validity 7 to 90 days; at most three certificates.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from taproot.pki import Authority


class BadRequest(Exception):
    """The CSR is not acceptable; `.error` is the short name the service would give."""

    def __init__(self, error: str, text: str) -> None:
        super().__init__(text)
        self.error = error


def load_csr(text: object) -> x509.CertificateSigningRequest:
    """Decode a CSR as the preview documents it: base64 of DER, no armour, no line breaks."""
    if not isinstance(text, str) or not text:
        raise BadRequest("MissingCsr", "csr must be a non-empty string")
    try:
        der = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(
            "FailedToDecodeCsr", "Failed to decode CSR: invalid base64 encoding"
        ) from None
    try:
        request = x509.load_der_x509_csr(der)
        sound = request.is_signature_valid
    except (ValueError, InvalidSignature, TypeError):
        raise BadRequest("FailedToDecodeCsr", "Failed to decode CSR: not PKCS #10") from None
    if not sound:
        raise BadRequest("InvalidCsrSignature", "The CSR is not signed by its own key")
    return request


class Issuer:
    """An issuing CA under a root of its own; the hub trusts the root for CA authentication."""

    def __init__(
        self,
        root: Authority | None = None,
        *,
        days: int = 30,
        curves: tuple[str, ...] = ("P-384",),
    ) -> None:
        if not 7 <= days <= 90:
            raise ValueError("validity must be 7 to 90 days")
        self.root = root or Authority.root("Taproot emulator operational root", "p384")
        self.intermediate = self.root.intermediate("Taproot emulator issuing CA", "p384")
        self.days = days
        self.curves = curves

    def issue(self, csr: object, name: str, now: float) -> list[bytes]:
        """Return the chain in DER, leaf first, for a CSR whose common name is `name`."""
        request = load_csr(csr)
        names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if len(names) != 1 or names[0].value != name:
            raise BadRequest("InvalidCommonName", f"The CSR's common name must be '{name}'")
        key = request.public_key()
        curve = {"secp256r1": "P-256", "secp384r1": "P-384"}.get(
            key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else ""
        )
        if curve not in self.curves:
            allowed = " or ".join(self.curves)
            raise BadRequest("UnsupportedKey", f"The CSR's key must be EC {allowed}")
        start = dt.datetime.fromtimestamp(int(now), dt.UTC)
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.intermediate.cert.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start - dt.timedelta(minutes=5))
            .not_valid_after(start + dt.timedelta(days=self.days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
            .sign(self.intermediate.key, hashes.SHA384())
        )
        return [
            leaf.public_bytes(serialization.Encoding.DER),
            self.intermediate.der,
            self.root.der,
        ]

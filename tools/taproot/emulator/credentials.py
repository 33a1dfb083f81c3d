"""Judges what a device or a service presents: SAS tokens and X.509 chains.

Responsible for: parsing and verifying a shared access signature over the `sr` bytes exactly as
sent, deriving a DPS group key, thumbprints, and judging a presented chain against registered
roots. OpenSSL's own verdict is not used: the listener accepts any client certificate and the
hub decides at CONNECT. Not for: looking up keys, CONNACK codes, TLS.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from cryptography import x509
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

PREFIX = "SharedAccessSignature "
MAX_CHAIN = 10


class Refused(Exception):
    """A credential is not accepted; the text says why and never carries key or token."""


@dataclass(frozen=True)
class Token:
    """The fields of a shared access signature; `sr` is kept as it was sent."""

    sr: str
    signature: bytes
    expiry: int
    policy: str | None

    @property
    def resource(self) -> str:
        """The decoded resource the token is for."""
        return unquote(self.sr)

    def covers(self, resource: str) -> bool:
        """Say whether `sr` is `resource` or a prefix of it by whole segments."""
        have = self.resource.strip("/").split("/")
        want = resource.strip("/").split("/")
        if have[0].lower() != want[0].lower():  # a host name: case does not matter
            return False
        return want[1 : len(have)] == have[1:]

    def signed_by(self, key: str) -> bool:
        """Say whether the base64 `key` made this signature."""
        try:
            raw = base64.b64decode(key, validate=True)
        except (binascii.Error, ValueError):
            return False
        text = f"{self.sr}\n{self.expiry}".encode()
        return hmac.compare_digest(hmac.digest(raw, text, "sha256"), self.signature)


def parse_token(text: str) -> Token:
    """Split a token into its fields, in any order; raise Refused when one is missing."""
    if not text.startswith(PREFIX):
        raise Refused("not a shared access signature")
    fields: dict[str, str] = {}
    for part in text[len(PREFIX) :].split("&"):
        name, found, value = part.partition("=")
        if not found or name in fields:
            raise Refused("malformed shared access signature")
        fields[name] = value
    missing = [name for name in ("sr", "sig", "se") if not fields.get(name)]
    if missing:
        raise Refused(f"shared access signature without {', '.join(missing)}")
    try:
        signature = base64.b64decode(unquote(fields["sig"]), validate=True)
    except (binascii.Error, ValueError):
        raise Refused("signature is not base64") from None
    if not (fields["se"].isascii() and fields["se"].isdigit()):
        raise Refused("expiry is not a number of seconds")
    policy = unquote(fields["skn"]) if fields.get("skn") else None
    return Token(fields["sr"], signature, int(fields["se"]), policy)


def check_token(
    text: str, resource: str, keys: Iterable[str], now: float, skew: float = 0.0
) -> Token:
    """Return the token if one of `keys` signed it, it covers `resource` and is not expired."""
    token = parse_token(text)
    if not token.covers(resource):
        raise Refused("token is for another resource")
    if token.expiry + skew <= now:
        raise Refused("token has expired")
    matches = sum(token.signed_by(key) for key in keys)  # every key is tried
    if not matches:
        raise Refused("signature does not match")
    return token


def derive_key(group_key: str, registration_id: str) -> str:
    """Derive a device's key from a DPS group key: base64(HMAC-SHA256(group key, id))."""
    raw = base64.b64decode(group_key, validate=True)
    return base64.b64encode(hmac.digest(raw, registration_id.encode(), "sha256")).decode()


def new_key() -> str:
    """Make a symmetric key as the services do: 32 random bytes, base64."""
    return base64.b64encode(os.urandom(32)).decode()


def check_key(key: str) -> None:
    """Raise ValueError unless `key` is base64 of 16 to 64 bytes."""
    try:
        raw = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a symmetric key is base64") from None
    if not 16 <= len(raw) <= 64:
        raise ValueError("a symmetric key has 16 to 64 bytes")


def thumbprints(der: bytes) -> tuple[str, str]:
    """Return the SHA-1 and SHA-256 thumbprints of a certificate in upper-case hex."""
    return (
        hashlib.sha1(der, usedforsecurity=False).hexdigest().upper(),
        hashlib.sha256(der).hexdigest().upper(),
    )


def normal_thumbprint(text: str) -> str:
    """Return a thumbprint without separators, upper case; raise ValueError if it is none."""
    plain = text.replace(":", "").replace(" ", "").upper()
    if len(plain) not in (40, 64) or not all(c in "0123456789ABCDEF" for c in plain):
        raise ValueError("a thumbprint is 40 (SHA-1) or 64 (SHA-256) hex digits")
    return plain


def common_name(der: bytes) -> str | None:
    """Return the CN of a certificate, or None."""
    try:
        names = x509.load_der_x509_certificate(der).subject
    except ValueError:
        return None
    found = names.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else None


def check_dates(der: bytes, now: float) -> None:
    """Raise Refused when the certificate is not yet or no longer valid."""
    try:
        cert = x509.load_der_x509_certificate(der)
    except ValueError:
        raise Refused("the certificate cannot be read") from None
    moment = dt.datetime.fromtimestamp(now, dt.UTC)
    if moment < cert.not_valid_before_utc:
        raise Refused("the certificate is not yet valid")
    if moment > cert.not_valid_after_utc:
        raise Refused("the certificate has expired")


def check_chain(ders: Sequence[bytes], roots: Sequence[x509.Certificate], now: float) -> None:
    """Raise Refused unless the presented chain leads to one of `roots` at time `now`."""
    if not ders:
        raise Refused("no client certificate")
    if not roots:
        raise Refused("no certificate authority is registered")
    check_dates(ders[0], now)
    authority = ExtensionPolicy.permit_all().require_present(
        x509.BasicConstraints, Criticality.AGNOSTIC, None
    )
    verifier = (
        PolicyBuilder()
        .store(Store(list(roots)))
        .time(dt.datetime.fromtimestamp(now, dt.UTC).replace(tzinfo=None))
        .max_chain_depth(MAX_CHAIN)
        .extension_policies(ee_policy=ExtensionPolicy.permit_all(), ca_policy=authority)
        .build_client_verifier()
    )
    try:
        certs = [x509.load_der_x509_certificate(der) for der in ders]
        verifier.verify(certs[0], certs[1:])
    except (VerificationError, ValueError) as error:
        raise Refused(f"the certificate chain is not trusted: {error}") from None

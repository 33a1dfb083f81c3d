"""Which root carries a presented chain, and who holds that root.

Responsible for: building the path from the leaf through what was presented to a known root
(signatures, names, dates, CA flag), whether the name fits, whether each cloud profile and a given
bundle hold the root. Not for: the device's verdict, which is mbedTLS's own.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from taproot.console import UsageFailed
from taproot.trust import package as packages
from taproot.trust.roots import catalogue, common_name, pem_to_der
from taproot.trust.signing import Envelope

# What cryptography says of certificates that a server made up.
UNREADABLE = (
    ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)  # fmt: skip


@dataclass(frozen=True)
class Known:
    """A root somebody trusts: certificate, where it comes from."""

    name: str
    cert: x509.Certificate
    where: frozenset[str]


def known_roots(bundle: Path | None, extra: tuple[Path, ...]) -> list[Known]:
    """All roots that may carry a chain: every cloud profile, `bundle`, and PEM files."""
    found: dict[bytes, tuple[str, set[str]]] = {}

    def add(der: bytes, name: str, where: str) -> None:
        found.setdefault(der, (name, set()))[1].add(where)

    listed = catalogue()
    for cloud in listed.clouds.values():
        for name in cloud.roots:
            add(listed.roots[name].der, listed.roots[name].title, cloud.id)
    for root in listed.roots.values():
        if root.der:
            add(root.der, root.title, root.state)
    for path in extra:
        for der in _pem_certificates(path):
            add(der, common_name(der), str(path.name))
    if bundle is not None:
        for der in bundle_roots(bundle):
            add(der, common_name(der), "bundle")
    return [
        Known(name, x509.load_der_x509_certificate(der), frozenset(where))
        for der, (name, where) in found.items()
    ]


def bundle_roots(path: Path) -> list[bytes]:
    """The roots of a bundle or package as `taproot trust` builds them, or of a PEM file."""
    data = _bytes(path)
    if b"-----BEGIN CERTIFICATE" in data:
        return _pem_certificates(path)
    try:
        body = json.loads(data)
        if "cloud" in body:  # a list of certs/bundle/
            entries = [catalogue().by_digest(row["sha256"]) for row in body["roots"]]
            return [entry.der for entry in entries if entry is not None]
        package = packages.split(data).bundle if "bundle" in body else Envelope.from_bytes(data)
        return [base64.b64decode(row["der"]) for row in packages.payload_of(package)["roots"]]
    except (ValueError, TypeError, LookupError):
        raise UsageFailed(f"{path}: neither a package, a bundle nor PEM certificates") from None


def _sha256(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageFailed(f"cannot read {path}: {error.strerror}") from None


def _pem_certificates(path: Path) -> list[bytes]:
    data = _bytes(path)
    end = b"-----END CERTIFICATE-----"
    blocks = [block + end for block in data.split(end) if b"-----BEGIN CERTIFICATE" in block]
    if not blocks:
        raise UsageFailed(f"{path}: no PEM certificate in it")
    return [pem_to_der(block[block.index(b"-----BEGIN") :], str(path)) for block in blocks]


def describe(cert: x509.Certificate) -> dict[str, Any]:
    """Facts of one certificate for people and JSON."""
    public = cert.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        kind = f"RSA {public.key_size}"
    elif isinstance(public, ec.EllipticCurvePublicKey):
        kind = f"EC {public.curve.name}"
    else:
        kind = type(public).__name__
    der = cert.public_bytes(Encoding.DER)
    return {
        "subject": cert.subject.rfc4514_string(),
        "issuer": cert.issuer.rfc4514_string(),
        "not_before": int(cert.not_valid_before_utc.timestamp()),
        "not_after": int(cert.not_valid_after_utc.timestamp()),
        "key": kind,
        "der_bytes": len(der),
        "sha256": _sha256(der),
    }


def _signed_by(cert: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        cert.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    try:
        return bool(issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except (x509.ExtensionNotFound, ValueError):
        return False


def anchors(chain: list[x509.Certificate], known: list[Known]) -> list[Known]:
    """Every known root that carries the chain, found through the certificates presented."""
    found: list[Known] = []
    reached, queue = {chain[0]}, [chain[0]]
    while queue:
        cert = queue.pop()
        found += [
            r for r in known if r not in found and (r.cert == cert or _signed_by(cert, r.cert))
        ]
        for above in chain[1:]:
            if above not in reached and _signed_by(cert, above):
                reached.add(above)
                queue.append(above)
    return found


def name_fits(cert: x509.Certificate, name: str) -> bool:
    """RFC 6125: the host name or address is among the subject alternative names."""
    try:
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    try:
        return ipaddress.ip_address(name) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        pass
    wanted = name.lower().rstrip(".")
    for pattern in names.get_values_for_type(x509.DNSName):
        pattern = pattern.lower()
        if pattern == wanted:
            return True
        if pattern.startswith("*.") and wanted.partition(".")[2] == pattern[2:]:
            return True
    return False

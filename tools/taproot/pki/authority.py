"""Authorities and leaves on top of `cryptography`.

One maker for the whole project: a test that needs an odd certificate adds an option here.
Every maker takes `extensions`, a list of (extension, critical), which replaces one of the same
type (a type in place of an extension leaves it out): that is how certificates come to lack
CA:TRUE, carry name constraints and so on.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KINDS = ("rsa1024", "rsa2048", "rsa3072", "rsa4096", "p256", "p384")

Extensions = Sequence[tuple[x509.ExtensionType, bool]]


def new_key(kind: str) -> Any:
    """Make a private key: one of KINDS."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(public_exponent=65537, key_size=int(kind[3:]))
    return ec.generate_private_key({"p256": ec.SECP256R1, "p384": ec.SECP384R1}[kind]())


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc).replace(microsecond=0)


def _hash_for(key: Any, name: str | None) -> hashes.SHA256 | hashes.SHA384:
    if name:
        # SHA-1: see _sign_sha1
        return hashes.SHA384() if name == "sha384" else hashes.SHA256()
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp384r1":
        return hashes.SHA384()
    return hashes.SHA256()


def _name(cn: str, organisation: str | None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, cn)]
    if organisation:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
    return x509.Name(parts)


def _key_usage(**on: bool) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment "
        "key_agreement key_cert_sign crl_sign encipher_only decipher_only"
    ).split()
    return x509.KeyUsage(**{name: on.get(name, False) for name in names})


def _sign(
    subject: x509.Name,
    public_key: Any,
    issuer: x509.Name,
    issuer_key: Any,
    extensions: Extensions,
    replaced: Extensions,
    not_before: dt.datetime | None,
    not_after: dt.datetime | None,
    days: int,
    hash_name: str | None,
) -> x509.Certificate:
    start = not_before or _now() - dt.timedelta(hours=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(not_after or max(start, _now()) + dt.timedelta(days=days))
    )
    taken = {e if isinstance(e, type) else type(e) for e, _ in replaced}
    for extension, critical in [e for e in extensions if type(e[0]) not in taken] + list(replaced):
        if not isinstance(extension, type):
            builder = builder.add_extension(extension, critical)
    cert = builder.sign(issuer_key, _hash_for(issuer_key, hash_name))
    return _sign_sha1(cert, issuer_key) if hash_name == "sha1" else cert


# AlgorithmIdentifier in DER: (what the builder has written, the same with SHA-1)
_RSA_OIDS = ("300d06092a864886f70d01010b0500", "300d06092a864886f70d0101050500")
_ECDSA_OIDS = ("300a06082a8648ce3d040302", "300906072a8648ce3d0401")


def _sign_sha1(cert: x509.Certificate, key: Any) -> x509.Certificate:
    """Sign a certificate again with SHA-1, which the builder no longer does: negative tests."""
    rsa_key = isinstance(key, rsa.RSAPrivateKey)
    old, new = (bytes.fromhex(oid) for oid in (_RSA_OIDS if rsa_key else _ECDSA_OIDS))
    tbs = cert.tbs_certificate_bytes
    content = tbs[2 + (tbs[1] & 127 if tbs[1] & 128 else 0) :]
    tbs = _der(0x30, content.replace(old, new, 1))
    if rsa_key:
        signature = key.sign(tbs, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303
    else:
        signature = key.sign(tbs, ec.ECDSA(hashes.SHA1()))  # noqa: S303
    return x509.load_der_x509_certificate(_der(0x30, tbs + new + _der(0x03, b"\0" + signature)))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 128 | len(length))) + length + content


def _pem_key(key: Any) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@dataclass
class _Holder:
    """A certificate with its private key and the authority that signed it."""

    cert: x509.Certificate
    key: Any
    issuer: Authority | None = None

    @property
    def der(self) -> bytes:
        """The certificate in DER."""
        return self.cert.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> str:
        """The certificate in PEM."""
        return self.cert.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        """The private key in PEM (PKCS #8, in the clear)."""
        return _pem_key(self.key).decode()

    @property
    def key_der(self) -> bytes:
        """The private key in DER, traditional form (what MicroPython's `tls` loads)."""
        return self.key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )

    @property
    def sha256(self) -> str:
        """SHA-256 of the DER, lower-case hex."""
        return self.cert.fingerprint(hashes.SHA256()).hex()


@dataclass
class Authority(_Holder):
    """A root or an intermediate."""

    @classmethod
    def root(
        cls,
        cn: str,
        key: str | Any = "rsa2048",
        *,
        organisation: str | None = "Taproot test",
        not_before: dt.datetime | None = None,
        not_after: dt.datetime | None = None,
        days: int = 3650,
        extensions: Extensions = (),
        hash_name: str | None = None,
    ) -> Authority:
        """Make a self-signed root. `key` is one of KINDS or a private key (same key, new root)."""
        private = new_key(key) if isinstance(key, str) else key
        name = _name(cn, organisation)
        cert = _sign(
            name, private.public_key(), name, private, _ca_extensions(private, None, None),
            extensions, not_before, not_after, days, hash_name,
        )  # fmt: skip
        return cls(cert, private)

    @classmethod
    def load(cls, pem: bytes, key_pem: bytes) -> Authority:
        """Take an authority from its PEM (itself, then those above it) and its private key.

        Raises ValueError when the key is not the certificate's or a certificate is no CA.
        """
        private = serialization.load_pem_private_key(key_pem, None)
        certs = x509.load_pem_x509_certificates(pem)
        issuer: Authority | None = None
        for cert in reversed(certs):
            basic = cert.extensions.get_extension_for_class(x509.BasicConstraints).value
            if not basic.ca:
                raise ValueError("not the certificate of an authority")
            issuer = cls(cert, None, issuer)
        if issuer is None or issuer.cert.public_key() != private.public_key():
            raise ValueError("certificate and key do not belong together")
        issuer.key = private
        return issuer

    @property
    def lineage_pem(self) -> str:
        """This authority and all above it, root last, as concatenated PEM."""
        return self.pem + (self.issuer.lineage_pem if self.issuer else "")

    def intermediate(
        self,
        cn: str,
        key: str | Any = "rsa2048",
        *,
        organisation: str | None = "Taproot test",
        path_length: int | None = 0,
        not_before: dt.datetime | None = None,
        not_after: dt.datetime | None = None,
        days: int = 1825,
        extensions: Extensions = (),
        hash_name: str | None = None,
    ) -> Authority:
        """Make a CA signed by this one."""
        private = new_key(key) if isinstance(key, str) else key
        cert = _sign(
            _name(cn, organisation), private.public_key(), self.cert.subject, self.key,
            _ca_extensions(private, self, path_length), extensions, not_before, not_after,
            days, hash_name,
        )  # fmt: skip
        return Authority(cert, private, self)

    def leaf(
        self,
        cn: str,
        key: str | Any = "rsa2048",
        *,
        dns: Sequence[str] = (),
        ips: Sequence[str] = (),
        client: bool = False,
        organisation: str | None = None,
        not_before: dt.datetime | None = None,
        not_after: dt.datetime | None = None,
        days: int = 90,
        extensions: Extensions = (),
        hash_name: str | None = None,
    ) -> Leaf:
        """Make a server certificate (or a client one) signed by this authority.

        Without `dns`, `ips` and `client` the host name is `cn`.
        """
        private = new_key(key) if isinstance(key, str) else key
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns]
        names += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
        if not names and not client:
            names = [x509.DNSName(cn)]
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        is_rsa = isinstance(private, rsa.RSAPrivateKey)
        wanted: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_key_usage(digital_signature=True, key_encipherment=is_rsa), True),
            (x509.ExtendedKeyUsage([usage]), False),
            (_authority_id(self), False),
        ]
        if names:
            wanted.append((x509.SubjectAlternativeName(names), False))
        cert = _sign(
            _name(cn, organisation), private.public_key(), self.cert.subject, self.key,
            wanted, extensions, not_before, not_after, days, hash_name,
        )  # fmt: skip
        return Leaf(cert, private, self)

    @property
    def top(self) -> Authority:
        """The root of this authority."""
        return self.issuer.top if self.issuer else self


@dataclass
class Leaf(_Holder):
    """An end-entity certificate. `presented` overrides what the server sends after the leaf."""

    presented: list[Authority] | None = field(default=None)

    @property
    def chain(self) -> list[_Holder]:
        """What a server presents: the leaf, then its intermediates, without the root."""
        if self.presented is not None:
            return [self, *self.presented]
        chain: list[_Holder] = [self]
        above = self.issuer
        while above is not None and above.issuer is not None:
            chain.append(above)
            above = above.issuer
        return chain

    @property
    def chain_pem(self) -> str:
        """The presented chain as concatenated PEM."""
        return "".join(holder.pem for holder in self.chain)

    @property
    def root(self) -> Authority:
        """The root that anchors this leaf."""
        assert self.issuer is not None
        return self.issuer.top

    @property
    def certificate_message_size(self) -> int:
        """Bytes of the TLS 1.2 Certificate handshake message (RFC 5246 §7.4.2)."""
        return 7 + sum(3 + len(holder.der) for holder in self.chain)

    def write(self, folder: Path | str, stem: str | None = None) -> tuple[Path, Path]:
        """Write `<stem>.pem` (chain) and `<stem>.key` (mode 0600); return both paths."""
        stem = stem or "leaf"
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        chain, key = folder / f"{stem}.pem", folder / f"{stem}.key"
        chain.write_text(self.chain_pem)
        with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(self.key_pem)
        return chain, key


def _authority_id(issuer: Authority) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())


def _ca_extensions(key: Any, issuer: Authority | None, path_length: int | None) -> Extensions:
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (_key_usage(key_cert_sign=True, crl_sign=True, digital_signature=True), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ]
    if issuer is not None:
        extensions.append((_authority_id(issuer), False))
    return extensions

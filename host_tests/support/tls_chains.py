"""The certificates of the matrix, each made from the good chain by changing one property."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from taproot.pki import Authority, Leaf
from taproot.pki.authority import new_key

NOW = dt.datetime.now(dt.timezone.utc).replace(microsecond=0)
PAST = {"not_before": NOW - dt.timedelta(days=40), "not_after": NOW - dt.timedelta(days=2)}
FUTURE = {"not_before": NOW + dt.timedelta(days=2), "not_after": NOW + dt.timedelta(days=40)}
_ODD = ObjectIdentifier("1.3.6.1.4.1.99999.1")


@cache
def key(kind: str, number: int = 0) -> Any:
    """A private key, made once: RSA keys cost seconds."""
    return new_key(kind)


@dataclass
class Served:
    """What a server presents and what the device trusts."""

    leaf: Leaf
    roots: list[bytes]
    chain_pem: str | None = None


def _constraints(ca: bool, length: int | None = None) -> tuple[x509.BasicConstraints, bool]:
    return x509.BasicConstraints(ca=ca, path_length=length), True


def _usage(**on: bool) -> tuple[x509.KeyUsage, bool]:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    ).split()
    return x509.KeyUsage(**{name: on.get(name, False) for name in names}), True


@cache
def root(kind: str = "p256", number: int = 0, **dates: Any) -> Authority:
    """A root; `number` makes another key with the same name."""
    return Authority.root(f"Matrix root {kind}", key=key(kind, number), **dates)


@cache
def issuing(kind: str = "p256") -> Authority:
    """The good intermediate."""
    return root(kind).intermediate(f"Matrix issuing {kind}", key=key(kind, 10))


def leaf(issuer: Authority, kind: str = "p256", host: str = "localhost", **options: Any) -> Leaf:
    """A server certificate for `host`."""
    options.setdefault("dns", [host])
    return issuer.leaf(host, key=key(kind, 20), **options)


def simple(made: Leaf, *roots: Authority) -> Served:
    """`made` with its own root trusted, or `roots`."""
    return Served(made, [held.der for held in roots] or [made.root.der])


def _via_intermediate(**options: Any) -> Served:
    middle = root().intermediate("Matrix odd issuing", key=key("p256", 11), **options)
    return simple(leaf(middle))


def _only(host: str, critical: bool) -> Served:
    """An intermediate that may issue for `host` alone."""
    constraint = x509.NameConstraints([x509.DNSName(host)], None)
    return _via_intermediate(extensions=[(constraint, critical)])


def _under_root(**dates: Any) -> Served:
    top = Authority.root("Matrix dated root", key=key("p256", 12), **dates)
    return simple(leaf(top.intermediate("Matrix issuing", key=key("p256", 10))))


def _broken_signature() -> Served:
    made = leaf(issuing())
    der = bytearray(made.der)
    der[-1] ^= 1
    import base64

    broken = base64.encodebytes(bytes(der)).decode()
    pem = f"-----BEGIN CERTIFICATE-----\n{broken}-----END CERTIFICATE-----\n"
    return Served(made, [root().der], pem + issuing().pem)


def _deep(count: int) -> Served:
    above = root()
    for number in range(count):
        above = above.intermediate(f"Matrix level {number}", key=key("p256", 30), path_length=None)
    return simple(leaf(above))


def _two(order: str) -> Served:
    first = root().intermediate("Matrix upper", key=key("p256", 13), path_length=1)
    second = first.intermediate("Matrix lower", key=key("p256", 14))
    made = leaf(second)
    parts = {"good": [made, second, first], "wrong": [made, first, second]}[order]
    return Served(made, [root().der], "".join(part.pem for part in parts))


def _path(length: int) -> Served:
    first = root().intermediate("Matrix upper", key=key("p256", 13), path_length=length)
    second = first.intermediate("Matrix lower", key=key("p256", 14), path_length=None)
    return simple(leaf(second))


def _cross(presented: bool) -> Served:
    """The server's new root, known to the device only as an intermediate of the old one."""
    new = Authority.root("Matrix new root", key=key("p256", 15))
    crossed = root().intermediate("Matrix new root", key=key("p256", 15), path_length=None)
    below = new.intermediate("Matrix under new", key=key("p256", 16))
    made = leaf(below)
    pem = made.pem + below.pem + (crossed.pem if presented else "")
    return Served(made, [root().der], pem)


def _padded(size: int) -> Served:
    filler = x509.UnrecognizedExtension(_ODD, b"\x04\x82" + size.to_bytes(2, "big") + bytes(size))
    return simple(leaf(issuing(), extensions=[(filler, False)]))


def _utf8_issuer() -> Served:
    """An intermediate that spells its issuer as UTF8String under a PrintableString root."""
    kind = x509.name._ASN1Type
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Matrix spelled", _type=form)])
        for form in (kind.PrintableString, kind.UTF8String)
    ]
    ours = key("p256", 17)
    made = []
    for subject, issuer, public, cn_key in (
        (names[0], names[0], ours, ours),
        (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Matrix below")]), names[1],
         key("p256", 18), ours),
    ):  # fmt: skip
        made.append(
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - dt.timedelta(days=1))
            .not_valid_after(NOW + dt.timedelta(days=100))
            .add_extension(*_constraints(True))
            .add_extension(*_usage(key_cert_sign=True, crl_sign=True))
            .sign(cn_key, _hash())
        )
    top = Authority(made[0], ours)
    return simple(leaf(Authority(made[1], key("p256", 18), top)), top)


def _hash() -> Any:
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA256()


def _renewed_root() -> Served:
    old = Authority.root("Matrix renewed", key=key("p256", 19), **PAST)
    renewed = Authority.root("Matrix renewed", key=key("p256", 19))
    made = leaf(renewed.intermediate("Matrix issuing", key=key("p256", 10)))
    return Served(made, [old.der, renewed.der])


def _leaf_not_first() -> Served:
    made = leaf(issuing())
    other = leaf(issuing(), host="first.example.test")
    # The certificate that comes first has to match the private key, else no server starts.
    return Served(other, [root().der], other.pem + made.pem + issuing().pem)


CHAINS: dict[str, Callable[[], Served]] = {
    "good": lambda: simple(leaf(issuing())),
    "other-root": lambda: Served(leaf(issuing()), [root("p384").der]),
    "same-name-other-key": lambda: simple(leaf(issuing()), root("p256", 1)),
    "self-signed": lambda: _self_signed(),
    "no-intermediate": lambda: Served(leaf(issuing()), [root().der], leaf(issuing()).pem),
    "issuer-not-ca": lambda: _via_intermediate(extensions=[_constraints(False)]),
    "issuer-no-basic-constraints": lambda: _via_intermediate(
        extensions=[(x509.BasicConstraints, True)]
    ),
    "issuer-no-cert-sign": lambda: _via_intermediate(extensions=[_usage(digital_signature=True)]),
    "path-too-long": lambda: _path(0),
    "path-allowed": lambda: _path(1),
    "cross-signed": lambda: _cross(True),
    "cross-sign-missing": lambda: _cross(False),
    "leaf-signature-broken": _broken_signature,
    "wrong-order": lambda: _two("wrong"),
    "two-intermediates": lambda: _two("good"),
    "leaf-not-first": _leaf_not_first,
    "expired-leaf": lambda: simple(leaf(issuing(), **PAST)),
    "expired-intermediate": lambda: _via_intermediate(**PAST),
    "expired-root": lambda: _under_root(**PAST),
    "future-leaf": lambda: simple(leaf(issuing(), **FUTURE)),
    "future-intermediate": lambda: _via_intermediate(**FUTURE),
    "future-root": lambda: _under_root(**FUTURE),
    "other-host": lambda: simple(leaf(issuing(), host="hub.example.test")),
    "wildcard": lambda: simple(leaf(issuing(), host="*.example.test")),
    "wildcard-bare": lambda: simple(leaf(issuing(), host="*.example.test")),
    "wildcard-partial": lambda: simple(leaf(issuing(), host="f*.example.test")),
    "exact-two-labels": lambda: simple(leaf(issuing(), host="a.b.example.test")),
    "exact-bare": lambda: simple(leaf(issuing(), host="example.test")),
    "exact-foo": lambda: simple(leaf(issuing(), host="foo.example.test")),
    "name-in-cn-only": lambda: simple(
        issuing().leaf("localhost", key=key("p256", 20), dns=["hub.example.test"])
    ),
    "ip": lambda: simple(leaf(issuing(), dns=[], ips=["127.0.0.1"])),
    "other-ip": lambda: simple(leaf(issuing(), dns=[], ips=["127.0.0.2"])),
    "ip-as-dns": lambda: simple(leaf(issuing(), dns=["127.0.0.1"])),
    "ip-as-other-dns": lambda: simple(leaf(issuing(), dns=["127.0.0.9"])),
    "sha1-leaf": lambda: simple(leaf(issuing("rsa2048"), hash_name="sha1")),
    "sha256-leaf": lambda: simple(leaf(issuing("rsa2048"))),
    "sha1-intermediate": lambda: simple(
        leaf(root("rsa2048").intermediate("Matrix sha1", key=key("p256", 11), hash_name="sha1"))
    ),
    "sha256-intermediate": lambda: simple(
        leaf(root("rsa2048").intermediate("Matrix sha256", key=key("p256", 11)))
    ),
    "rsa1024-leaf": lambda: simple(leaf(issuing(), "rsa1024")),
    "rsa2048-leaf": lambda: simple(leaf(issuing(), "rsa2048")),
    "rsa1024-intermediate": lambda: _rsa_intermediate("rsa1024"),
    "rsa2048-intermediate": lambda: _rsa_intermediate("rsa2048"),
    "client-use-only": lambda: simple(
        leaf(
            issuing(),
            extensions=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)],
        )
    ),
    "code-signing-only": lambda: simple(
        leaf(
            issuing(),
            extensions=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)],
        )
    ),
    "unknown-critical": lambda: simple(
        leaf(issuing(), extensions=[(x509.UnrecognizedExtension(_ODD, b"\x05\x00"), True)])
    ),
    "unknown-uncritical": lambda: simple(
        leaf(issuing(), extensions=[(x509.UnrecognizedExtension(_ODD, b"\x05\x00"), False)])
    ),
    "name-constraints": lambda: _only("example.test", True),
    "name-constraints-uncritical": lambda: _only("example.test", False),
    "name-constraints-permit": lambda: _only("localhost", True),
    "name-constraints-permit-uncritical": lambda: _only("localhost", False),
    "too-many": lambda: _deep(9),
    "far-too-many": lambda: _deep(12),
    "seven-intermediates": lambda: _deep(7),
    "huge": lambda: _padded(17000),
    "large": lambda: _padded(9000),
    "p384": lambda: simple(leaf(issuing("p384"), "p384")),
    "rsa4096": lambda: simple(
        leaf(root("rsa4096").intermediate("Matrix rsa", key=key("rsa2048", 10)), "p256")
    ),
    "mixed-rsa-ecdsa": lambda: simple(leaf(issuing("rsa2048"), "p256")),
    "with-root": lambda: Served(
        leaf(issuing()), [root().der], leaf(issuing()).pem + issuing().pem + root().pem
    ),
    "utf8-issuer": _utf8_issuer,
    "renewed-root-first-expired": _renewed_root,
}


def _rsa_intermediate(kind: str) -> Served:
    return simple(leaf(root().intermediate(f"Matrix {kind}", key=key(kind, 10))))


def _self_signed() -> Served:
    alone = Authority.root("localhost", key=key("p256", 21))
    made = alone.leaf("localhost", key=key("p256", 21), dns=["localhost"])
    return Served(Leaf(made.cert, made.key, alone, presented=[]), [root().der])


@cache
def served(name: str) -> Served:
    """Chain `name`, made once."""
    return CHAINS[name]()


@dataclass
class Credential:
    """A device certificate as the firmware loads it."""

    cert: bytes
    key: bytes


@cache
def device_authority(number: int = 0) -> Authority:
    """CA of the device certificates."""
    return Authority.root(f"Matrix devices {number}", key=key("p256", 40 + number))


@cache
def credential(name: str) -> Credential:
    """Device certificate `name`: good, expired, other-ca, wrong-key, rsa, garbage, garbage-cert."""
    authority = device_authority(1 if name == "other-ca" else 0)
    kind = "rsa2048" if name == "rsa" else "p256"
    dates = PAST if name == "expired" else {}
    made = authority.leaf("device-1", key=key(kind, 45), client=True, **dates)
    private = key("p256", 46) if name == "wrong-key" else made.key
    if name == "garbage":
        return Credential(made.der, b"not a key")
    if name == "garbage-cert":
        made = device_authority().leaf("device-1", key=key(kind, 45), client=True)
        return Credential(b"not a certificate", made.key_der)
    der = private.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    return Credential(made.der, der)

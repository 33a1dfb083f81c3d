"""Payloads of key-sets and bundles: the exact bytes that get signed.

Responsible for: turning roots, keys and numbers into JSON with a fixed member order and no
white space, so that the same input gives the same bytes, and for refusing what no device
would accept (its limits, R-25 to R-30).
Not for: signatures (signing.py), packages (package.py), fleet-wide refusals (guards.py).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509

from taproot.console import UsageFailed
from taproot.trust.keys import PublicKey
from taproot.trust.roots import USES, RootsError, common_name, describe

MAX_VERSION = (1 << 30) - 1
MAX_TIME = 9_999_999_999
MAX_ROOTS = 8
MAX_DER = 2048
MAX_DISTRUST = 8
MAX_RECOVERY = 4
MAX_URL = 256
MAX_KEYS = 6
MAX_SIGNATURES = 8
MAX_BUNDLE = 16 * 1024
MAX_KEYSET = 8 * 1024
STATES = ("active", "standby", "retired")
DEMO_PREFIX = "demo-"
_FLEET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DAY = 86400
DEFAULT_LIFETIME = 2 * 365 * _DAY


class BuildError(UsageFailed):
    """What was asked for is something no device would accept."""


@dataclass(frozen=True)
class BundleRoot:
    """One trust anchor as a bundle lists it."""

    der: bytes
    use: tuple[str, ...] = ("hub", "dps")
    note: str = ""
    state: str = "active"

    @property
    def sha256(self) -> str:
        """The digest that names this root everywhere."""
        return hashlib.sha256(self.der).hexdigest()

    def member(self) -> dict[str, Any]:
        """Return the JSON object of this root, members in their order."""
        found: dict[str, Any] = {
            "sha256": self.sha256,
            "der": base64.b64encode(self.der).decode(),
            "use": list(self.use),
            "note": self.note or common_name(self.der),
        }
        if self.state != "active":
            found["state"] = self.state
        return found


@dataclass(frozen=True)
class Role:
    """The keys of one role and how many of them must sign."""

    threshold: int
    keys: tuple[PublicKey, ...]

    @property
    def kids(self) -> tuple[str, ...]:
        """The thumbprints, in the role's order."""
        return tuple(key.kid for key in self.keys)


@dataclass(frozen=True)
class KeySet:
    """Everything a key-set says."""

    fleet: str
    version: int
    issued: int
    root: Role
    bundle: Role

    def payload(self) -> bytes:
        """Return the bytes to be signed."""
        keys: dict[str, PublicKey] = {}
        for key in self.root.keys + self.bundle.keys:
            keys.setdefault(key.kid, key)
        return dump(
            {
                "spec": 1,
                "fleet": self.fleet,
                "version": self.version,
                "issued": self.issued,
                "keys": [key.jwk() for key in keys.values()],
                "roles": {
                    name: {"threshold": role.threshold, "kids": list(role.kids)}
                    for name, role in (("root", self.root), ("bundle", self.bundle))
                },
            }
        )

    def problems(self) -> list[str]:
        """Say everything a device would refuse about this key-set."""
        found = _common_problems(self.fleet, "version", self.version)
        for name, role in (("root", self.root), ("bundle", self.bundle)):
            distinct = set(role.kids)
            if len(distinct) != len(role.kids):
                found.append(f"role {name} lists a key twice")
            if not 1 <= role.threshold <= len(distinct):
                found.append(
                    f"role {name}: threshold {role.threshold} of {len(distinct)} keys (R-08)"
                )
        total = len({*self.root.kids, *self.bundle.kids})
        if total > MAX_KEYS:
            found.append(f"{total} keys; a key-set holds at most {MAX_KEYS}")
        return found


@dataclass(frozen=True)
class Bundle:
    """Everything a bundle says."""

    fleet: str
    key_version: int
    version: int
    min_version: int
    issued: int
    expires: int
    roots: tuple[BundleRoot, ...]
    distrust: tuple[str, ...] = ()
    recovery: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def payload(self) -> bytes:
        """Return the bytes to be signed."""
        members: dict[str, Any] = {
            "spec": 1,
            "fleet": self.fleet,
            "key_version": self.key_version,
            "version": self.version,
            "min_version": self.min_version,
            "issued": self.issued,
            "expires": self.expires,
            "roots": [root.member() for root in self.roots],
        }
        if self.distrust:
            members["distrust"] = list(self.distrust)
        if self.recovery:
            members["recovery"] = list(self.recovery)
        members.update(self.extra)
        return dump(members)

    def problems(self) -> list[str]:
        """Say everything a device would refuse about this bundle."""
        found = _common_problems(self.fleet, "version", self.version)
        found += _version_problems("key_version", self.key_version)
        found += _version_problems("min_version", self.min_version)
        if self.min_version > self.version:
            found.append(f"min_version {self.min_version} is above version {self.version}")
        if not 0 < self.issued < self.expires:
            found.append("issued must be before expires")
        if self.expires > MAX_TIME:
            found.append(f"expires {self.expires}: devices read ten digits; a shorter lifetime")
        if not 1 <= len(self.roots) <= MAX_ROOTS:
            found.append(f"{len(self.roots)} roots; a bundle holds 1 to {MAX_ROOTS} (R-25)")
        for root in self.roots:
            found += root_problems(root, self.issued)
        digests = [root.sha256 for root in self.roots]
        found += [f"root {d[:16]} is listed twice (R-28)" for d in _repeated(digests)]
        if not any("hub" in root.use for root in self.roots):
            found.append("no root with use hub (R-30)")
        return found + self._distrust_problems(digests) + _recovery_problems(self.recovery)

    def _distrust_problems(self, digests: list[str]) -> list[str]:
        found = [
            f"distrust: {d!r} is not a SHA-256 in lower-case hex"
            for d in self.distrust
            if not _DIGEST.fullmatch(d)
        ]
        if len(self.distrust) > MAX_DISTRUST:
            found.append(f"{len(self.distrust)} distrusted roots; at most {MAX_DISTRUST}")
        found += [f"distrust lists {d[:16]} twice" for d in _repeated(self.distrust)]
        both = [d for d in self.distrust if d in digests]
        found += [f"root {d[:16]} is both listed and distrusted (R-30)" for d in both]
        return found


def dump(members: dict[str, Any]) -> bytes:
    """Return compact ASCII JSON in the given member order."""
    return json.dumps(members, separators=(",", ":"), ensure_ascii=True).encode()


def require(what: str, problems: Sequence[str]) -> None:
    """Raise BuildError with every problem there is."""
    if problems:
        raise BuildError(f"{what} cannot be built:\n" + "\n".join(f"  - {p}" for p in problems))


def root_problems(root: BundleRoot, issued: int) -> list[str]:
    """Say what is wrong with one root as a trust anchor (R-26, R-27, section 3.2)."""
    try:
        certificate = x509.load_der_x509_certificate(root.der)
        facts = describe(root.der)
    except (ValueError, RootsError):
        return [f"root {root.sha256[:16]} is not a certificate"]
    name = f"root {common_name(root.der)!r} ({root.sha256[:16]})"
    found = []
    if len(root.der) > MAX_DER:
        found.append(f"{name} has {len(root.der)} B of DER; at most {MAX_DER}")
    if certificate.version is not x509.Version.v3:
        found.append(f"{name} is not an X.509v3 certificate (R-27)")
    found += _authority_problems(certificate, name)
    if int(str(facts["not_after"])) <= issued:
        found.append(f"{name} has expired by the bundle's issue date (R-27)")
    if not root.use or not set(root.use) <= set(USES) or len(set(root.use)) != len(root.use):
        found.append(f"{name}: use must be a non-empty part of {', '.join(USES)}")
    if root.state not in STATES:
        found.append(f"{name}: state must be one of {', '.join(STATES)}")
    if not (root.note or "x").isascii() or not (root.note or "x").isprintable():
        found.append(f"{name}: the note may hold printable ASCII only")
    return found


def _authority_problems(certificate: x509.Certificate, name: str) -> list[str]:
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        authority = basic.ca
    except x509.ExtensionNotFound:
        authority = False
    except ValueError as exc:
        return [f"{name}: its extensions cannot be read: {exc}"]
    if not authority:
        return [f"{name} is not a certificate authority (R-27)"]
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return []
    return [] if usage.key_cert_sign else [f"{name} may not sign certificates (R-27)"]


def _common_problems(fleet: str, name: str, version: int) -> list[str]:
    found = _version_problems(name, version)
    if not _FLEET.fullmatch(fleet):
        found.append(f"fleet {fleet!r}: letters, digits, dot, dash and underline; at most 63")
    return found


def _version_problems(name: str, value: int) -> list[str]:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_VERSION:
        return []
    return [f"{name} {value!r}: must be 1 to {MAX_VERSION}"]


def _recovery_problems(urls: Sequence[str]) -> list[str]:
    found = []
    if len(urls) > MAX_RECOVERY:
        found.append(f"{len(urls)} recovery URLs; at most {MAX_RECOVERY}")
    for url in urls:
        if len(url) > MAX_URL:
            found.append(f"recovery URL of {len(url)} characters; at most {MAX_URL}")
        if not re.fullmatch(r"https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?(/[!-~]*)?", url):
            found.append(f"recovery URL {url!r}: http:// or https:// and printable ASCII only")
    return found


def _repeated(values: Sequence[str]) -> list[str]:
    return sorted({v for v in values if list(values).count(v) > 1})

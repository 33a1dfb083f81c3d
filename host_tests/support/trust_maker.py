"""Makes key-sets, bundles and packages for tests, right ones and wrong ones.

Written from the specification and independent of `taproot trust`, so that a misreading there and
on the device does not agree by accident. Every wrong thing is made on purpose by a parameter.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from taproot.pki import Authority

ISSUED = 1_785_542_400
EXPIRES = 1_848_614_400
FLEET = "contoso-esp32"


def b64u(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@dataclass
class Signer:
    """A signing key with its JWK and thumbprint; `alg` is what its signatures claim."""

    private: rsa.RSAPrivateKey
    alg: str = "PS256"
    n: int = 0
    jwk: dict = field(default_factory=dict)
    kid: str = ""

    def __post_init__(self) -> None:
        numbers = self.private.public_key().public_numbers()
        self.n = numbers.n
        raw = numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")
        self.jwk = {"kty": "RSA", "alg": self.alg, "n": b64u(raw), "e": "AQAB"}
        text = '{"e":"AQAB","kty":"RSA","n":"%s"}' % self.jwk["n"]
        self.kid = b64u(hashlib.sha256(text.encode()).digest())

    def sign(self, data: bytes, alg: str | None = None, salt: int = 32) -> bytes:
        alg = alg or self.alg
        digest = hashlib.sha256(data).digest()
        if alg == "RS256":
            scheme: object = padding.PKCS1v15()
        else:
            scheme = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
        return self.private.sign(digest, scheme, Prehashed(hashes.SHA256()))


@functools.lru_cache(maxsize=None)
def _private(name: str, bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@functools.lru_cache(maxsize=None)
def signer(name: str, bits: int = 2048, alg: str = "PS256") -> Signer:
    """The key called `name`, for one algorithm: the same all through a session."""
    return Signer(_private(name, bits), alg)


def signers(prefix: str, n: int, bits: int = 2048) -> list[Signer]:
    return [signer(f"{prefix}{i}", bits) for i in range(n)]


def signature(
    key: Signer, payload: str, typ: str, *, header: dict | None = None, raw: bytes | None = None
) -> dict:
    """One entry of `signatures`; `header` replaces members, `raw` replaces the signature."""
    members = {"alg": key.alg, "kid": key.kid, "typ": typ}
    members.update(header or {})
    protected = b64u(compact({k: v for k, v in members.items() if v is not None}))
    value = raw if raw is not None else key.sign(f"{protected}.{payload}".encode())
    return {"protected": protected, "signature": b64u(value)}


def envelope(payload: dict | bytes, keys: list[Signer], typ: str) -> dict:
    text = b64u(payload if isinstance(payload, bytes) else compact(payload))
    return {"payload": text, "signatures": [signature(key, text, typ) for key in keys]}


def keyset_payload(
    version: int,
    root: list[Signer],
    bundle: list[Signer],
    root_threshold: int = 2,
    bundle_threshold: int = 2,
    **changes: object,
) -> dict:
    keys = {key.kid: key.jwk for key in [*root, *bundle]}
    payload = {
        "spec": 1,
        "fleet": FLEET,
        "version": version,
        "issued": ISSUED,
        "keys": list(keys.values()),
        "roles": {
            "root": {"threshold": root_threshold, "kids": [k.kid for k in root]},
            "bundle": {"threshold": bundle_threshold, "kids": [k.kid for k in bundle]},
        },
    }
    payload.update(changes)
    return {k: v for k, v in payload.items() if v is not None}


def keyset(payload: dict | bytes, keys: list[Signer]) -> dict:
    return envelope(payload, keys, "trust-keys+jws")


def root_entry(der: bytes, use: list[str] | None = None, /, **changes: object) -> dict:
    entry = {
        "sha256": hashlib.sha256(der).hexdigest(),
        "der": base64.b64encode(der).decode(),
        "use": use or ["hub", "dps"],
        "note": "test root",
    }
    entry.update(changes)
    return {k: v for k, v in entry.items() if v is not None}


@functools.lru_cache(maxsize=None)
def authority(name: str, key: str = "p256") -> Authority:
    return Authority.root(name, key=key)


def root_der(name: str, key: str = "p256") -> bytes:
    return authority(name, key).der


def bundle_payload(version: int, ders: list[bytes], **changes: object) -> dict:
    payload = {
        "spec": 1,
        "fleet": FLEET,
        "key_version": 1,
        "version": version,
        "min_version": 1,
        "issued": ISSUED,
        "expires": EXPIRES,
        "roots": [root_entry(der) for der in ders],
    }
    payload.update(changes)
    return {k: v for k, v in payload.items() if v is not None}


def bundle(payload: dict | bytes, keys: list[Signer]) -> dict:
    return envelope(payload, keys, "trust-bundle+jws")


def package(bundle_envelope: dict, keysets: list[dict] | None = None) -> bytes:
    return compact({"keysets": keysets or [], "bundle": bundle_envelope})


class Fleet:
    """A fleet with 2-of-3 root and 2-of-3 bundle keys, its bootstrap key-set and factory bundle."""

    def __init__(self, bits: int = 2048, roots: list[bytes] | None = None, **changes: object):
        self.root_keys = signers("root", 3, bits)
        self.bundle_keys = signers("bundle", 3, bits)
        self.roots = roots or [root_der("first"), root_der("second")]
        self.keyset_payload = keyset_payload(1, self.root_keys, self.bundle_keys)
        self.keyset = keyset(self.keyset_payload, self.root_keys[:2])
        self.factory_bundle = self.bundle(1, **changes)

    def bundle(self, version: int, ders: list[bytes] | None = None, **changes: object) -> dict:
        payload = bundle_payload(version, ders or self.roots, **changes)
        return bundle(payload, self.bundle_keys[:2])

    def package(self, version: int, ders: list[bytes] | None = None, **changes: object) -> bytes:
        return package(self.bundle(version, ders, **changes))

    def write(self, folder, build_date: int = ISSUED) -> None:
        """Write the factory files a device process reads in place of a frozen module."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "keyset.jws").write_bytes(compact(self.keyset))
        (folder / "bundle.jws").write_bytes(compact(self.factory_bundle))
        (folder / "build_date").write_text(str(build_date))

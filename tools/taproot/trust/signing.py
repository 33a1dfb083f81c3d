"""Signatures: what is signed, signing here, and attaching what was signed elsewhere.

Responsible for: protected headers, the signing input and its digest, PS256 and RS256 with a
key of this machine, and JWS General JSON envelopes (RFC 7515 section 7.2.1).
Not for: deciding whether enough signatures are there (package.py asks the device's rules).

An external signer gets `digest(...)` and gives back a raw RSA signature; `attach` checks it
against the public key before it enters an envelope, so a wrong salt length is found here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, utils

from taproot.console import UsageFailed
from taproot.trust.builder import MAX_BUNDLE, MAX_KEYSET, MAX_SIGNATURES
from taproot.trust.keys import PublicKey, SigningKey, b64u, b64u_decode

KEYS = "trust-keys+jws"
BUNDLE = "trust-bundle+jws"
SALT_LENGTH = 32


class SigningError(UsageFailed):
    """A signature cannot be made or does not fit."""


def protected(key: PublicKey, typ: str) -> str:
    """Return the protected header, base64url: `{"alg":…,"kid":…,"typ":…}`."""
    header = {"alg": key.alg, "kid": key.kid, "typ": typ}
    return b64u(json.dumps(header, separators=(",", ":")).encode())


def signing_input(key: PublicKey, typ: str, payload: bytes) -> bytes:
    """Return the ASCII bytes that the signature covers: `protected.payload`."""
    return f"{protected(key, typ)}.{b64u(payload)}".encode()


def digest(key: PublicKey, typ: str, payload: bytes) -> bytes:
    """Return the SHA-256 that an external signer is handed."""
    return hashlib.sha256(signing_input(key, typ, payload)).digest()


def sign(key: SigningKey, typ: str, payload: bytes) -> bytes:
    """Return the raw signature over a payload."""
    return key.private.sign(
        digest(key.public, typ, payload), _padding(key.alg), utils.Prehashed(hashes.SHA256())
    )


def check(key: PublicKey, typ: str, payload: bytes, signature: bytes) -> None:
    """Raise SigningError unless the signature is the key's over this payload."""
    try:
        key.to_cryptography().verify(
            signature,
            digest(key, typ, payload),
            _padding(key.alg),
            utils.Prehashed(hashes.SHA256()),
        )
    except InvalidSignature:
        raise SigningError(
            f"the signature does not verify with key {key.kid[:16]} ({key.alg}): wrong digest, "
            f"wrong key, or for PS256 a salt that is not {SALT_LENGTH} bytes long"
        ) from None


def _padding(alg: str) -> padding.AsymmetricPadding:
    if alg == "RS256":
        return padding.PKCS1v15()
    return padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=SALT_LENGTH)


@dataclass
class Envelope:
    """A payload with the signatures collected so far."""

    payload: bytes
    signatures: list[tuple[str, bytes]] = field(default_factory=list)

    def kids(self) -> list[str]:
        """Return the kid of each signature."""
        return [str(header_of(p)["kid"]) for p, _ in self.signatures]

    def add(self, key: PublicKey, typ: str, signature: bytes) -> None:
        """Attach one signature after checking it; one key signs once."""
        check(key, typ, self.payload, signature)
        if key.kid in self.kids():
            raise SigningError(f"key {key.kid[:16]} has already signed this document")
        if len(self.signatures) >= MAX_SIGNATURES:
            raise SigningError(f"an envelope holds at most {MAX_SIGNATURES} signatures")
        self.signatures.append((protected(key, typ), signature))

    def sign(self, key: SigningKey, typ: str) -> None:
        """Sign with a key of this machine."""
        self.add(key.public, typ, sign(key, typ, self.payload))

    def size(self, typ: str, signers: Sequence[PublicKey] = ()) -> int:
        """Return how long the envelope is, or will be once these have signed too."""
        coming = sum(len(protected(k, typ)) + -(-k.bits // 6) + 36 for k in signers)
        return len(self.to_bytes()) + coming

    def problems(self, typ: str, signers: Sequence[PublicKey] = ()) -> list[str]:
        """Say whether the envelope, once these have signed too, is larger than a device reads."""
        limit, what = (MAX_KEYSET, "key-set") if typ == KEYS else (MAX_BUNDLE, "bundle")
        size = self.size(typ, signers)
        if size <= limit:
            return []
        count = len(self.signatures) + len(signers)
        return [
            f"{what} envelope of {size} B with {count} signatures; a device reads at most {limit}"
        ]

    def to_bytes(self, order: Sequence[str] = ()) -> bytes:
        """Return the envelope; signatures in the order of the key-set, then by kid."""
        rank = {kid: i for i, kid in enumerate(order)}
        ordered = sorted(
            zip(self.kids(), self.signatures, strict=True),
            key=lambda item: (rank.get(item[0], len(rank)), item[0]),
        )
        body = {
            "payload": b64u(self.payload),
            "signatures": [{"protected": p, "signature": b64u(s)} for _, (p, s) in ordered],
        }
        return json.dumps(body, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "envelope") -> Envelope:
        """Read an envelope; shape only, no signature is checked here."""
        try:
            body = json.loads(data)
            payload = b64u_decode(body["payload"])
            signatures = [
                (str(entry["protected"]), b64u_decode(entry["signature"]))
                for entry in body["signatures"]
            ]
            for text, _ in signatures:
                header_of(text)
        except (ValueError, TypeError, LookupError, RecursionError):
            raise SigningError(f"{where}: not a JWS with payload and signatures") from None
        return cls(payload, signatures)


def header_of(protected_text: str) -> dict[str, object]:
    """Decode a protected header; ValueError or TypeError when it is none."""
    header = json.loads(b64u_decode(protected_text))
    if not isinstance(header, dict) or not isinstance(header.get("kid"), str):
        raise ValueError("no kid in the protected header")
    return header

"""Signing keys of an operator: RSA-3072, named by their RFC 7638 thumbprint.

Responsible for: making, storing and reading keys, and their public form (JWK).
Not for: signing (signing.py) and roles or thresholds (builder.py).

A private key is written once, mode 0600, never over an existing file. A key that lives
elsewhere (HSM, Key Vault, PKCS#11) is known to this program by its public half alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from taproot.console import UsageFailed

ALGORITHMS = ("PS256", "RS256")
DEFAULT_BITS = 3072
PUBLIC_EXPONENT = 65537


class KeyFailed(UsageFailed):
    """A key cannot be read, written or used."""


def b64u(data: bytes) -> str:
    """Return base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def b64u_decode(text: str) -> bytes:
    """Decode base64url without padding; the canonical form only."""
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if b64u(data) != text:
        raise ValueError("not canonical base64url")
    return data


def thumbprint(n: str) -> str:
    """Return the RFC 7638 SHA-256 thumbprint of the RSA key with modulus `n` (base64url)."""
    canonical = '{"e":"AQAB","kty":"RSA","n":"%s"}' % n
    return b64u(hashlib.sha256(canonical.encode()).digest())


@dataclass(frozen=True)
class PublicKey:
    """The public half of a signing key with the one algorithm it may be used with."""

    modulus: int
    alg: str = "PS256"
    label: str = ""

    @property
    def bits(self) -> int:
        """The length of the modulus."""
        return self.modulus.bit_length()

    @property
    def n(self) -> str:
        """The modulus, big-endian, base64url."""
        return b64u(self.modulus.to_bytes((self.bits + 7) // 8, "big"))

    @property
    def kid(self) -> str:
        """The key's name everywhere: its RFC 7638 thumbprint."""
        return thumbprint(self.n)

    def jwk(self) -> dict[str, str]:
        """Return the members a key-set lists, in their order."""
        return {"kty": "RSA", "alg": self.alg, "n": self.n, "e": "AQAB"}

    def to_cryptography(self) -> rsa.RSAPublicKey:
        """Return the key as the cryptography package knows it."""
        return rsa.RSAPublicNumbers(PUBLIC_EXPONENT, self.modulus).public_key()

    def file_text(self) -> str:
        """Return the text of a public key file: the JWK with kid and label."""
        return json.dumps({**self.jwk(), "kid": self.kid, "label": self.label}, indent=1) + "\n"


@dataclass(frozen=True)
class SigningKey:
    """A key whose private half is on this machine."""

    private: rsa.RSAPrivateKey
    alg: str = "PS256"
    label: str = ""

    @property
    def public(self) -> PublicKey:
        """The public half."""
        return PublicKey(self.private.public_key().public_numbers().n, self.alg, self.label)

    @property
    def kid(self) -> str:
        """The key's RFC 7638 thumbprint."""
        return self.public.kid


def generate(label: str = "", *, bits: int = DEFAULT_BITS, alg: str = "PS256") -> SigningKey:
    """Make a key with the operating system's randomness."""
    _check_algorithm(alg)
    if not 2048 <= bits <= 4096 or bits % 8:
        raise KeyFailed(f"RSA keys have 2048 to 4096 bits in steps of 8, not {bits}")
    private = rsa.generate_private_key(public_exponent=PUBLIC_EXPONENT, key_size=bits)
    return SigningKey(private, alg, label)


def write_private(path: Path, key: SigningKey, passphrase: bytes | None) -> None:
    """Write the private half as PKCS#8 PEM, mode 0600; refuse to replace a file."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    pem = key.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    _write_new(path, pem, 0o600)


def write_public(path: Path, key: PublicKey) -> None:
    """Write the public half as JWK; refuse to replace a file."""
    _write_new(path, key.file_text().encode(), 0o644)


def read_passphrase(path: Path | None) -> bytes | None:
    """Return the first line of a passphrase file, or None when there is no file."""
    if path is None:
        return None
    lines = read_file(path).splitlines()
    if not lines or not lines[0]:
        raise KeyFailed(f"{path} holds no passphrase on its first line")
    return lines[0]


def read_private(path: Path, passphrase: bytes | None = None) -> SigningKey:
    """Read a private key; its algorithm comes from the public file beside it, if any."""
    data = read_file(path)
    try:
        private = serialization.load_pem_private_key(data, password=passphrase)
    except TypeError:
        wants = (
            "needs a passphrase: --passphrase-file FILE"
            if passphrase is None
            else ("is not encrypted; leave --passphrase-file away")
        )
        raise KeyFailed(f"{path} {wants}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFailed(f"{path}: not a private key in PEM, or the passphrase is wrong") from None
    if not isinstance(private, rsa.RSAPrivateKey):
        raise KeyFailed(f"{path}: not an RSA key; bundles are signed with RSA (PS256, RS256)")
    numbers = private.public_key().public_numbers()
    _check_numbers(numbers.n, numbers.e, str(path))
    beside = path.with_suffix(".jwk")
    alg, label = "PS256", path.stem
    if beside.is_file():
        public = read_public(beside)
        if public.modulus != numbers.n:
            raise KeyFailed(f"{beside} is not the public half of {path}")
        alg, label = public.alg, public.label or label
    return SigningKey(private, alg, label)


def read_public(path: Path, alg: str = "PS256") -> PublicKey:
    """Read a public key: our JWK file, a public-key PEM, or a certificate holding it."""
    data = read_file(path)
    if data.lstrip().startswith(b"{"):
        return _from_jwk(data, path)
    try:
        if b"BEGIN CERTIFICATE" in data:
            key = x509.load_pem_x509_certificate(data).public_key()
        else:
            key = serialization.load_pem_public_key(data)  # type: ignore[assignment]
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFailed(f"{path}: neither a JWK nor a public key in PEM") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise KeyFailed(f"{path}: not an RSA key; bundles are signed with RSA (PS256, RS256)")
    numbers = key.public_numbers()
    _check_numbers(numbers.n, numbers.e, str(path))
    _check_algorithm(alg)
    return PublicKey(numbers.n, alg, Path(path).stem)


def _from_jwk(data: bytes, path: Path) -> PublicKey:
    try:
        jwk = json.loads(data)
        if "d" in jwk:
            raise KeyFailed(f"{path} holds a private key; give the public half only")
        if jwk["kty"] != "RSA" or jwk["e"] != "AQAB":
            raise KeyFailed(f"{path}: an RSA key with e = AQAB (65537) is needed")
        modulus = int.from_bytes(b64u_decode(jwk["n"]), "big")
        key = PublicKey(modulus, jwk.get("alg", "PS256"), str(jwk.get("label", "")))
    except (ValueError, TypeError, LookupError):
        raise KeyFailed(f"{path}: not an RSA key in JWK form") from None
    _check_algorithm(key.alg)
    _check_numbers(modulus, PUBLIC_EXPONENT, str(path))
    if jwk.get("kid", key.kid) != key.kid:
        raise KeyFailed(f"{path}: kid is not the key's RFC 7638 thumbprint, which is {key.kid}")
    return key


def _check_algorithm(alg: str) -> None:
    if alg not in ALGORITHMS:
        raise KeyFailed(f"algorithm {alg!r}: devices know {' and '.join(ALGORITHMS)}")


def _check_numbers(n: int, e: int, where: str) -> None:
    bits = n.bit_length()
    if e != PUBLIC_EXPONENT:
        raise KeyFailed(f"{where}: public exponent {e}; devices accept 65537 only")
    if not 2048 <= bits <= 4096 or bits % 8:
        raise KeyFailed(f"{where}: {bits} bits; devices accept 2048 to 4096 in steps of 8")


def read_file(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise KeyFailed(f"cannot read {path}: {exc.strerror}") from None


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise KeyFailed(f"{path} exists; a key file is never replaced") from None
    except OSError as exc:
        raise KeyFailed(f"cannot write {path}: {exc.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)

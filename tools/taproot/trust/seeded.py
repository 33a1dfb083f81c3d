"""Keys and signatures that come out the same every time: for golden vectors, never for a fleet.

Responsible for: RSA keys derived from a public seed, PS256 and RS256 with a derived salt, and
messages that are encoded wrongly on purpose. Whoever reads this file can make these keys: they
protect nothing, and their fleet is a `demo-` fleet.
Not for: operators' keys (keys.py) and signatures (signing.py).
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from taproot.trust.keys import PUBLIC_EXPONENT, PublicKey

_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
_ROUNDS = 8  # nobody chose these numbers to deceive


def _stream(seed: str) -> Iterator[bytes]:
    counter = 0
    while True:
        yield hashlib.sha256(f"{seed}/{counter}".encode()).digest()
        counter += 1


def _small_primes(limit: int) -> list[int]:
    sieve = bytearray([1]) * limit
    for i in range(2, math.isqrt(limit) + 1):
        if sieve[i]:
            sieve[i * i :: i] = bytes(len(range(i * i, limit, i)))
    return [i for i in range(3, limit) if sieve[i]]


_PRIMES = _small_primes(4000)
_PRODUCT = math.prod(_PRIMES)


def _is_prime(n: int) -> bool:
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in _PRIMES[:_ROUNDS]:
        x = pow(base, odd, n)
        if x in (1, n - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


# How far above its derived number each prime of the golden vectors lies: the search, remembered.
# A wrong figure is no prime and is searched for again.
_STEPS: dict[str, int] = {
    "root-1/p": 1016,
    "root-1/q": 198,
    "root-2/p": 415,
    "root-2/q": 684,
    "root-3/p": 73,
    "root-3/q": 564,
    "bundle-1/p": 321,
    "bundle-1/q": 213,
    "bundle-2/p": 1839,
    "bundle-2/q": 97,
    "bundle-3/p": 276,
    "bundle-3/q": 231,
    "bundle-4/p": 547,
    "bundle-4/q": 532,
    "stranger/p": 228,
    "stranger/q": 738,
}


def _prime(name: str, bits: int) -> int:
    """Return the first prime above a number derived from the name; its two top bits are set."""
    stream = _stream(f"taproot golden vectors/{name}")
    start = int.from_bytes(b"".join(next(stream) for _ in range(bits // 256)), "big")
    start |= 3 << bits - 2 | 1
    known = start + 2 * _STEPS.get(name, 0)
    if name in _STEPS and _usable(known):
        return known
    n = start
    while not _usable(n):
        n += 2
    return n


def _usable(n: int) -> bool:
    return math.gcd(n, _PRODUCT) == 1 and (n - 1) % PUBLIC_EXPONENT != 0 and _is_prime(n)


@dataclass(frozen=True)
class SeededKey:
    """A key anybody can derive from its name."""

    name: str
    primes: tuple[int, int]
    private_exponent: int
    alg: str = "PS256"

    @property
    def modulus(self) -> int:
        """The product of the primes."""
        return self.primes[0] * self.primes[1]

    @property
    def public(self) -> PublicKey:
        """The public half."""
        return PublicKey(self.modulus, self.alg, self.name)

    @property
    def size(self) -> int:
        """The length of a signature."""
        return (self.modulus.bit_length() + 7) // 8

    def raw(self, encoded: int) -> bytes:
        """Apply the private exponent to a number."""
        p, q = self.primes
        of_p = pow(encoded % p, self.private_exponent % (p - 1), p)
        of_q = pow(encoded % q, self.private_exponent % (q - 1), q)
        found = of_q + (of_p - of_q) * pow(q, -1, p) % p * q
        return found.to_bytes(self.size, "big")

    def sign(self, digest: bytes, **how: Any) -> bytes:
        """Sign a digest as the key's algorithm says; `how` makes it wrong (see pss, pkcs1)."""
        make = pkcs1 if self.alg == "RS256" else pss
        return self.raw(int.from_bytes(make(self, digest, **how), "big"))


@functools.cache
def seeded_key(name: str, alg: str = "PS256", bits: int = 2048) -> SeededKey:
    """Derive a key from its name."""
    p, q = (_prime(f"{name}/{half}", bits // 2) for half in "pq")
    exponent = pow(PUBLIC_EXPONENT, -1, math.lcm(p - 1, q - 1))
    return SeededKey(name, (p, q), exponent, alg)


def _mask(seed: bytes, length: int) -> bytes:
    found = b""
    counter = 0
    while len(found) < length:
        found += hashlib.sha256(seed + counter.to_bytes(4, "big")).digest()
        counter += 1
    return found[:length]


def pss(
    key: SeededKey,
    digest: bytes,
    *,
    salt_length: int = 32,
    trailer: int = 0xBC,
    separator: int = 1,
    zero: int = 0,
) -> bytes:
    """Encode by EMSA-PSS with a derived salt (RFC 8017 section 9.1.1), or nearly so."""
    salt = _mask(b"salt" + key.name.encode() + digest, salt_length)
    stamp = hashlib.sha256(bytes(8) + digest + salt).digest()
    zeros = bytearray(key.size - salt_length - 34)
    if zeros:
        zeros[-1] = zero
    block = bytes(zeros) + bytes([separator]) + salt
    masked = bytearray(a ^ b for a, b in zip(block, _mask(stamp, len(block)), strict=True))
    masked[0] &= 0x7F
    return bytes(masked) + stamp + bytes([trailer])


def pkcs1(
    key: SeededKey,
    digest: bytes,
    *,
    info: bytes = _DIGEST_INFO,
    garbage: int = 0,
    block_type: int = 1,
) -> bytes:
    """Encode by EMSA-PKCS1-v1_5 (RFC 8017 section 9.2), or nearly so."""
    tail = b"\x00" + info + digest + b"\xaa" * garbage
    return bytes([0, block_type]) + b"\xff" * (key.size - 2 - len(tail)) + tail

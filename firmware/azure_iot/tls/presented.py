"""What certificates say outside a verification: the chain a server presents, our own, our roots.

Responsible for: the facts remembered of a presented certificate, finding a root by name in a plain
list, the size of the device's own Certificate message. Not for: judging any of them.
"""

from hashlib import sha256

from micropython import const

from ..trust import der

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Iterator


class Presented:
    """One certificate of the server's chain: raw `issuer` name, dates, SHA-256 of cert and key."""

    def __init__(self, raw: bytes, depth: int) -> None:
        facts = der.read(raw)
        self.depth = depth
        self.issuer = facts.issuer
        self.not_before = facts.not_before
        self.not_after = facts.not_after
        self.key_sha256 = sha256(facts.public_key).digest()
        self.sha256 = sha256(raw).digest()


class RootList:
    """A plain list of DERs with the interface of trust/roots.py."""

    def __init__(self, roots: "list[bytes]") -> None:
        self._roots = roots
        self._names = None

    def __len__(self) -> int:
        return len(self._roots)

    def __iter__(self) -> "Iterator[bytes]":
        return iter(self._roots)

    def __call__(self, issuer: bytes) -> list:
        if self._names is None:
            self._names = [der.name_digest(der.read(root).subject) for root in self._roots]
        wanted = der.name_digest(issuer)
        return [root for name, root in zip(self._names, self._roots) if name == wanted]

    def get(self, digest: bytes) -> bytes | None:
        for root in self._roots:
            if sha256(root).digest() == digest:
                return root
        return None


def common_name(name: bytes) -> str:
    """Return the common name within a raw DER name, `?` when there is none."""
    at = name.rfind(b"\x06\x03\x55\x04\x03")  # 2.5.4.3
    if at < 0 or at + 7 > len(name):
        return "?"
    text = name[at + 7 : at + 7 + name[at + 6]]
    return "".join([chr(c) if 32 <= c < 127 else "?" for c in text])


def certificate_message(cert: "bytes | str") -> int:
    """Return the bytes of the TLS 1.2 Certificate message for `cert` (RFC 5246 section 7.4.2)."""
    text = cert.encode() if isinstance(cert, str) else bytes(cert)
    if b"-----BEGIN" not in text:
        return 10 + len(text)
    size = 7
    for block in text.split(b"-----BEGIN CERTIFICATE-----")[1:]:
        base64 = b"".join(block.split(b"-----END")[0].split())
        size += 3 + len(base64) // 4 * 3 - base64.count(b"=")
    return size

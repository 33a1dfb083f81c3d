"""What certificates say outside a verification: names, dates, our own message, roots by name.

Responsible for: facts of certificates that need no judgement, and finding a root by name in a
plain list. Not for: judging any of them, what a handshake notes (context.py).
"""

from hashlib import sha256

from micropython import const

from ..dates import unix_seconds
from ..trust import der
from ..trust.roots import name_digest

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Iterator


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
            self._names = [name_digest(der.read(root).subject) for root in self._roots]
        wanted = name_digest(issuer)
        return [root for name, root in zip(self._names, self._roots) if name == wanted]

    def get(self, digest: bytes) -> bytes | None:
        for root in self._roots:
            if sha256(root).digest() == digest:
                return root
        return None


def dates(chain: list, which: int) -> list:
    """Return when each noted certificate begins (0) or ends (1), in Unix time.

    A date is `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280 section 4.1.2.5).
    """
    found = []
    for cert in chain:
        walk = der.Walk(cert[4], 0, len(cert[4])).step().inside()
        for _ in range(which + 1):
            walk.step()
        text = walk.value()
        month, day, hour, minute, second = [int(text[at : at + 2]) for at in range(-11, -1, 2)]
        year = int(text[:-11])
        if year < 100:
            year += 2000 if year < 50 else 1900
        found.append(unix_seconds(year, month, day, (hour * 60 + minute) * 60 + second))
    return found


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

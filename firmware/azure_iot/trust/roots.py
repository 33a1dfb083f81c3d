"""Roots on demand: what a TLS context asks for while it checks a chain.

Responsible for: handing out the roots of one bundle for one use, minus every distrusted one, read
from flash only when a chain needs them. Not for: which bundle is in use (manager.py).
"""

from micropython import const

from .der import name_digest
from .errors import MalformedError

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .bundle import Bundle


class RootSet:
    """Roots to verify with, read by `read(root)` when they are asked for.

    `roots(issuer)` returns the DERs whose subject is the raw name `issuer` (RFC 5280 section 7.1
    comparison); `for der in roots`, or `roots(b"")`, reads all, one after the other;
    `get(sha256)` reads one.
    """

    def __init__(self, roots: list, read: "Callable") -> None:
        self._roots = roots
        self._read = read

    def __len__(self) -> int:
        return len(self._roots)

    def __call__(self, issuer: bytes) -> "list | RootSet":
        if not issuer:
            return self
        try:
            wanted = name_digest(issuer)
        except MalformedError:
            return []
        return [self._read(root) for root in self._roots if root.subject == wanted]

    def __iter__(self) -> "Iterator[bytes]":
        for root in self._roots:
            yield self._read(root)

    def digests(self) -> list:
        """Return the SHA-256 of each root."""
        return [root.sha256 for root in self._roots]

    def get(self, sha256: bytes) -> bytes | None:
        """Return the DER with this digest, or None."""
        for root in self._roots:
            if root.sha256 == sha256:
                return self._read(root)
        return None

    def only(self, sha256: bytes) -> "RootSet":
        """Return a set of this one root (for a probe)."""
        return RootSet([root for root in self._roots if root.sha256 == sha256], self._read)


def usable(bundle: "Bundle", use: "str | None", distrust: list) -> list:
    """Return the roots of a bundle that serve `use` (None: any) and are not distrusted."""
    return [
        root
        for root in bundle.roots
        if (use is None or use in root.uses) and root.sha256 not in distrust
    ]

"""What key-set and bundle payloads have in common: decoding while reading, `spec`, versions.

Responsible for: the pass over a payload whose signatures hold, the check that it is still the one
they hold for, and the members both kinds have (R-11, R-12). Not for: the rest of their members
(keyset.py, bundle.py).
"""

from hashlib import sha256

from micropython import const

from .errors import FleetError, MalformedError
from .scan import Scanner
from .sources import Base64Source

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .jws import Envelope

_OBJECT = const(0x7B)
_OBJECT_END = const(0x7D)

_MAX_PAYLOAD = const(16384)
_MAX_STRING = const(2732)  # base64 of the longest root
_MAX_VERSION = const(0x3FFFFFFF)
_MAX_FLEET = const(64)


class Payload:
    """A payload being decoded: `scanner` over its members, its digest checked at the end."""

    def __init__(self, envelope: "Envelope", digest: bytes | None) -> None:
        self._expected = digest
        self._digest = sha256()
        payload = Base64Source(
            envelope.source, envelope.payload[0], envelope.payload[1], self._digest
        )
        self.scanner = Scanner(payload, _MAX_PAYLOAD, _MAX_STRING)  # type: ignore[arg-type]

    def members(self, what: str, needed: tuple) -> "Iterator[int]":
        """Yield the kind of each member of the payload; check `spec` and that none is missing."""
        scanner = self.scanner
        scanner.want(scanner.next(), _OBJECT)
        missing = list(needed)
        missing.append("spec")
        while True:
            kind = scanner.next()
            if kind == _OBJECT_END:
                break
            key = scanner.key
            if key in missing:
                missing.remove(key)
            if key == "spec":
                if scanner.integer(kind) != 1:
                    raise MalformedError("%s: spec %d not known" % (what, scanner.number))
                continue
            yield kind
        scanner.want(scanner.next(), 0)
        if missing:
            raise MalformedError("%s: %s missing" % (what, missing[0]))
        if self._expected is not None and self._digest.digest() != self._expected:
            raise MalformedError("%s changed since it was verified" % what)


def read_version(scanner: Scanner, kind: int) -> int:
    """Return a version number in the range allowed."""
    value = scanner.integer(kind)
    if not 1 <= value <= _MAX_VERSION:
        raise MalformedError("%s out of range" % scanner.key)
    return value


def read_fleet(text: bytes) -> str:
    """Return a fleet name of a length allowed."""
    if not 1 <= len(text) <= _MAX_FLEET:
        raise MalformedError("fleet name of %d bytes" % len(text))
    return str(text, "utf-8")


def require_fleet(fleet: str, ours: str) -> None:
    """Refuse what was signed for another fleet (R-11)."""
    if fleet != ours:
        raise FleetError("signed for fleet %s, this device belongs to %s" % (fleet, ours))

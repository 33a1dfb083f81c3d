"""Payloads, and key-sets: which keys may sign what, and how one key-set follows another.

Responsible for: the pass over a payload whose signatures hold and the members both kinds have
(R-11, R-12); the key-set, its roles and thresholds (R-08, R-09), the step from version N to N+1
(R-13, R-14). Not for: bundles (bundle.py), keeping key-sets (stored.py), walking a package
(update.py).
"""

from hashlib import sha256

from micropython import const

from .errors import RefusedError
from .jws import KEYS, verify
from .rsa import Key
from .scan import Scanner
from .sources import Base64Source

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .jws import Envelope
    from .rsa import Verifier

_OBJECT = const(0x7B)
_ARRAY = const(0x5B)

_MAX_PAYLOAD = const(16384)
_MAX_STRING = const(2732)  # base64 of the longest root
_MAX_VERSION = const(0x3FFFFFFF)
_MAX_FLEET = const(64)
_MAX_KEYS = const(6)


class Role:
    """Who signs: `threshold` of the keys named in `kids`."""

    def __init__(self, threshold: int, kids: list) -> None:
        self.threshold = threshold
        self.kids = kids


class KeySet:
    """A key-set payload: `fleet`, `version`, `issued`, `keys` (kid -> Key), `root`, `bundle`."""

    def __init__(self) -> None:
        self.fleet = ""
        self.version = 0
        self.issued = 0
        self.keys: dict = {}
        self.root: Role | None = None
        self.bundle: Role | None = None


def members(
    envelope: "Envelope", digest: "bytes | None", what: str, needed: list
) -> "Iterator[tuple]":
    """Yield (scanner, name, kind) of each member of a payload, decoded while it is read.

    At the end the payload must have `spec` 1, all that is `needed`, and be the one `digest` stands
    for: that of the characters whose signatures hold.
    """
    found = sha256()
    start, end = envelope.payload
    payload = Base64Source(envelope.source, start, end, found)
    scanner = Scanner(payload, _MAX_PAYLOAD, _MAX_STRING)  # type: ignore[arg-type]
    needed.append("spec")
    for kind in scanner.each(scanner.next(), _OBJECT):
        key = scanner.key
        if key in needed:
            needed.remove(key)
        if key != "spec":
            yield scanner, key, kind
        elif scanner.integer(kind) != 1:
            raise RefusedError("%s: spec %d not known" % (what, scanner.number))
    scanner.want(scanner.next(), 0)
    if needed:
        raise RefusedError("%s: %s missing" % (what, needed[0]))
    if digest is not None and found.digest() != digest:
        raise RefusedError("%s changed since it was verified" % what)


def read_version(scanner: Scanner, kind: int) -> int:
    """Return a version number in the range allowed."""
    value = scanner.integer(kind)
    if not 1 <= value <= _MAX_VERSION:
        raise RefusedError("%s out of range" % scanner.key)
    return value


def read_fleet(scanner: Scanner, kind: int) -> str:
    """Return a fleet name of a length allowed."""
    text = scanner.string(kind)
    if not 1 <= len(text) <= _MAX_FLEET:
        raise RefusedError("fleet name of %d bytes" % len(text))
    return str(text, "utf-8")


def require_fleet(fleet: str, ours: str) -> None:
    """Refuse what was signed for another fleet (R-11)."""
    if fleet != ours:
        raise RefusedError(
            "signed for fleet %s, this device belongs to %s" % (fleet, ours), "FLEET"
        )


def read_keyset(envelope: "Envelope", digest: "bytes | None" = None) -> KeySet:
    """Decode a key-set whose signatures hold; `digest` must be that of its payload's characters."""
    keyset = KeySet()
    roles: dict = {}
    needed = ["fleet", "version", "issued", "keys", "roles"]
    for scanner, key, kind in members(envelope, digest, "keyset", needed):
        if key == "fleet":
            keyset.fleet = read_fleet(scanner, kind)
        elif key == "version":
            keyset.version = read_version(scanner, kind)
        elif key == "issued":
            keyset.issued = scanner.integer(kind)
        elif key == "keys":
            _read_keys(scanner, kind, keyset.keys)
        elif key == "roles":
            _read_roles(scanner, kind, roles)
        else:
            scanner.skip(kind)
    for name in ("root", "bundle"):
        if name not in roles:
            raise RefusedError("roles: %s missing" % name)
        for kid in roles[name].kids:
            if kid not in keyset.keys:
                raise RefusedError("role %s names a key that is not listed" % name)
        setattr(keyset, name, roles[name])
    return keyset


def _read_keys(scanner: Scanner, kind: int, keys: dict) -> None:
    for item in scanner.each(kind, _ARRAY):
        if len(keys) >= _MAX_KEYS:
            raise RefusedError("more than %d keys" % _MAX_KEYS, "TOO_LARGE")
        found = {}
        for member in scanner.each(item, _OBJECT):
            name = scanner.key
            if name in ("kty", "alg", "n", "e"):
                found[name] = scanner.string(member)
            else:
                scanner.skip(member)
        if len(found) != 4 or found["kty"] != b"RSA":
            raise RefusedError("key must hold kty RSA, alg, n and e")
        key = Key(str(found["alg"], "utf-8"), found["n"], found["e"])
        if key.kid in keys:
            raise RefusedError("key listed twice", "DUPLICATE")
        keys[key.kid] = key


def _read_roles(scanner: Scanner, kind: int, roles: dict) -> None:
    for item in scanner.each(kind, _OBJECT):
        name = scanner.key
        if name != "root" and name != "bundle":
            scanner.skip(item)
            continue
        role = Role(0, [])
        for member in scanner.each(item, _OBJECT):
            if scanner.key == "threshold":
                role.threshold = scanner.integer(member)
            elif scanner.key == "kids":
                _read_kids(scanner, member, role.kids)
            else:
                scanner.skip(member)
        if not 1 <= role.threshold <= len(role.kids):
            raise RefusedError("role %s: %d of %d keys" % (name, role.threshold, len(role.kids)))
        roles[name] = role


def _read_kids(scanner: Scanner, kind: int, kids: list) -> None:
    for text in scanner.strings(kind):
        kid = str(text, "utf-8")
        if kid in kids:
            raise RefusedError("role names a key twice", "DUPLICATE")
        if len(kids) >= _MAX_KEYS:
            raise RefusedError("role with more than %d keys" % _MAX_KEYS, "TOO_LARGE")
        kids.append(kid)


def next_keyset(envelope: "Envelope", keyset: "KeySet", verifier: "Verifier") -> "KeySet":
    """Return the key-set that follows `keyset`, signed by the old and by the new threshold."""
    digest = verify(envelope, KEYS, keyset.keys, keyset.root, verifier)
    following = read_keyset(envelope, digest)
    require_fleet(following.fleet, keyset.fleet)
    if following.version != keyset.version + 1:
        raise RefusedError(
            "key-set %d does not follow %d" % (following.version, keyset.version), "KEY_CHAIN"
        )
    verify(envelope, KEYS, following.keys, following.root, verifier)
    return following

"""Key-sets: which keys may sign what, and how one key-set follows another.

Responsible for: the key-set payload, roles and thresholds (R-08, R-09), the step from version N to
N+1 (R-13, R-14). Not for: keeping key-sets (store.py), walking a package (update.py).
"""

from micropython import const

from .errors import DuplicateError, KeyChainError, MalformedError, TooLargeError
from .jws import KEYS, verify
from .payload import Payload, read_fleet, read_version, require_fleet
from .rsa import Key

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .jws import Envelope
    from .rsa import Verifier
    from .scan import Scanner

_OBJECT = const(0x7B)
_OBJECT_END = const(0x7D)
_ARRAY = const(0x5B)
_ARRAY_END = const(0x5D)

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


def read_keyset(envelope: "Envelope", digest: bytes | None = None) -> KeySet:
    """Decode a key-set whose signatures hold; `digest` must be that of its payload's characters."""
    reader = Payload(envelope, digest)
    keyset = KeySet()
    roles = {}
    for kind in reader.members("keyset", ("fleet", "version", "issued", "keys", "roles")):
        scanner = reader.scanner
        key = scanner.key
        if key == "fleet":
            keyset.fleet = read_fleet(scanner.string(kind))
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
            raise MalformedError("roles: %s missing" % name)
        for kid in roles[name].kids:
            if kid not in keyset.keys:
                raise MalformedError("role %s names a key that is not listed" % name)
    keyset.root = roles["root"]
    keyset.bundle = roles["bundle"]
    return keyset


def _read_keys(scanner: "Scanner", kind: int, keys: dict) -> None:
    scanner.want(kind, _ARRAY)
    while True:
        kind = scanner.next()
        if kind == _ARRAY_END:
            return
        scanner.want(kind, _OBJECT)
        if len(keys) >= _MAX_KEYS:
            raise TooLargeError("more than %d keys" % _MAX_KEYS)
        members = {}
        while True:
            kind = scanner.next()
            if kind == _OBJECT_END:
                break
            name = scanner.key
            if name in ("kty", "alg", "n", "e"):
                members[name] = scanner.string(kind)
            else:
                scanner.skip(kind)
        if len(members) != 4 or members["kty"] != b"RSA":
            raise MalformedError("key must hold kty RSA, alg, n and e")
        key = Key(str(members["alg"], "utf-8"), members["n"], members["e"])
        if key.kid in keys:
            raise DuplicateError("key listed twice")
        keys[key.kid] = key


def _read_roles(scanner: "Scanner", kind: int, roles: dict) -> None:
    scanner.want(kind, _OBJECT)
    while True:
        kind = scanner.next()
        if kind == _OBJECT_END:
            return
        name = scanner.key
        if name != "root" and name != "bundle":
            scanner.skip(kind)
            continue
        scanner.want(kind, _OBJECT)
        threshold = 0
        kids: list = []
        while True:
            kind = scanner.next()
            if kind == _OBJECT_END:
                break
            if scanner.key == "threshold":
                threshold = scanner.integer(kind)
            elif scanner.key == "kids":
                _read_kids(scanner, kind, kids)
            else:
                scanner.skip(kind)
        if not 1 <= threshold <= len(kids):
            raise MalformedError("role %s: %d of %d keys" % (name, threshold, len(kids)))
        roles[name] = Role(threshold, kids)


def _read_kids(scanner: "Scanner", kind: int, kids: list) -> None:
    scanner.want(kind, _ARRAY)
    while True:
        kind = scanner.next()
        if kind == _ARRAY_END:
            return
        kid = str(scanner.string(kind), "utf-8")
        if kid in kids:
            raise DuplicateError("role names a key twice")
        if len(kids) >= _MAX_KEYS:
            raise TooLargeError("role with more than %d keys" % _MAX_KEYS)
        kids.append(kid)


def next_keyset(envelope: "Envelope", keyset: "KeySet", verifier: "Verifier") -> "KeySet":
    """Return the key-set that follows `keyset`, signed by the old and by the new threshold."""
    digest = verify(envelope, KEYS, keyset.keys, keyset.root, verifier)
    following = read_keyset(envelope, digest)
    require_fleet(following.fleet, keyset.fleet)
    if following.version != keyset.version + 1:
        raise KeyChainError("key-set %d does not follow %d" % (following.version, keyset.version))
    verify(envelope, KEYS, following.keys, following.root, verifier)
    return following

"""Bundles: which roots a device shall trust, for what, and the rules their contents must meet.

Responsible for: the bundle payload, roots and their uses (R-25 to R-28, R-30). Not for: signatures
(jws.py), the order of versions (update.py).

Payloads are decoded member by member while they are read from the file; of a root only its facts
and its position stay in memory. Members that are not known are passed over: they are signed, and
a later version of the format may need them.
"""

from hashlib import sha256

from micropython import const

from .der import name_digest, require_root
from .errors import (
    DistrustedError,
    DuplicateError,
    MalformedError,
    NoRootsError,
    NotCAError,
    TooLargeError,
)
from .payload import Payload, read_fleet, read_version
from .sources import Base64Source, base64std, is_digest, read_span

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from .jws import Envelope
    from .scan import Scanner

_OBJECT = const(0x7B)
_OBJECT_END = const(0x7D)
_ARRAY = const(0x5B)
_ARRAY_END = const(0x5D)

_MAX_DER = const(2048)
_MAX_ROOTS = const(8)
_MAX_DISTRUST = const(8)
_MAX_RECOVERY = const(4)
_MAX_URL = const(256)

_USES = ("hub", "dps", "https")
_STATES = (b"active", b"standby", b"retired")


class Root:
    """One root of a bundle: `sha256` (32 bytes), `uses`, `state`, dates, where its DER lies.

    `start` and `end` are positions in the decoded payload; `subject` is der.name_digest.
    """

    def __init__(self) -> None:
        self.sha256 = b""
        self.uses: list = []
        self.state = "active"
        self.subject = b""
        self.not_before = 0
        self.not_after = 0
        self.start = 0
        self.end = 0


class Bundle:
    """A bundle payload: versions, dates, `roots`, `distrust` (list of 32 bytes), `recovery`."""

    def __init__(self) -> None:
        self.fleet = ""
        self.key_version = 0
        self.version = 0
        self.min_version = 0
        self.issued = 0
        self.expires = 0
        self.roots: list = []
        self.distrust: list = []
        self.recovery: list = []


def read_bundle(
    envelope: "Envelope", digest: bytes | None = None, loader: "Callable | None" = None
) -> Bundle:
    """Decode a bundle whose signatures hold and check its contents.

    loader: called with each root's DER; raises ValueError if the TLS library refuses it (R-29).
    """
    reader = Payload(envelope, digest)
    bundle = Bundle()
    needed = ("fleet", "key_version", "version", "min_version", "issued", "expires", "roots")
    for kind in reader.members("bundle", needed):
        scanner = reader.scanner
        key = scanner.key
        if key == "fleet":
            bundle.fleet = read_fleet(scanner.string(kind))
        elif key == "key_version":
            bundle.key_version = read_version(scanner, kind)
        elif key == "version":
            bundle.version = read_version(scanner, kind)
        elif key == "min_version":
            bundle.min_version = read_version(scanner, kind)
        elif key == "issued":
            bundle.issued = scanner.integer(kind)
        elif key == "expires":
            bundle.expires = scanner.integer(kind)
        elif key == "roots":
            _read_roots(reader, kind, bundle.roots, loader)
        elif key == "distrust":
            _read_distrust(scanner, kind, bundle.distrust)
        elif key == "recovery":
            _read_recovery(scanner, kind, bundle.recovery)
        else:
            scanner.skip(kind)
    check_bundle(bundle)
    return bundle


def check_bundle(bundle: Bundle) -> None:
    """Refuse a bundle whose members contradict each other."""
    if bundle.min_version > bundle.version:
        raise MalformedError("min_version above version")
    if bundle.issued >= bundle.expires:
        raise MalformedError("expires not after issued")
    for root in bundle.roots:
        if root.not_after <= bundle.issued:
            raise NotCAError("a root had expired when the bundle was issued")
        if root.sha256 in bundle.distrust:
            raise DistrustedError("the bundle lists a root that it distrusts")


def require_uses(bundle: Bundle, uses: tuple) -> None:
    """Refuse a bundle that leaves no root for a kind of connection the device makes (R-30)."""
    for use in uses:
        for root in bundle.roots:
            if use in root.uses:
                break
        else:
            raise NoRootsError("no root for %s" % use)


def read_der(envelope: "Envelope", root: Root) -> bytes:
    """Read one root's DER again and check that it is still the one that was listed."""
    payload = Base64Source(envelope.source, envelope.payload[0], envelope.payload[1])
    der = base64std(read_span(payload, root.start, root.end))  # type: ignore[arg-type]
    if sha256(der).digest() != root.sha256:
        raise MalformedError("root changed since it was verified")
    return der


def _read_roots(reader: Payload, kind: int, roots: list, loader: "Callable | None") -> None:
    scanner = reader.scanner
    scanner.want(kind, _ARRAY)
    while True:
        kind = scanner.next()
        if kind == _ARRAY_END:
            break
        scanner.want(kind, _OBJECT)
        if len(roots) >= _MAX_ROOTS:
            raise TooLargeError("more than %d roots" % _MAX_ROOTS)
        root = _read_root(scanner, loader)
        for other in roots:
            if other.sha256 == root.sha256:
                raise DuplicateError("root listed twice")
        roots.append(root)
    if not roots:
        raise NoRootsError("no roots")


def _read_root(scanner: "Scanner", loader: "Callable | None") -> Root:
    root = Root()
    digest = b""
    while True:
        kind = scanner.next()
        if kind == _OBJECT_END:
            break
        key = scanner.key
        if key == "sha256":
            digest = scanner.string(kind)
        elif key == "der":
            _read_certificate(scanner.string(kind), root, loader)
            root.start = scanner.start
            root.end = scanner.end
            if root.end - root.start != len(scanner.string(kind)):
                raise MalformedError("root: der written with escapes")
        elif key == "use":
            _read_uses(scanner, kind, root.uses)
        elif key == "state":
            state = scanner.string(kind)
            if state not in _STATES:
                raise MalformedError("root state not known")
            root.state = str(state, "utf-8")
        else:
            scanner.skip(kind)
    if not root.sha256 or not root.uses or not is_digest(digest):
        raise MalformedError("root must hold sha256, der and use")
    if root.sha256.hex() != str(digest, "utf-8"):
        raise MalformedError("root does not have the digest it is listed with")
    return root


def _read_certificate(text: bytes, root: Root, loader: "Callable | None") -> None:
    der = base64std(text)
    if len(der) > _MAX_DER:
        raise TooLargeError("root of %d bytes" % len(der))
    facts = require_root(der)
    root.sha256 = sha256(der).digest()
    root.subject = name_digest(facts.subject)
    root.not_before = facts.not_before
    root.not_after = facts.not_after
    if loader is not None:
        try:
            loader(der)
        except ValueError as error:
            raise NotCAError("the TLS library refuses a root", error)


def _read_uses(scanner: "Scanner", kind: int, uses: list) -> None:
    scanner.want(kind, _ARRAY)
    while True:
        kind = scanner.next()
        if kind == _ARRAY_END:
            return
        use = str(scanner.string(kind), "utf-8")
        if use not in _USES or use in uses:
            raise MalformedError("use not known or named twice")
        uses.append(use)


def _read_distrust(scanner: "Scanner", kind: int, digests: list) -> None:
    scanner.want(kind, _ARRAY)
    while True:
        kind = scanner.next()
        if kind == _ARRAY_END:
            return
        text = scanner.string(kind)
        if not is_digest(text):
            raise MalformedError("distrust: not a digest")
        digest = bytes.fromhex(str(text, "utf-8"))
        if digest in digests:
            raise DuplicateError("distrust: digest twice")
        if len(digests) >= _MAX_DISTRUST:
            raise TooLargeError("more than %d distrusted roots" % _MAX_DISTRUST)
        digests.append(digest)


def _read_recovery(scanner: "Scanner", kind: int, urls: list) -> None:
    scanner.want(kind, _ARRAY)
    while True:
        kind = scanner.next()
        if kind == _ARRAY_END:
            return
        text = scanner.string(kind)
        if not text.startswith(b"http://") and not text.startswith(b"https://"):
            raise MalformedError("recovery: not an http or https URL")
        if len(text) > _MAX_URL or len(urls) >= _MAX_RECOVERY:
            raise TooLargeError("recovery: URL too long, or more than %d" % _MAX_RECOVERY)
        urls.append(str(text, "utf-8"))

"""Bundles: which roots a device shall trust, for what, and the rules their contents must meet.

Responsible for: the bundle payload, roots and their uses (R-25 to R-28, R-30). Not for: signatures
(jws.py), the order of versions (update.py).

Payloads are decoded member by member while they are read from the file; of a root only its facts
and its position stay in memory. Members that are not known are passed over: they are signed, and
a later version of the format may need them.
"""

from hashlib import sha256

from micropython import const

from .der import require_root
from .errors import RefusedError
from .keyset import members, read_fleet, read_version
from .roots import STATES, USES, Bundle, Root, name_digest
from .sources import base64std, is_digest

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from .jws import Envelope
    from .scan import Scanner

_OBJECT = const(0x7B)
_ARRAY = const(0x5B)

_MAX_DER = const(2048)
_MAX_ROOTS = const(8)
_MAX_DISTRUST = const(8)
_MAX_RECOVERY = const(4)
_MAX_URL = const(256)


def read_bundle(
    envelope: "Envelope", digest: bytes | None = None, loader: "Callable | None" = None
) -> Bundle:
    """Decode a bundle whose signatures hold and check its contents.

    loader: called with each root's DER; raises ValueError if the TLS library refuses it (R-29).
    """
    bundle = Bundle()
    bundle.begin = envelope.payload[0]
    needed = ["fleet", "key_version", "version", "min_version", "issued", "expires", "roots"]
    for scanner, key, kind in members(envelope, digest, "bundle", needed):
        if key == "fleet":
            bundle.fleet = read_fleet(scanner, kind)
        elif key in ("key_version", "version", "min_version"):
            setattr(bundle, key, read_version(scanner, kind))
        elif key in ("issued", "expires"):
            setattr(bundle, key, scanner.integer(kind))
        elif key == "roots":
            _read_roots(scanner, kind, bundle.records, loader)
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
        raise RefusedError("min_version above version")
    if bundle.issued >= bundle.expires:
        raise RefusedError("expires not after issued")
    for root in bundle.roots:
        if root.not_after <= bundle.issued:
            raise RefusedError("a root had expired when the bundle was issued", "NOT_CA")
        if root.sha256 in bundle.distrust:
            raise RefusedError("the bundle lists a root that it distrusts", "DISTRUSTED")


def require_uses(bundle: Bundle, uses: tuple) -> None:
    """Refuse a bundle that leaves no root for a kind of connection the device makes (R-30)."""
    for use in uses:
        for root in bundle.roots:
            if use in root.uses:
                break
        else:
            raise RefusedError("no root for %s" % use, "NO_ROOTS")


def _read_roots(scanner: "Scanner", kind: int, records: list, loader: "Callable | None") -> None:
    digests = []
    for item in scanner.each(kind, _ARRAY):
        if len(records) >= _MAX_ROOTS:
            raise RefusedError("more than %d roots" % _MAX_ROOTS, "TOO_LARGE")
        root = _read_root(scanner, item, loader)
        if root.sha256 in digests:
            raise RefusedError("root listed twice", "DUPLICATE")
        digests.append(root.sha256)
        records.append(root.pack())
    if not records:
        raise RefusedError("no roots", "NO_ROOTS")


def _read_root(scanner: "Scanner", kind: int, loader: "Callable | None") -> Root:
    root = Root()
    digest = b""
    for item in scanner.each(kind, _OBJECT):
        key = scanner.key
        if key == "sha256":
            digest = scanner.string(item)
        elif key == "der":
            text = scanner.string(item)
            root.start = scanner.start
            root.end = scanner.end
            if root.end - root.start != len(text):
                raise RefusedError("root: der written with escapes")
            _read_certificate(text, root, loader)
        elif key == "use":
            root.uses = _read_uses(scanner, item)
        elif key == "state":
            root.state = str(scanner.string(item), "utf-8")
            if root.state not in STATES:
                raise RefusedError("root state not known")
        else:
            scanner.skip(item)
    if not root.sha256 or not root.uses or not is_digest(digest):
        raise RefusedError("root must hold sha256, der and use")
    if root.sha256.hex() != str(digest, "utf-8"):
        raise RefusedError("root does not have the digest it is listed with")
    return root


def _read_certificate(text: bytes, root: Root, loader: "Callable | None") -> None:
    der = base64std(text)
    if len(der) > _MAX_DER:
        raise RefusedError("root of %d bytes" % len(der), "TOO_LARGE")
    facts = require_root(der)
    root.sha256 = sha256(der).digest()
    root.subject = name_digest(facts.subject)
    root.not_after = facts.not_after
    if loader is not None:
        try:
            loader(der)
        except ValueError as error:
            raise RefusedError("the TLS library refuses a root", "NOT_CA", error)


def _read_uses(scanner: "Scanner", kind: int) -> tuple:
    uses: tuple = ()
    for text in scanner.strings(kind):
        use = str(text, "utf-8")
        if use not in USES or use in uses:
            raise RefusedError("use not known or named twice")
        uses += (use,)
    return uses


def _read_distrust(scanner: "Scanner", kind: int, digests: list) -> None:
    for text in scanner.strings(kind):
        if not is_digest(text):
            raise RefusedError("distrust: not a digest")
        digest = bytes.fromhex(str(text, "utf-8"))
        if digest in digests:
            raise RefusedError("distrust: digest twice", "DUPLICATE")
        if len(digests) >= _MAX_DISTRUST:
            raise RefusedError("more than %d distrusted roots" % _MAX_DISTRUST, "TOO_LARGE")
        digests.append(digest)


def _read_recovery(scanner: "Scanner", kind: int, urls: list) -> None:
    for text in scanner.strings(kind):
        if not text.startswith(b"http://") and not text.startswith(b"https://"):
            raise RefusedError("recovery: not an http or https URL")
        if len(text) > _MAX_URL or len(urls) >= _MAX_RECOVERY:
            raise RefusedError(
                "recovery: URL too long, or more than %d" % _MAX_RECOVERY, "TOO_LARGE"
            )
        urls.append(str(text, "utf-8"))

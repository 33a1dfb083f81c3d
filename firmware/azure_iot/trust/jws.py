"""Envelopes: JWS General JSON Serialization (RFC 7515 section 7.2.1) in a strict profile.

Responsible for: the shape of packages and envelopes, protected headers, thresholds of signatures
(R-01 to R-04, R-06, R-07, R-10). Not for: what a payload says (bundle.py).

Signed are the characters `protected || "." || payload` exactly as they were received; they are
hashed from the file, and the payload is not decoded before the threshold holds.
"""

from hashlib import sha256

from micropython import const

from .errors import RefusedError
from .scan import Scanner
from .sources import BytesSource, base64url, is_base64url, read_full, read_span

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .keyset import Role
    from .rsa import Verifier
    from .sources import Hash, Source

_OBJECT = const(0x7B)
_ARRAY = const(0x5B)
_STRING = const(0x22)

_MAX_PACKAGE = const(32768)
_MAX_BRACKETS = const(40)
_MAX_KEYSETS = const(4)
_MAX_KEYSET = const(8192)
_MAX_BUNDLE = const(16384)
_MAX_SIGNATURES = const(8)
_MAX_HEADER = const(192)  # base64url characters; the longest allowed header has 132
_MAX_SIGNATURE = const(683)  # base64url characters of 4,096 bits
_CHUNK = const(512)

KEYS = "trust-keys+jws"
BUNDLE = "trust-bundle+jws"


class Envelope:
    """Where one envelope lies in its source: `start`..`end`, `payload` and `signatures` spans.

    `payload` is (start, end); each entry of `signatures` is (protected start, protected end,
    signature start, signature end). All are positions of characters, nothing is copied.
    """

    def __init__(self, source: "Source") -> None:
        self.source = source
        self.start = 0
        self.end = 0
        self.payload = (0, 0)
        self.signatures: list = []


class Header:
    """A protected header: `alg`, `kid`, `typ`, all of the closed sets."""

    def __init__(self, alg: str, kid: str, typ: str) -> None:
        self.alg = alg
        self.kid = kid
        self.typ = typ


def scan_package(source: "Source") -> tuple:
    """Return (list of key-set envelopes, bundle envelope) of `{"keysets":[…],"bundle":{…}}`."""
    scanner = Scanner(source, _MAX_PACKAGE, 0, _MAX_BRACKETS)
    keysets = None
    bundle = None
    for kind in scanner.each(scanner.next(), _OBJECT):
        if scanner.key == "keysets":
            keysets = []
            for item in scanner.each(kind, _ARRAY):
                if len(keysets) >= _MAX_KEYSETS:
                    raise RefusedError("more than %d key-sets" % _MAX_KEYSETS, "TOO_LARGE")
                keysets.append(_envelope(source, scanner, item, _MAX_KEYSET))
        elif scanner.key == "bundle":
            bundle = _envelope(source, scanner, kind, _MAX_BUNDLE)
        else:
            _unknown(scanner)
    scanner.want(scanner.next(), 0)
    if keysets is None or bundle is None:
        raise RefusedError("package: keysets or bundle missing")
    return keysets, bundle


def scan_envelope(source: "Source", typ: str) -> Envelope:
    """Return the one envelope that fills a slot or key-set file."""
    limit = _MAX_BUNDLE if typ == BUNDLE else _MAX_KEYSET
    scanner = Scanner(source, limit, 0, 2 + _MAX_SIGNATURES)
    envelope = _envelope(source, scanner, scanner.next(), limit)
    scanner.want(scanner.next(), 0)
    return envelope


def _envelope(source: "Source", scanner: Scanner, kind: int, limit: int) -> Envelope:
    envelope = Envelope(source)
    envelope.start = scanner.start
    for item in scanner.each(kind, _OBJECT):
        if scanner.key == "payload":
            scanner.want(item, _STRING)
            envelope.payload = (scanner.start, scanner.end)
        elif scanner.key == "signatures":
            for signature in scanner.each(item, _ARRAY):
                if len(envelope.signatures) >= _MAX_SIGNATURES:
                    raise RefusedError("more than %d signatures" % _MAX_SIGNATURES, "TOO_LARGE")
                envelope.signatures.append(_signature(scanner, signature))
        else:
            _unknown(scanner)
    envelope.end = scanner.end
    if envelope.payload[1] == 0 or not envelope.signatures:
        raise RefusedError("envelope: payload or signatures missing")
    size = envelope.end - envelope.start
    if size > limit:
        raise RefusedError("envelope: %d bytes, %d allowed" % (size, limit), "TOO_LARGE")
    return envelope


def _signature(scanner: Scanner, kind: int) -> tuple:
    protected = signature = (0, 0)
    for item in scanner.each(kind, _OBJECT):
        scanner.want(item, _STRING)
        if scanner.key == "protected":
            protected = (scanner.start, scanner.end)
        elif scanner.key == "signature":
            signature = (scanner.start, scanner.end)
        else:
            _unknown(scanner)
    if not protected[1] or not signature[1]:
        raise RefusedError("protected or signature missing")
    if protected[1] - protected[0] > _MAX_HEADER or signature[1] - signature[0] > _MAX_SIGNATURE:
        raise RefusedError("protected or signature too long", "TOO_LARGE")
    return protected + signature


def _unknown(scanner: Scanner) -> None:
    raise RefusedError("unknown member %s" % scanner.key)


def read_header(text: bytes) -> Header:
    """Return the protected header that the base64url characters `text` hold, exactly three members."""
    raw = base64url(text)
    scanner = Scanner(BytesSource(raw), len(raw), 64, 2)
    members = {}
    for kind in scanner.each(scanner.next(), _OBJECT):
        members[scanner.key] = str(scanner.string(kind), "utf-8")
    scanner.want(scanner.next(), 0)
    alg = members.get("alg")
    kid = members.get("kid")
    typ = members.get("typ")
    if len(members) != 3 or alg is None or kid is None or typ is None:
        raise RefusedError("protected header must hold alg, kid and typ")
    if alg != "PS256" and alg != "RS256":
        raise RefusedError("protected header: alg not allowed")
    if typ != KEYS and typ != BUNDLE:
        raise RefusedError("protected header: typ not allowed")
    if len(kid) != 43 or not is_base64url(kid.encode()):
        raise RefusedError("protected header: kid is no thumbprint")
    return Header(alg, kid, typ)


def verify(envelope: Envelope, typ: str, keys: dict, role: "Role", verifier: "Verifier") -> bytes:
    """Verify the threshold of `role`; return the SHA-256 of the payload's characters.

    keys: kid -> Key. role: `threshold` and `kids`. verifier: `(key, digest, signature)`, raises
    BAD_SIGNATURE. Every header must fit the profile; a signature counts only if its typ, kid
    and alg fit a key of the role; further ones, by whomever, do no harm.
    """
    source = envelope.source
    headers = []
    kids = []
    for protected, protected_end, _, _ in envelope.signatures:
        header = read_header(read_span(source, protected, protected_end))
        if header.kid in kids:
            raise RefusedError("two signatures by one key", "DUPLICATE")
        kids.append(header.kid)
        headers.append(header)
    good = 0
    bad = None
    digest = None
    for header, span in zip(headers, envelope.signatures):
        signature = base64url(read_span(source, span[2], span[3]))
        if good >= role.threshold or header.typ != typ or header.kid not in role.kids:
            continue
        key = keys[header.kid]
        if header.alg != key.alg:
            continue
        signed, digest = _digests(envelope, span)
        try:
            verifier(key, signed, signature)
            good += 1
        except RefusedError as error:
            if error.code != "BAD_SIGNATURE":
                raise
            bad = error
    if good < role.threshold:
        if bad is not None:
            raise bad
        raise RefusedError(
            "%d signatures of the role, %d required" % (good, role.threshold), "THRESHOLD"
        )
    return digest


def _digests(envelope: Envelope, span: tuple) -> tuple:
    """Return (SHA-256 of the signing input, SHA-256 of the payload's characters)."""
    signed = sha256(read_span(envelope.source, span[0], span[1]))
    signed.update(b".")
    payload = sha256()
    _feed(envelope.source, envelope.payload, signed, payload)
    return signed.digest(), payload.digest()


def payload_digest(envelope: Envelope) -> bytes:
    """Return the SHA-256 of the payload's characters."""
    payload = sha256()
    _feed(envelope.source, envelope.payload, payload, None)
    return payload.digest()


def _feed(source: "Source", span: tuple, first: "Hash", second: "Hash | None") -> None:
    buffer = bytearray(_CHUNK)
    at, end = span
    source.seek(at)
    while at < end:
        view = memoryview(buffer)[: min(_CHUNK, end - at)]
        if read_full(source, view) != len(view):
            raise RefusedError("file shorter than before")
        first.update(view)
        if second is not None:
            second.update(view)
        at += len(view)

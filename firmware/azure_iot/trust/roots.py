"""The roots a device carries, and handing them out: what a TLS context asks for in a handshake.

Responsible for: the facts of a bundle and its roots, the roots for one use minus every distrusted
one, reading one from flash when a chain needs it. Not for: which bundle is in use (ladder.py),
reading a bundle (bundle.py).

This module stays loaded: mbedTLS asks at the peak of memory, so a read needs a few hundred bytes
beside the certificate, and imports nothing.
"""

from binascii import a2b_base64
from hashlib import sha256
from io import BytesIO
from struct import pack, unpack

from micropython import const

from .errors import RefusedError

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Iterator

_SEQUENCE = const(0x30)
_SET = const(0x31)
_OID = const(0x06)
_SHA256 = const(32)
_SUBJECT = const(8)
_RECORD = "<32s8sqHHB"  # sha256, subject, not_after, start, end, uses and state as bits
USES = ("hub", "dps", "https")
STATES = ("active", "standby", "retired")
_CHUNK = const(256)  # characters read at a time, a multiple of 4


class Root:
    """One root of a bundle: `sha256` (32 bytes), `uses`, `state`, `not_after`, where its DER lies.

    `start` and `end` are positions in the decoded payload; `subject` is name_digest. In memory a
    root stays as its record, a tenth of this object: `pack()` makes it, `Root(record)` reads it.
    """

    def __init__(self, record: "bytes | None" = None) -> None:
        self.sha256 = self.subject = b""
        self.not_after = self.start = self.end = 0
        self.uses: tuple = ()
        self.state = STATES[0]
        if record is not None:
            self.sha256, self.subject, self.not_after, self.start, self.end, bits = unpack(
                _RECORD, record
            )
            self.uses = tuple([use for i, use in enumerate(USES) if bits >> i & 1])
            self.state = STATES[bits >> 3]

    def pack(self) -> bytes:
        """Return the record; of the subject, which only preselects, eight bytes."""
        bits = STATES.index(self.state) << 3
        for use in self.uses:
            bits |= 1 << USES.index(use)
        return pack(_RECORD, self.sha256, self.subject, self.not_after, self.start, self.end, bits)


class Bundle:
    """A bundle payload: versions, dates, `records` of roots, `distrust` (list of 32 bytes), `recovery`.

    `text` is the path or the bytes that hold the envelope, `begin` where its payload begins; of a
    device without a key-set `text` is its tuple of DERs, and `start` of a root the place in it.
    """

    def __init__(self) -> None:
        self.fleet = ""
        self.key_version = 0
        self.version = 0
        self.min_version = 0
        self.issued = 0
        self.expires = 0
        self.records: list = []
        self.distrust: list = []
        self.recovery: list = []
        self.text: object = None
        self.begin = 0

    @property
    def roots(self) -> list:
        """A Root for each record."""
        return [Root(record) for record in self.records]


class RootSet:
    """Some roots of a bundle, read when they are asked for.

    `roots(issuer)` returns the DERs (bytearrays) whose subject is the raw name `issuer` (RFC 5280
    section 7.1 comparison); `for der in roots`, or `roots(b"")`, reads all, one after the other;
    `get(sha256)` reads one.
    """

    def __init__(self, bundle: Bundle, records: list) -> None:
        self._bundle = bundle
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __call__(self, issuer: bytes) -> "list | RootSet":
        if not issuer:
            return self
        try:
            wanted = name_digest(issuer)[:_SUBJECT]
        except RefusedError:
            return []
        return [
            read_root(self._bundle, record)
            for record in self._records
            if record[_SHA256 : _SHA256 + _SUBJECT] == wanted
        ]

    def __iter__(self) -> "Iterator[bytes]":
        for record in self._records:
            yield bytes(read_root(self._bundle, record))

    def digests(self) -> list:
        """Return the SHA-256 of each root."""
        return [record[:_SHA256] for record in self._records]

    def get(self, sha256: bytes) -> "bytes | None":
        """Return the DER with this digest, or None."""
        for der in self.only(sha256):
            return der
        return None

    def only(self, sha256: bytes) -> "RootSet":
        """Return a set of this one root."""
        return RootSet(self._bundle, [r for r in self._records if r[:_SHA256] == sha256])


class Attempt:
    """The roots for one connection of kind `use`: `roots`, `source`, `is_trial`, `version`."""

    def __init__(
        self, source: str, roots: RootSet, use: "str | None", version: int, sha256: "str | None"
    ) -> None:
        self.source = source
        self.roots = roots
        self.use = use
        self.version = version
        self.sha256 = sha256
        self.is_trial = source == "trial"
        self.spent = False  # a try was taken for it
        self.full = False  # a full handshake with these roots succeeded
        self.open = True  # no outcome yet
        self.not_before: int | None = None


def usable(bundle: Bundle, use: "str | None", distrust: list) -> RootSet:
    """Return the roots of a bundle that serve `use` (None: any) and are not distrusted."""
    mask = 0xFF if use is None else 1 << USES.index(use)
    return RootSet(
        bundle, [r for r in bundle.records if r[-1] & mask and r[:_SHA256] not in distrust]
    )


def read_root(bundle: Bundle, record: bytes) -> "bytes | bytearray":
    """Read one root's DER and check that it is still the one that was listed."""
    digest, _, _, start, end, _ = unpack(_RECORD, record)
    text = bundle.text
    if isinstance(text, tuple):
        return bytes(text[start])
    try:
        with open(text, "rb") if isinstance(text, str) else BytesIO(text) as file:
            der = _read(file, bundle.begin, start, end)
    except (OSError, ValueError) as error:
        raise RefusedError("a root cannot be read", "STORAGE", error)
    if sha256(der).digest() != digest:
        raise RefusedError("root changed since it was verified")
    return der


def _read(file: object, begin: int, start: int, end: int) -> bytearray:
    """Decode standard base64 at `start` to `end` within the base64url payload at `begin`."""
    file.seek(begin + start // 3 * 4)
    unread = ((end + 2) // 3 - start // 3) * 4
    skip = start % 3
    left = end - start
    text = b""
    der = bytearray(left // 4 * 3)  # at once: growing it would take twice as much
    at = 0
    while left > 0:
        chunk = file.read(min(_CHUNK, unread))
        unread -= len(chunk)
        text += a2b_base64(chunk.replace(b"-", b"+").replace(b"_", b"/"))[skip:]
        skip = 0
        n = min(len(text), left) & -4
        if not n:
            raise ValueError
        part = a2b_base64(text[:n])
        der[at : at + len(part)] = part
        at += len(part)
        text = text[n:]
        left -= n
    der[at:] = b""  # up to two bytes of padding
    return der


def element(data: bytes, at: int, last: int, tag: int = 0) -> tuple:
    """Return (tag, start, end) of the DER element at `at`, which must end by `last`."""
    if at + 2 > last:
        raise RefusedError("DER ends early")
    found = data[at]
    length = data[at + 1]
    at += 2
    if length >= 0x80:
        count = length & 0x7F
        if count > 2 or at + count > last:
            raise RefusedError("DER: length form not allowed")
        length = int.from_bytes(data[at : at + count], "big")
        at += count
        # No byte at all, the indefinite form, gives 0.
        if length < 0x80 or (count == 2 and length < 0x100):
            raise RefusedError("DER: length not minimal")
    if at + length > last:
        raise RefusedError("DER ends early")
    if tag and found != tag:
        raise RefusedError("DER: tag %d, %d expected" % (found, tag))
    return found, at, at + length


def name_digest(name: bytes) -> bytes:
    """Return a digest equal for names that RFC 5280 section 7.1 holds equal.

    String types, letter case and surplus spaces do not count, so that an intermediate that spells
    its issuer as UTF8String still finds a root that spells itself as PrintableString.
    """
    digest = sha256()
    _, group, last = element(name, 0, len(name), _SEQUENCE)
    while group < last:
        _, pair, group = element(name, group, last, _SET)
        while pair < group:
            _, at, pair = element(name, pair, group, _SEQUENCE)
            _, start, end = element(name, at, pair, _OID)
            digest.update(name[start:end])
            _, start, end = element(name, end, pair)
            text = b" ".join([w for w in name[start:end].lower().split(b" ") if w])
            digest.update(bytes((len(text) & 0xFF,)))
            digest.update(text)
        digest.update(b"\x00")
    return digest.digest()

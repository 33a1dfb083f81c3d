"""The few facts of an X.509 certificate that decide whether it can be a root.

Responsible for: a strict DER walk (definite, minimal lengths; nothing behind the end), version,
names, dates, BasicConstraints, KeyUsage (R-26, R-27). Not for: names that are equal (roots.py),
signatures and chains; mbedTLS judges those at every handshake. Specification: RFC 5280 section 4.1, X.690.
"""

from micropython import const

from azure_iot.dates import unix_seconds

from .errors import RefusedError
from .roots import element

_SEQUENCE = const(0x30)
_INTEGER = const(0x02)
_BOOLEAN = const(0x01)
_BIT_STRING = const(0x03)
_OCTET_STRING = const(0x04)
_OID = const(0x06)
_UTC_TIME = const(0x17)
_GENERALIZED_TIME = const(0x18)
_VERSION = const(0xA0)
_EXTENSIONS = const(0xA3)

_KEY_CERT_SIGN = const(0x04)  # bit 5, counted from the most significant
_BASIC_CONSTRAINTS = b"\x55\x1d\x13"
_KEY_USAGE = b"\x55\x1d\x0f"


class Walk:
    """Elements of one DER value, first to last; `tag` and `start`..`end` name the present one."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self._data = data
        self._next = start
        self._last = end
        self.tag = 0
        self.head = 0
        self.start = start
        self.end = start

    def more(self) -> bool:
        """Tell whether another element follows."""
        return self._next < self._last

    def step(self, tag: int = 0) -> "Walk":
        """Go to the next element, which must have `tag` if one is given."""
        self.head = self._next
        self.tag, self.start, self.end = element(self._data, self._next, self._last, tag)
        self._next = self.end
        return self

    def inside(self) -> "Walk":
        """Walk the elements within the present one."""
        return Walk(self._data, self.start, self.end)

    def value(self) -> bytes:
        """Return the contents of the present element."""
        return self._data[self.start : self.end]


class Facts:
    """What the store keeps about a root: `subject`, `issuer` (raw names), dates, `serial`."""

    def __init__(self) -> None:
        self.version = 1
        self.issuer = b""
        self.subject = b""
        self.not_before = 0
        self.not_after = 0
        self.public_key = b""
        self.is_ca = False
        self.may_sign = True


def read(der: bytes) -> Facts:
    """Return the facts of one certificate, which must fill `der` exactly."""
    outer = Walk(der, 0, len(der)).step(_SEQUENCE)
    if outer.end != len(der):
        raise RefusedError("bytes after the certificate")
    parts = outer.inside()
    facts = Facts()
    _body(der, parts.step(_SEQUENCE).inside(), facts)
    parts.step(_SEQUENCE)
    parts.step(_BIT_STRING)
    if parts.more():
        raise RefusedError("certificate: more than three parts")
    return facts


def require_root(der: bytes) -> Facts:
    """Return the facts of a certificate that may act as a root (RFC 5280 sections 4.2.1.3, .9)."""
    facts = read(der)
    if facts.version != 3:
        raise RefusedError("certificate version %d, 3 required" % facts.version, "NOT_CA")
    if not facts.is_ca:
        raise RefusedError("certificate is not marked as an authority", "NOT_CA")
    if not facts.may_sign:
        raise RefusedError("certificate may not sign certificates", "NOT_CA")
    return facts


def _body(der: bytes, body: Walk, facts: Facts) -> None:
    body.step()
    if body.tag == _VERSION:
        facts.version = int.from_bytes(body.inside().step(_INTEGER).value(), "big") + 1
        body.step()
    if body.tag != _INTEGER:
        raise RefusedError("certificate: no serial number")
    body.step(_SEQUENCE)
    body.step(_SEQUENCE)
    facts.issuer = der[body.head : body.end]
    dates = body.step(_SEQUENCE).inside()
    facts.not_before = _time(dates.step())
    facts.not_after = _time(dates.step())
    body.step(_SEQUENCE)
    facts.subject = der[body.head : body.end]
    body.step(_SEQUENCE)
    facts.public_key = der[body.head : body.end]
    while body.more():
        body.step()
        if body.tag == _EXTENSIONS:
            _extensions(body.inside().step(_SEQUENCE).inside(), facts)


def _extensions(items: Walk, facts: Facts) -> None:
    seen = []
    while items.more():
        item = items.step(_SEQUENCE).inside()
        name = item.step(_OID).value()
        if name in seen:
            raise RefusedError("certificate: extension twice")
        seen.append(name)
        item.step()
        if item.tag == _BOOLEAN:
            item.step()
        if item.tag != _OCTET_STRING:
            raise RefusedError("certificate: extension without value")
        if name == _BASIC_CONSTRAINTS:
            flags = item.inside().step(_SEQUENCE).inside()
            facts.is_ca = (
                flags.more() and flags.step().tag == _BOOLEAN and flags.value() == b"\xff"
            )
        elif name == _KEY_USAGE:
            bits = item.inside().step(_BIT_STRING).value()
            facts.may_sign = len(bits) >= 2 and bool(bits[1] & _KEY_CERT_SIGN)


def _time(item: Walk) -> int:
    """Return Unix seconds of `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280 section 4.1.2.5)."""
    text = item.value()
    if item.tag == _UTC_TIME and len(text) == 13:
        text = (b"19" if text[0] >= 0x35 else b"20") + text
    elif item.tag != _GENERALIZED_TIME or len(text) != 15:
        raise RefusedError("certificate: date form")
    if text[14] != 0x5A or text[:14].strip(b"0123456789"):
        raise RefusedError("certificate: date form")
    return unix_seconds(
        int(text[:4]),
        int(text[4:6]),
        int(text[6:8]),
        int(text[8:10]) * 3600 + int(text[10:12]) * 60 + int(text[12:14]),
    )

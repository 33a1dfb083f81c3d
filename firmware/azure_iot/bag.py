"""Percent-encoding and the property bags of IoT Hub topics.

Responsible for: `quote`, `unquote`, bags (`a=1&b=`), the query tail of a topic (`?$rid=1`).
Not for: topics themselves (hub.py, dps.py), tokens (sas.py).
Source: RFC 3986 §2.1; a space is `%20`, never `+`, and a key may stand without `=`.
"""

from micropython import const

_PERCENT = const(0x25)


def quote(text: str) -> str:
    """Percent-encode everything but letters, digits and `-._~`, with upper-case digits.

    Shape: `a b/ü` becomes `a%20b%2F%C3%BC`.
    """
    out = []
    changed = False
    for byte in text.encode():
        if _is_safe(byte):
            out.append(chr(byte))
        else:
            out.append("%%%02X" % byte)
            changed = True
    return "".join(out) if changed else text


def _is_safe(byte: int) -> bool:
    if byte >= 0x61:
        return byte <= 0x7A or byte == 0x7E
    if byte >= 0x41:
        return byte <= 0x5A or byte == 0x5F
    return 0x30 <= byte <= 0x39 or byte == 0x2D or byte == 0x2E


def unquote(text: str) -> str:
    """Undo `quote`; a `%` without two hexadecimal digits behind it stays as it is.

    Raises UnicodeError when the bytes are not UTF-8.
    """
    if "%" not in text:
        return text
    raw = text.encode()
    out = bytearray()
    at = 0
    while at < len(raw):
        byte = raw[at]
        if byte == _PERCENT and _is_hex(raw[at + 1 : at + 3]):
            byte = int(raw[at + 1 : at + 3], 16)
            at += 2
        out.append(byte)
        at += 1
    return bytes(out).decode()


def _is_hex(pair: bytes) -> bool:
    if len(pair) != 2:
        return False
    for byte in pair:
        if byte not in b"0123456789abcdefABCDEF":
            return False
    return True


def encode_bag(properties: dict) -> str:
    """Encode a property bag: `a=1&b=&c`; a value of None gives a key without `=`."""
    parts = []
    for key, value in properties.items():
        if value is None:
            parts.append(quote(key))
        else:
            parts.append("%s=%s" % (quote(key), quote(text(value))))
    return "&".join(parts)


def text(value: object) -> str:
    """Give a property value as text: JSON's spelling for booleans, nothing for None."""
    if value is None:
        return ""
    if value is True:
        return "true"
    if value is False:
        return "false"
    return value if isinstance(value, str) else str(value)


def decode_bag(bag: str) -> dict:
    """Decode a property bag, with or without a leading `?` or a trailing `/`.

    `a=1&b=&c` gives `{"a": "1", "b": "", "c": None}`. Raises UnicodeError.
    """
    if bag.startswith("?"):
        bag = bag[1:]
    if bag.endswith("/"):
        bag = bag[:-1]
    found = {}
    for part in bag.split("&"):
        key, equals, value = part.partition("=")
        if key:
            found[unquote(key)] = unquote(value) if equals else None
    return found

"""What a compiled module consists of: its names, its constants, its bytecode.

Responsible for: reading the three parts of an .mpy file of version 6 (MicroPython,
tools/mpy-tool.py: header, table of names, table of objects, code).
"""

from __future__ import annotations

_STR, _BYTES, _INT, _FLOAT, _COMPLEX, _TUPLE = 5, 6, 7, 8, 9, 10


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of seven bits a byte; return it and where it ends."""
    n = 0
    while True:
        n = n << 7 | data[at] & 127
        at += 1
        if data[at - 1] < 128:
            return n, at


def _skip(data: bytes, at: int) -> int:
    """Return where the constant at `at` ends."""
    kind = data[at]
    at += 1
    if kind < _STR:
        return at
    size, at = _number(data, at)
    if kind == _TUPLE:
        for _ in range(size):
            at = _skip(data, at)
        return at
    return at + size + (kind in (_STR, _BYTES))


def sections(data: bytes) -> dict[str, int]:
    """Bytes of `names`, `constants` and `bytecode`; the header of a few bytes counts as names."""
    if data[:2] != b"M\x06":
        raise ValueError("not an .mpy file of version 6")
    names, at = _number(data, 4)
    constants, at = _number(data, at)
    for _ in range(names):
        size, at = _number(data, at)
        if not size & 1:  # else one that every firmware has, by number
            at += (size >> 1) + 1
    start = at
    for _ in range(constants):
        at = _skip(data, at)
    return {"names": start, "constants": at - start, "bytecode": len(data) - at}

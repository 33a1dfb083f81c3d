"""Whether a connection has room at all, asked before a byte is sent.

Responsible for: the free memory of the heap that mbedTLS uses here, refusing what no handshake fits
in. Not for: what a connection will take (planner.py), a shortage under way (verdict MEMORY).

A refusal must never be wrong: it counts what the smallest handshake takes, and comes only after
garbage was collected. Source: MicroPython documentation, esp32.idf_heap_info. Not yet run on hardware.
"""

import gc

from micropython import const

from ..errors import ConnectionFailedError

try:
    import tlsopt
except ImportError:  # stock firmware
    tlsopt = None

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .profile import TLSProfile

_BUFFER = const(333)  # beyond its content
_LEAST = const(3400)  # of a resumed handshake; a full one with the smallest chain takes 5,700
_PLENTY = const(1 << 29)


def check(profile: "TLSProfile") -> None:
    """Refuse a connection without room. Raises ConnectionFailedError ("memory")."""
    sizes = profile.build.in_len, profile.build.out_len
    least = sum(sizes, 2 * _BUFFER + _LEAST)
    look = _platform if profile.memory is True else profile.memory
    for short in (False, True):
        if short:
            gc.collect()  # not every time: it costs more than a resumed handshake
        free, block = look()
        if free >= least and (not block or block >= max(sizes) + _BUFFER):
            return
    raise ConnectionFailedError(
        "TLS needs %d bytes of heap, %d are free (largest block %s): free memory, or build with "
        "smaller CONFIG_MBEDTLS_SSL_IN_CONTENT_LEN" % (least, free, block or "unknown"),
        "memory",
    )


def _platform() -> tuple:
    """Return (free bytes, largest free block or 0)."""
    free = block = 0
    try:
        from esp32 import HEAP_DATA, idf_heap_info

        for _, unused, largest, _ in idf_heap_info(HEAP_DATA):
            free += unused
            block = max(block, largest)
    except ImportError:  # TLS shares the heap of Python, or has one that nobody can ask about
        free = gc.mem_free() if hasattr(tlsopt, "mem") else _PLENTY
    return free, block

"""What the device reports about itself: the twin sections trust, tls and clock.

Responsible for: the shape that contracts.md section 1 gives. Not for: sending it (client.py).
"""

import gc

from micropython import const

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .trust.manager import TrustManager

_TLS = ("version", "suite", "mfl_asked", "mfl_acknowledged", "resumed", "plan")
_PAGE = const(4096)


def sections(trust: "TrustManager | None", facts: dict, clock: object) -> dict:
    """Give `{"trust": {…}, "tls": {…}, "clock": {…}}`; no secret is ever part of it."""
    body = {
        "tls": tls_section(facts),
        "clock": clock.report(trust.time_floor() if trust is not None else clock.unix_time()),
    }
    if trust is not None:
        body["trust"] = trust.report()
    return body


def tls_section(facts: dict) -> dict:
    """Give what the connection settled on; heap figures are rounded so that they rarely change."""
    section = {}
    for name in _TLS:
        if name in facts:
            section[name] = facts[name]
    for name in ("heap_peak", "heap_connected"):
        value = facts.get(name, gc.mem_alloc() if name == "heap_connected" else 0)
        section[name] = value // _PAGE * _PAGE
    return section

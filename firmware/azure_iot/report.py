"""What the device reports about itself: the twin sections trust, tls and clock.

Responsible for: the shape that contracts.md section 1 gives. Not for: sending it (client.py).
"""

import gc

from micropython import const

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .trust.manager import TrustManager

_DAY = const(86400)
_TLS = ("version", "suite", "mfl_asked", "mfl_acknowledged", "resumed", "plan")
_PAGE = const(4096)


def sections(trust: "TrustManager | None", facts: dict, clock: object) -> dict:
    """Give `{"trust": {…}, "tls": {…}, "clock": {…}}`; no secret is ever part of it."""
    body = {"tls": tls_section(facts), "clock": clock_section(trust, clock)}
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


def clock_section(trust: "TrustManager | None", clock: object) -> dict:
    """Give where the time came from (trust-store T10)."""
    floor = trust.time_floor() if trust is not None else 0
    age = max(0, clock.unix_time() - floor) // _DAY if floor else 0
    return {
        "source": getattr(clock, "source", "ntp" if clock.synchronised else "floor"),
        "ntp_delta": getattr(clock, "ntp_delta", 0),
        "floor_age_days": age,
    }

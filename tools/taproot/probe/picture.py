"""Draws handshakes as ladders: who sent which record, with how many bytes."""

from __future__ import annotations

from typing import Any

from taproot.probe.flight import Flight
from taproot.probe.resumption import Shake

_KINDS = {20: "ChangeCipherSpec", 21: "Alert", 22: "Handshake", 23: "Application data"}
_WIDTH = 34


def ladders(drawn: dict[str, Any]) -> list[str]:
    """Lines of all ladders, one after the other."""
    lines: list[str] = []
    for title, one in drawn.items():
        lines += ["", title, "client" + " " * (_WIDTH - 2) + "server"]
        lines += _flight(one) if isinstance(one, Flight) else _shake(one)
    return lines


def _flight(flight: Flight) -> list[str]:
    lines = [_rung(">", "ClientHello", flight.sent - 5)]
    lines += [_rung("<", _KINDS.get(kind, f"type {kind}"), size) for kind, size in flight.records]
    total = sum(5 + size for _, size in flight.records)
    end = flight.alert or flight.note or "first flight complete"
    return [*lines, f"  {flight.sent} bytes up, {total} down; {end}"]


def _shake(shake: Shake) -> list[str]:
    lines = [
        _rung(way, _KINDS.get(kind, f"type {kind}"), size) for way, kind, size in shake.records
    ]
    kind = "resumed" if shake.resumed else "full"
    said = shake.error or f"{kind}, {shake.version}, {shake.suite}"
    return [*lines, f"  {shake.bytes('>')} bytes up, {shake.bytes('<')} down; {said}"]


def _rung(way: str, what: str, size: int) -> str:
    text = f" {what}, {size} "
    line = text.center(_WIDTH, "-")
    return f"   |{line}>|" if way == ">" else f"   |<{line}|"

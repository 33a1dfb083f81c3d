"""What a hub allows and how it reacts: api-versions, documented limits, unknown reactions.

Responsible for: the numbers and switches, with their checks. Not for: applying them
(`hub.py`, `session.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

STABLE_VERSIONS = ("2018-06-30", "2019-10-01", "2020-09-30", "2021-04-12")
PREVIEW_VERSIONS = ("2025-08-01-preview",)


@dataclass
class Reactions:
    """What nobody can know without a live hub: each guess is a switch."""

    unknown_filter: str = "suback"  # "suback" = 0x80, "close"
    too_many_filters: str = "suback"  # "suback" = 0x80, "close"
    unknown_topic: str = "close"  # "close", "ignore"
    missing_api_version: str = (
        "report"  # "report" = accept and log a client error, "refuse", "accept"
    )
    unknown_api_version: int = 5  # CONNACK code
    client_id_mismatch: int = 5  # CONNACK code
    unknown_host: int = 5  # CONNACK code
    throttled_connect: int = 3  # CONNACK code; 0 closes without one
    clean_session_drops_c2d: bool = True

    _CHOICES = {
        "unknown_filter": ("suback", "close"),
        "too_many_filters": ("suback", "close"),
        "unknown_topic": ("close", "ignore"),
        "missing_api_version": ("report", "refuse", "accept"),
    }

    def __post_init__(self) -> None:
        for name, allowed in self._CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}")


@dataclass
class Limits:
    """Documented limits (some pages are years old: numbers may have moved)."""

    subscriptions: int = 5
    d2c_bytes: int = 262_144
    c2d_bytes: int = 65_536
    c2d_pending: int = 50
    c2d_deliveries: int = 10
    c2d_ttl: float = 3600.0
    twin_bytes: int = 32_768
    tags_bytes: int = 8_192
    connects_per_second: float = 0.0  # S1: 100; 0 is no limit
    d2c_per_second: float = 0.0  # S1: 100
    twin_per_second: float = 0.0  # S1: 50
    messages_kept: int = 50_000

"""The fault scenarios that need a real broker: restart, kill, eviction, session resume."""

from __future__ import annotations

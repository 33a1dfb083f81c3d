"""What happened, in order: the event list that tests, `status` and the event stream read.

Responsible for: numbered events with a time, a bounded memory of them, watchers. An event is a
dict with `seq`, `time`, `type` and facts; no event carries a key, a token or a password.
Not for: telemetry bodies (`telemetry.py` keeps those), text logs.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from itertools import islice
from typing import Any

Event = dict[str, Any]
Watcher = Callable[[Event], None]


class Recorder:
    """Keeps the last `limit` events."""

    def __init__(self, now: Callable[[], float], limit: int = 200_000) -> None:
        self._now = now
        self._events: deque[Event] = deque(maxlen=limit)
        self._watchers: list[Watcher] = []
        self.seq = 0
        self.counts: Counter[str] = Counter()

    def emit(self, type: str, **facts: Any) -> None:
        """Record one event; facts that are None are left out."""
        self.seq += 1
        event: Event = {"seq": self.seq, "time": self._now(), "type": type}
        if None in facts.values():
            facts = {name: fact for name, fact in facts.items() if fact is not None}
        event.update(facts)
        self.counts[type] += 1
        self._events.append(event)
        if self._watchers:
            for watcher in list(self._watchers):
                watcher(event)

    def since(self, seq: int = 0) -> list[Event]:
        """Return the events after number `seq` that are still kept."""
        fresh = min(self.seq - seq, len(self._events))
        if fresh <= 0:
            return []
        return list(islice(self._events, len(self._events) - fresh, None))

    def of(self, *types: str) -> list[Event]:
        """Return the kept events of these types."""
        return [event for event in self._events if event["type"] in types]

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher` with each new event; the result stops it."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

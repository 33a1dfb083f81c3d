"""What time has passed for certain, and how a wrong clock is put right (T1, T4, T5, T10).

Responsible for: the floor of time over what the store and the factory know, repair in steps. Not
for: the clock (clock.py), asking time servers (timekeeper.py).
"""

from micropython import const

from .errors import StorageError

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from azure_iot.clock import Clock

    from .store import Store

REPAIRS = 3  # ways to repair the time: NTP again, other servers, the floor
_DAY = const(86400)


class TimeFloor:
    """The part of the ladder that deals with time; `store`, `clock` and `note` are the ladder's."""

    store: "Store"
    clock: "Clock"
    note: "Callable[[Exception], None]"
    time_repair_wanted = False
    _repairs = 0

    def time_floor(self) -> int:
        """Return the moment that has passed for certain (T1)."""
        store = self.store
        floor = max(store.factory.build_date, store.state.tfloor)
        if store.state.good is not None:
            facts = store.facts(store.state.good)
            if facts is not None:
                floor = max(floor, facts.issued)
        return floor

    def raise_time_floor(self, unix_seconds: int) -> None:
        """Record a proven past time, at most once a day (T4)."""
        if unix_seconds >= self.time_floor() + _DAY:
            try:
                self.store.raise_time_floor(unix_seconds)
            except StorageError as error:
                self.note(error)

    def authenticated_time(self, unix_seconds: int) -> bool:
        """Take a time from within a verified connection (T10).

        Return True if the clock was more than five minutes off: tokens must then be made anew.
        """
        moved = self.clock.authenticate(unix_seconds)
        self.raise_time_floor(unix_seconds - _DAY)
        return moved

    def repair_time(self, offered: int | None) -> None:
        """Go one step of time repair (T5); `offered` is what a time server said, if any.

        First NTP again, then other servers, then the floor; a date verdict after that counts.
        """
        self.time_repair_wanted = False
        self._repairs += 1
        if self._repairs >= REPAIRS:
            self.clock.set_time(self.time_floor())
            self.clock.synchronised = False
        elif offered is not None:
            self.clock.offer(offered, self.time_floor())

    def repair_step(self) -> int:
        """Return which step of time repair comes next: 0 NTP, 1 other servers, 2 the floor."""
        return min(self._repairs, REPAIRS - 1)

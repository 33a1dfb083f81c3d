"""The only reader of time.

Responsible for: Unix time as an integer on both epochs (1970 on unix, 2000 on ESP32), the
millisecond ticks, and setting the clock. Not responsible for: deciding what time it is.

    now = clock.unix_time()
    late = clock.ticks_diff(clock.ticks_ms(), started) > 500
"""

import time

from micropython import const

_EPOCH_2000 = const(946684800)  # seconds from 1970-01-01 to 2000-01-01

ticks_ms = time.ticks_ms
ticks_diff = time.ticks_diff
ticks_add = time.ticks_add


def epoch_offset() -> int:
    """Return what to add to `time.time()` for Unix time: 0, or 946684800 where 2000 is zero."""
    return _EPOCH_2000 if time.gmtime(0)[0] == 2000 else 0


class Clock:
    """Unix time and ticks; tests pass an object of their own with the same methods.

    `setter(unix_seconds)` sets the hardware clock. Without one (unix, where the system owns its
    clock) `set_time` keeps a correction that only this object sees.
    """

    def __init__(self, setter: "object | None" = None) -> None:
        self._offset = epoch_offset()
        self._setter = setter
        self._correction = 0
        self.synchronised = False  # set in this boot by NTP or a service, not only assumed

    def unix_time(self) -> int:
        """Return seconds since 1970-01-01, an integer."""
        return int(time.time()) + self._offset + self._correction

    def ticks_ms(self) -> int:
        """Return milliseconds that wrap; compare with ticks_diff only, within six days."""
        return time.ticks_ms()

    def ticks_diff(self, later: int, earlier: int) -> int:
        """Return `later - earlier` in milliseconds across the wrap."""
        return time.ticks_diff(later, earlier)

    def ticks_add(self, ticks: int, delta: int) -> int:
        """Return `ticks + delta` across the wrap."""
        return time.ticks_add(ticks, delta)

    def set_time(self, unix_seconds: int) -> None:
        """Make `unix_time()` return `unix_seconds` from now on."""
        if self._setter is not None:
            self._setter(unix_seconds)
        else:
            self._correction = unix_seconds - int(time.time()) - self._offset


_default = None


def default() -> Clock:
    """Return the process's clock, made at first use."""
    global _default
    if _default is None:
        _default = Clock()
    return _default


def unix_time() -> int:
    """Return seconds since 1970-01-01 of the process's clock."""
    return default().unix_time()


def set_time(unix_seconds: int) -> None:
    """Set the process's clock."""
    default().set_time(unix_seconds)

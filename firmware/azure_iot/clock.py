"""The only reader of time, and the rules for setting it (trust store, T1 to T10).

Responsible for: Unix time as an integer on both epochs (1970 on unix, 2000 on ESP32), the
millisecond ticks, setting the clock, and from whom a time is taken. Not responsible for: asking
time servers (esp32/sntp.py), keeping the floor on flash (trust/timefloor.py).

Anybody on the path can forge NTP. So it sets the clock anywhere at or above the floor, never below
and never the floor itself: one forged jump forward would else be remembered for ever. Between the
floor and the end of the server certificate's life such a forgery is believed until the first
verified connection, whose own time then rules (T8, T10). Date checks are never switched off (T6),
and all times are integers (T7).

    now = clock.unix_time()
    late = clock.ticks_diff(clock.ticks_ms(), started) > 500
"""

import time

from micropython import const

_EPOCH_2000 = const(946684800)  # seconds from 1970-01-01 to 2000-01-01
_TOLERANCE = const(300)  # T10: seconds the clock may be off without being set
_DAY = const(86400)

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
        self.source = "floor"  # floor, ntp or authenticated
        self.ntp_delta = 0  # authenticated time minus what NTP had made of the clock

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

    def start(self, floor: int) -> None:
        """Begin a boot: a clock behind the floor is wrong and is set to it (T2)."""
        if self.unix_time() < floor:
            self.set_time(floor)

    def offer(self, unix_seconds: int, floor: int) -> bool:
        """Take the time of an NTP server unless it is below the floor (T3); tell whether."""
        if unix_seconds < floor:
            return False
        self.set_time(unix_seconds)
        self.synchronised = True
        self.source = "ntp"
        return True

    def authenticate(self, unix_seconds: int) -> bool:
        """Take a time from within a verified connection (T10).

        Return True if the clock was more than five minutes off and has been set.
        """
        delta = unix_seconds - self.unix_time()
        if self.source == "ntp":
            self.ntp_delta = delta
        self.synchronised = True
        self.source = "authenticated"
        if -_TOLERANCE <= delta <= _TOLERANCE:
            return False
        self.set_time(unix_seconds)
        return True

    def report(self, floor: int) -> dict:
        """Return the `clock` member of the reported properties (contracts.md section 1)."""
        return {
            "source": self.source,
            "ntp_delta": self.ntp_delta,
            "floor_age_days": max(0, self.unix_time() - floor) // _DAY,
        }


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

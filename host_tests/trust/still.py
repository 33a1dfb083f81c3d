"""A clock that stands still, for device programs and for CPython."""


class Clock:
    def __init__(self, now=1786000000, synchronised=True):
        self.now = now
        self.synchronised = synchronised

    def unix_time(self):
        return self.now

    def ticks_ms(self):
        return 0

    def ticks_diff(self, later, earlier):
        return later - earlier

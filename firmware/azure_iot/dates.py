"""Dates as Unix seconds: the calendar, and the form that HTTP gives them.

Not for: clocks (clock.py), certificates (trust/der.py). Source: RFC 9110 section 5.6.7.
"""

_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"


def unix_seconds(year: int, month: int, day: int, seconds: int) -> int:
    """Return Unix seconds of a date of the Gregorian calendar, whatever epoch the port counts."""
    # Years begin in March, so that the leap day is the last of its year.
    if month <= 2:
        year -= 1
        month += 12
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * month - 457) // 5 + day
    return (days - 719469) * 86400 + seconds


def http_date(text: str) -> "int | None":
    """Read `Sun, 06 Nov 1994 08:49:37 GMT` as Unix time; None for another form."""
    parts = text.split(" ")
    if len(parts) != 6 or parts[5] != "GMT":
        return None
    month = _MONTHS.find(parts[2])
    time = parts[4].split(":")
    for number in [parts[1], parts[3]] + time:
        if not number.isdigit():
            return None
    if month < 0 or month % 3 or len(parts[2]) != 3 or len(time) != 3:
        return None
    seconds = int(time[0]) * 3600 + int(time[1]) * 60 + int(time[2])
    return unix_seconds(int(parts[3]), month // 3 + 1, int(parts[1]), seconds)

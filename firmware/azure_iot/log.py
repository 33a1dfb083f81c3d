"""Log lines: warnings and errors on the console, unless somebody wants more, less, or them elsewhere.

Responsible for: a level and a sink. Not responsible for: files, time stamps, formatting.
Nothing secret is ever passed in: callers log identities and figures, never keys or tokens.

    log.set_level(log.INFO)          # WARNING at first
    log.set_sink(ring.append)        # print at first; any callable taking one string
"""

from micropython import const

ERROR = const(1)
WARNING = const(2)
INFO = const(3)
DEBUG = const(4)

_NAMES = ("", "error", "warning", "info", "debug")
_level = WARNING
_sink = print
lost = 0  # lines that the sink did not take: a log must not stop what it tells of


def set_level(level: int) -> None:
    """Let messages up to `level` through; 0 silences all."""
    global _level
    _level = level


def set_sink(sink: "object | None") -> None:
    """Hand each line to `sink(text)`; None silences all."""
    global _sink
    _sink = sink


def write(level: int, text: str, *args: object) -> None:
    """Pass on "level: text", with `args` put in by `%` only when somebody listens."""
    global lost
    if _sink is not None and level <= _level:
        try:
            _sink("%s: %s" % (_NAMES[level], text % args if args else text))
        except Exception:
            lost += 1


def error(text: str, *args: object) -> None:
    """Log what needs somebody's attention."""
    write(ERROR, text, *args)


def warning(text: str, *args: object) -> None:
    """Log what went wrong and was coped with."""
    write(WARNING, text, *args)


def info(text: str, *args: object) -> None:
    """Log what a user wants to see in normal running."""
    write(INFO, text, *args)


def debug(text: str, *args: object) -> None:
    """Log what helps to find a fault."""
    write(DEBUG, text, *args)

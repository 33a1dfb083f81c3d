"""Which roots the next connection uses, and what its outcome means (steps L0 to L2).

Responsible for: trial, confirmation, revert, fall-back, telling a certificate verdict from a
network failure, the floor of time (T1, T4, T10) and its repair before either counts (T5). Not for:
packages (manager.py), flash (store.py), recovery (recovery.py), the clock (clock.py).

Theory of operation. While a bundle is on trial, one of its tries is spent on flash before each
connection with it, so that a crash counts. A certificate verdict keeps the try spent; anything
else gives it back and lets the good bundle work for a while. CONNACK 0 over a full handshake with
the trial roots alone makes it good; the last lost try gives it up. Without a trial, three verdicts
against the good bundle lead to the previous one, then to the factory's, if the floor allows them.
Distrusted roots are missing from every one of these. A verdict about dates asks for time repair
first and counts only when every way to repair the time has been tried.

Each function is a method of manager.TrustManager, which loads this module when it is called.
"""

from micropython import const

from azure_iot.errors import ClockError, TrustError

from .errors import RefusedError
from .hosts import is_private
from .roots import Attempt, usable

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .manager import TrustManager
    from .store import Slot

_REPAIRS = const(3)  # ways to repair the time: NTP again, other servers, the floor
_DAY = const(86400)
_VERDICTS = const(3)  # certificate verdicts before the next rung is tried
_MAX_PAUSE_MS = const(3600000)

# Codes of TrustError that do not speak of the server's chain.
_NOT_OF_THE_CHAIN = ("INTERNAL", "STORAGE", "MEMORY", "BAD_ROOT", "DEMO_HOST")


def require_host(trust: "TrustManager", host: str) -> None:
    """Refuse a public host, or the address of one, to a demo fleet (R-50)."""
    _, mark, rest = host.partition("://")
    if mark:
        host = rest.partition("/")[0].partition(":")[0]
    if trust.fleet.startswith("demo-") and not is_private(host):
        raise RefusedError(
            "demo fleet %s must not connect to %s" % (trust.fleet, host), "DEMO_HOST"
        )


# Attempts


def attempt(
    trust: "TrustManager", use: str = "hub", host: str | None = None, trial: bool = True
) -> Attempt:
    """Return the roots for the next connection of kind `use`; spends a try of a trial.

    trial: False for a connection whose outcome nobody tells, which could not confirm a trial.
    Raises NO_ROOTS when distrust has left no root at all, DEMO_HOST for a host that a demo fleet
    may not reach.
    """
    if host is not None:
        require_host(trust, host)
    if use == "hub" and trial:
        attempt = _trial(trust)
        if attempt is not None:
            return attempt
    place = trust._rungs.setdefault(use, [0, 0])
    good = trust.store.state.good
    if place[0] == 0 and good is not None:
        # The usual case: no signature of another slot has to be verified.
        attempt = _of_slot(trust, "good", good, use)
        if attempt is not None and len(attempt.roots):
            return attempt
    steps = rungs(trust, use)
    if not steps:
        if use != "https":  # an upload or a download; without it the device still connects
            trust.exhausted = True
            if trust.rootless is None:
                trust.rootless = trust.clock.ticks_ms()
        raise RefusedError("no trusted root is left for %s" % use, "NO_ROOTS")
    trust.rootless = None
    if place[0] >= len(steps):
        place[0] = 0
    return steps[place[0]]


def _trial(trust: "TrustManager") -> Attempt | None:
    state = trust.store.state
    if state.trial is None:
        return None
    if state.tries <= 0:
        _revert(trust, "CRASH")
        return None
    if trust._paused is not None:
        if trust.clock.ticks_diff(trust.clock.ticks_ms(), trust._paused) < trust._pause_ms:
            return None
        trust._paused = None
        trust._pause_ms = min(trust._pause_ms * 2, _MAX_PAUSE_MS)
    attempt = _of_slot(trust, "trial", state.trial, "hub")
    if attempt is None:
        _revert(trust, "STORAGE")
        return None
    if not len(attempt.roots):
        _revert(trust, "NO_ROOTS")
        return None
    try:
        trust.store.add_tries(-1)
    except RefusedError as error:
        # Without a note on flash a crash would not count: work with what is good.
        trust.note(error)
        return None
    attempt.spent = True
    return attempt


def rungs(trust: "TrustManager", use: str) -> list:
    """Return an attempt for each step that has a root for `use` and respects the floor."""
    store = trust.store
    state = store.state
    found = []
    if state.good is not None:
        found.append(_of_slot(trust, "good", state.good, use))
    if trust._previous is None:
        trust._previous = store.previous()
    for slot in trust._previous:
        found.append(_of_slot(trust, "previous", slot, use))
    factory = store.factory.bundle()
    if not trust.managed or factory.version >= state.floor:
        roots = usable(factory, use, state.distrust)
        attempt = Attempt("factory", roots, use, factory.version, None)
        # Without a good slot the factory's bundle is the good one, the others are older.
        found.insert(len(found) if state.good is not None else 0, attempt)
    if use != "hub" and state.trial is not None:
        found.append(_of_slot(trust, "trial", state.trial, use))
    return [attempt for attempt in found if attempt is not None and len(attempt.roots)]


def _of_slot(
    trust: "TrustManager", source: str, slot: "Slot", use: "str | None"
) -> Attempt | None:
    facts = trust.store.facts(slot)
    if facts is None:
        return None
    roots = usable(facts, use, trust.store.state.distrust)
    return Attempt(source, roots, use, facts.version, slot.sha256)


# Outcomes


def succeeded(
    trust: "TrustManager",
    attempt: Attempt,
    *,
    resumed: bool,
    via: str | None = None,
    not_before: int | None = None,
) -> None:
    """Note that the server was verified with the attempt's roots.

    via: SHA-256 (hex) of the root that anchored it. not_before: of the server's certificate.
    A resumed handshake verifies nothing, so it changes nothing. Raises DISTRUSTED, and
    the connection must be closed, if that root was distrusted while the handshake ran.
    """
    # Where the root is not known it may have been any of them.
    for digest in [bytes.fromhex(via)] if via is not None else attempt.roots.digests():
        if digest in trust.store.state.distrust:
            raise RefusedError("the server is anchored in a distrusted root", "DISTRUSTED")
    attempt.full = not resumed
    if resumed:
        return
    trust.in_use = attempt.source
    if attempt.use == "hub":
        trust.via = via
    trust.verdicts = 0
    trust.first_verdict = None
    trust.exhausted = False
    trust._repairs = 0
    trust._rungs[attempt.use] = [0, 0]
    attempt.not_before = not_before
    if not_before is not None and not attempt.is_trial:
        raise_time_floor(trust, not_before)


def mqtt_accepted(trust: "TrustManager", attempt: Attempt) -> bool:
    """Note CONNACK 0; confirm a trial and tell whether it was. Never for a resumed session."""
    attempt.open = False
    trial = trust.store.state.trial
    if not attempt.spent or trial is None or trial.sha256 != attempt.sha256:
        return False
    if not attempt.full:
        _refund(trust)
        return False
    try:
        trust.store.confirm(trust.store.facts(trial), attempt.not_before or 0)
    except RefusedError as error:
        # Still on trial, one try poorer; the connection ittrust is good.
        trust.note(error)
        return False
    trust._previous = None
    trust.dps_probe_due = True
    trust.changed("confirmed")
    return True


def failed(trust: "TrustManager", attempt: Attempt, error: Exception) -> None:
    """Note that the connection failed before it was accepted."""
    if not attempt.open:
        return
    attempt.open = False
    verdict = _verdict(trust, error)
    trial = trust.store.state.trial
    if attempt.spent:
        if trial is None or trial.sha256 != attempt.sha256:
            return
        if verdict is None:
            _refund(trust)
        elif trust.store.state.tries <= 0:
            _revert(trust, "X509")
    elif verdict is not None:
        _count(trust, attempt)


def _verdict(trust: "TrustManager", error: Exception) -> str | None:
    """Return the certificate verdict in `error`, or None if it says nothing about trust."""
    if isinstance(error, ClockError):
        code = "FUTURE"
    elif isinstance(error, TrustError) and error.code not in _NOT_OF_THE_CHAIN:
        code = error.code
    else:
        return None
    if code in ("EXPIRED", "FUTURE"):
        # T5: the clock may be what is wrong. A repair that nobody has made counts as made, or
        # a device without time servers would never come to its other roots.
        free = trust._repairs < _REPAIRS
        if free and trust.time_repair_wanted:
            trust._repairs += 1
        trust.time_repair_wanted = True
        if free:
            return None
    return code


def _refund(trust: "TrustManager") -> None:
    trust._paused = trust.clock.ticks_ms()
    try:
        trust.store.add_tries(1)
    except RefusedError as error:
        trust.note(error)


def _count(trust: "TrustManager", attempt: Attempt) -> None:
    trust.verdicts += 1
    if trust.first_verdict is None:
        trust.first_verdict = trust.clock.ticks_ms()
    place = trust._rungs.setdefault(attempt.use, [0, 0])
    place[1] += 1
    if place[0] == 0 and place[1] < _VERDICTS:
        return
    place[0] += 1
    place[1] = 0
    if place[0] >= len(rungs(trust, attempt.use)):
        # Once round: from now on one attempt per step.
        trust.exhausted = True
        place[0] = 0
        place[1] = _VERDICTS - 1


def _revert(trust: "TrustManager", why: str) -> None:
    version = trust.store.state.trial.version
    try:
        trust.store.revert(why)
    except RefusedError as error:
        trust.note(error)
        return
    trust._previous = None
    trust.last_error = {
        "version": version,
        "code": "X509" if why == "CRASH" else why,
        "text": "the trial of version %d ended without a verified connection" % version,
    }
    trust.changed("reverted")


# Time


def time_floor(trust: "TrustManager") -> int:
    """Return the moment that has passed for certain (T1)."""
    store = trust.store
    floor = max(store.factory.build_date, store.state.tfloor)
    if store.state.good is not None:
        facts = store.facts(store.state.good)
        if facts is not None:
            floor = max(floor, facts.issued)
    return floor


def raise_time_floor(trust: "TrustManager", unix_seconds: int) -> None:
    """Record a proven past time, at most once a day (T4)."""
    if unix_seconds >= time_floor(trust) + _DAY:
        try:
            trust.store.raise_time_floor(unix_seconds)
        except RefusedError as error:
            trust.note(error)


def authenticated_time(trust: "TrustManager", unix_seconds: int) -> bool:
    """Take a time from within a verified connection (T10).

    Return True if the clock was more than five minutes off: tokens must then be made anew.
    """
    moved = trust.clock.authenticate(unix_seconds)
    raise_time_floor(trust, unix_seconds - _DAY)
    return moved


def repair_time(trust: "TrustManager", offered: int | None) -> None:
    """Go one step of time repair (T5); `offered` is what a time server said, if any.

    First NTP again, then other servers, then the floor; a date verdict after that counts, and
    what a time server says then is tried all the same: it may have been out of reach.
    """
    trust.time_repair_wanted = False
    trust._repairs += 1
    if trust._repairs == _REPAIRS or trust._repairs > _REPAIRS and offered is None:
        trust.clock.set_time(time_floor(trust))
        trust.clock.synchronised = False
    elif offered is not None:
        trust.clock.offer(offered, time_floor(trust))


def repair_step(trust: "TrustManager") -> int:
    """Return which step of time repair comes next: 0 NTP, 1 other servers, 2 the floor."""
    return min(trust._repairs, _REPAIRS - 1)

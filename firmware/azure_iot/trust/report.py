"""What the device says about its trust: the reported properties and warnings ahead of time.

Responsible for: the `trust` member of the reported properties (contracts.md section 1), the line
of the boot log, warnings 90, 30 and 7 days before a root or the bundle expires. Not for: sending.
"""

from micropython import const

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .manager import TrustManager

_DAY = const(86400)
_DAYS = (7, 30, 90)


def state_name(trust: "TrustManager") -> str:
    """Return unmanaged, good, trial, reverted or recovery."""
    state = trust.store.state
    if not trust.managed:
        return "unmanaged"
    if state.trial is not None:
        return "recovery" if state.trial.source == "recovery" else "trial"
    if trust.exhausted:
        return "recovery"
    for version, _ in state.bad:
        if version > state.seen:
            return "reverted"
    return "good"


def source_name(trust: "TrustManager") -> str:
    """Return factory, ota, previous, recovery or inbox."""
    good = trust.store.state.good
    if trust.in_use == "previous":
        return "previous"
    if good is None or (trust.in_use == "factory" and trust.via is not None):
        return "factory"
    return good.source if trust.store.facts(good) is not None else "factory"


def report(trust: "TrustManager") -> dict:
    """Return the `trust` member of the reported properties."""
    state = trust.store.state
    bundle = trust.present()
    found = {
        "state": state_name(trust),
        "source": source_name(trust),
        "roots": [
            {"sha256": root.sha256.hex()[:16], "expires": root.not_after, "use": list(root.uses)}
            for root in bundle.roots
            if root.sha256 not in state.distrust
        ],
    }
    if trust.via is not None:
        found["via"] = trust.via
    if trust.managed:
        found["version"] = bundle.version
        found["key_version"] = state.kver
        found["floor"] = state.floor
        found["distrusted"] = [digest.hex()[:16] for digest in state.distrust]
        found["probes"] = trust.probes
        found["last_error"] = trust.last_error
    return found


def boot_line(trust: "TrustManager") -> str:
    """Return one line for the boot log."""
    bundle = trust.present()
    first = min([root.not_after for root in bundle.roots])
    if not trust.managed:
        return (
            "trust: unmanaged, %d roots, first expires %s; no over-the-air update possible: "
            'run "taproot trust init" and deploy again' % (len(bundle.roots), date(first))
        )
    return "trust: %s, fleet %s, version %d, %d roots, first expires %s" % (
        state_name(trust),
        trust.fleet,
        bundle.version,
        len(bundle.roots),
        date(first),
    )


def warnings(trust: "TrustManager") -> list:
    """Return a sentence for each root or bundle that will soon cease to serve.

    The soonest of 7, 30, 90 days that applies is named, so that a changed sentence is news.
    """
    now = trust.clock.unix_time()
    state = trust.store.state
    bundle = trust.present()
    found = []
    staged = trust.store.facts(state.trial) if state.trial is not None else None
    for root in bundle.roots:
        name = root.sha256.hex()
        used = name == trust.via
        days = _within(root.not_after - now)
        if days:
            what = "used root" if used else "root"
            found.append("%s %s expires within %d days" % (what, name[:16], days))
        if used and root.state == "retired":
            found.append("the connection rests on root %s, which is retired" % name[:16])
    if trust.managed:
        days = _within(bundle.expires - now)
        if days:
            found.append("bundle %d expires within %d days" % (bundle.version, days))
    if staged is not None and trust.via is not None:
        if trust.via not in [root.sha256.hex() for root in staged.roots]:
            found.append(
                "the connection rests on root %s, which bundle %d does not carry"
                % (trust.via[:16], staged.version)
            )
    return found


def _within(seconds: int) -> int:
    for days in _DAYS:
        if seconds <= days * _DAY:
            return days
    return 0


def date(unix_seconds: int) -> str:
    """Return YYYY-MM-DD of Unix seconds, whatever epoch the port counts."""
    days = unix_seconds // _DAY + 719468
    era = days // 146097
    of_era = days - era * 146097
    year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    day = of_year - (153 * month + 2) // 5 + 1
    year += era * 400
    if month < 10:
        month += 3
    else:
        month -= 9
        year += 1
    return "%04d-%02d-%02d" % (year, month, day)

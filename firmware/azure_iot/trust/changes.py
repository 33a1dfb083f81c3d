"""What changes on flash, and in which order, so that a cut leaves the old state or the new one.

Responsible for: staging, key-sets, tries, confirming, reverting, floors (R-21, R-32 to R-37). Not
for: whether a package is acceptable (update.py), what is found at boot (stored.py). Each function
is a method of store.Store, which loads this module when it is called.
"""

from micropython import const

from . import files
from .errors import RefusedError
from .jws import BUNDLE, payload_digest, scan_envelope
from .store import Slot
from .stored import fleet_number

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .jws import Envelope
    from .keyset import KeySet
    from .roots import Bundle
    from .store import State, Store

_TRIES = const(3)
_EPOCH_2000 = const(946684800)  # an i32 in NVS counts from here until 2068


def _without_trial(store: "Store") -> "State":
    following = store.state.copy()
    following.trial = None
    following.tries = 0
    return following


def _even(store: "Store") -> None:
    """Bring the other record up to date when a cut left it with an older `distrust`."""
    if store._uneven:
        store._write(store.state.copy())
        store._uneven = False


def stage(
    store: "Store", envelope: "Envelope", bundle: "Bundle", digest: bytes, source: str = "ota"
) -> None:
    """Write a verified bundle into the slot that is not good and begin its trial.

    digest: SHA-256 of the payload's characters, as verified. source: ota, recovery or inbox.
    """
    _even(store)
    if store.state.seq == 0:
        # On record before a slot is written: without any record the slots' signatures decide, and
        # a bundle that was never tried would rule after a power cut.
        store._write(store.state.copy())
    if store.state.trial is not None:
        store._write(_without_trial(store))
    slot = 1 - store.state.good.slot if store.state.good else 0
    store._facts[slot] = None
    store.make_folder()
    sha = files.write_span(store.slot_path(slot), envelope.source, envelope.start, envelope.end)
    written = scan_envelope(files.FileSource(store.slot_path(slot)), BUNDLE)
    if payload_digest(written) != digest:
        raise RefusedError("slot does not hold what was verified", "STORAGE")
    written.source.close()
    following = store.state.copy()
    following.trial = Slot(slot, bundle.version, bundle.key_version, sha.hex(), source)
    following.tries = _TRIES
    listed = bundle.version > store.state.dv
    if listed:
        following.distrust = bundle.distrust
        following.dv = bundle.version
    store._write(following)
    bundle.text = store.slot_path(slot)
    bundle.begin = written.payload[0]
    store._facts[slot] = bundle
    if listed:
        store._uneven = True
        _even(store)


def accept_keyset(store: "Store", envelope: "Envelope", keyset: "KeySet") -> None:
    """Keep a verified key-set N+1, then record its version (R-13 to R-15)."""
    store.make_folder()
    files.write_span(
        store.path("keys.%d.jws" % keyset.version),
        envelope.source,
        envelope.start,
        envelope.end,
    )
    store._keyset = keyset
    record_keyset(store, keyset)


def record_keyset(store: "Store", keyset: "KeySet") -> None:
    """Record the version of the key-set in force, if a cut or this package left it unsaid.

    A change of the bundle role's keys is fast-forward recovery: whatever the old keys signed
    may have been signed by a thief, so versions start anew under the new ones, and a bundle
    still on trial is dropped.
    """
    if keyset.version > store.state.kver:
        following = store.state.copy()
        following.kver = keyset.version
        if sorted(store._recorded) != sorted(keyset.bundle.kids):
            following.seen = 0
            following.dv = 0
            following.bad = []
            following.trial = None
            following.tries = 0
        store._write(following)
    if keyset.version <= store.state.kver:
        store._recorded = keyset.bundle.kids


def add_tries(store: "Store", count: int) -> None:
    """Take a try off the trial before it is used (-1), or give it back without a verdict (+1)."""
    following = store.state.copy()
    following.tries += count
    store._write(following)


def confirm(store: "Store", bundle: "Bundle", time_floor: int = 0) -> None:
    """Make the trial good; floors rise in the same record (R-22)."""
    trial = store.state.trial
    following = _without_trial(store)
    following.good = trial
    if following.seen == 0:
        following.floor = bundle.min_version  # first after fast-forward recovery
    else:
        following.floor = max(following.floor, bundle.min_version)
    following.seen = max(following.seen, trial.version)
    following.tfloor = max(following.tfloor, bundle.issued, time_floor)
    following.recoveries = 0
    following.recovery_at = 0
    store._write(following)
    store._facts[1 - trial.slot] = None
    _copy_floors(store, True)


def _copy_floors(store: "Store", versions: bool) -> None:
    mirror = store.mirror
    if mirror is None:
        return
    state = store.state
    try:
        if versions:
            # The order matters: bver is void while its kver is below the good bundle's.
            number = fleet_number(state.fleet)
            if mirror.get("fleet") != number:
                mirror.set("kver", 0)
                mirror.set("fleet", number)
            mirror.set("bver", state.floor)
            mirror.set("kver", state.good.key_version)
        if state.tfloor > _EPOCH_2000:
            mirror.set("tfloor", state.tfloor - _EPOCH_2000)
    except OSError as error:
        store.error = error  # the record holds; the copy is a second net


def revert(store: "Store", why: str) -> None:
    """Give the trial up; its version is not accepted again."""
    trial = store.state.trial
    following = _without_trial(store)
    following.add_bad(trial.version, why)
    store._write(following)
    store._facts[trial.slot] = None


def raise_time_floor(store: "Store", unix_seconds: int) -> None:
    """Record a later lower bound of the time (T4, T10)."""
    if unix_seconds > store.state.tfloor:
        following = store.state.copy()
        following.tfloor = unix_seconds
        store._write(following)
        _copy_floors(store, False)


def note_recovery(store: "Store", count: int, at: int) -> None:
    """Record how often recovery was tried and when it may be tried again (G7)."""
    following = store.state.copy()
    following.recoveries = count
    following.recovery_at = at
    store._write(following)

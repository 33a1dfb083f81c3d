"""What is on flash: the newest whole record, the bundle in each slot, the chain of key-sets.

Responsible for: `load()`, which never raises, re-verifying slots no record vouches for (L1, R-35),
walking the key-sets from the bootstrap one (R-16), the factory's bundle. Not for: writing
(changes.py). Each function that takes a store is a method of store.Store, which loads this module
when it is called.
"""

from hashlib import sha256

from micropython import const

from azure_iot.errors import TrustError

from . import files, native
from . import state as record
from .bundle import read_bundle
from .der import require_root
from .errors import RefusedError
from .jws import BUNDLE, KEYS, payload_digest, scan_envelope, verify
from .keyset import next_keyset, read_keyset, require_fleet
from .roots import USES, Bundle, Root, name_digest
from .store import Slot, State

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .factory import Factory
    from .jws import Envelope
    from .keyset import KeySet
    from .rsa import Verifier
    from .store import Store

_EPOCH_2000 = const(946684800)


def load(store: "Store") -> "Store":
    """Find the state on flash. Damage leads to the next best state, never to an exception."""
    store._keyset = None
    store._facts = [None, None]
    store._uneven = False
    store.error = None
    try:
        _load(store)
    except (TrustError, OSError, MemoryError) as error:
        # Nothing on flash can be relied on: the factory bundle rules, the floors of the
        # mirror still hold.
        store.error = error
        store.state = _fresh(store)
        _raise_floors(store, store.state)
        if isinstance(error, MemoryError):
            store._record = -1  # a whole record may be there: nothing is written over it
    if store.state.good is not None:
        try:
            store.facts(store.state.good)  # the first connection has less room to read them
        except MemoryError as error:
            store.error = error
    return store


def _load(store: "Store") -> None:
    fresh = _fresh(store)
    found = [
        record.decode(files.read_bytes(store.path("state%d" % i), record.MAX_RECORD), fresh.fleet)
        for i in (0, 1)
    ]
    newest = None
    for i in (0, 1):
        if found[i] and (newest is None or found[i].seq > newest.seq):
            newest = found[i]
            store._record = i
    if not store.factory.managed:
        # Nothing but the time floor is kept without a key-set.
        if newest is not None:
            fresh.seq = newest.seq
            fresh.tfloor = newest.tfloor
        store.state = fresh
        return
    if newest is None:
        # So that the first record goes to state0.
        store._record = 1
        newest = _recover(store, fresh)
    else:
        other = found[1 - store._record]
        store._uneven = other is None or other.dv != newest.dv or other.distrust != newest.distrust
    _raise_floors(store, newest)
    _follow_factory(store, newest, fresh)
    store.state = newest


def _fresh(store: "Store") -> State:
    fresh = State()
    if store.factory.managed:
        bundle = store.factory.bundle()
        fresh.fleet = bundle.fleet
        fresh.floor = bundle.min_version
        fresh.seen = bundle.version
        fresh.kver = bundle.key_version
        fresh.distrust = bundle.distrust
        fresh.dv = bundle.version
    return fresh


def _raise_floors(store: "Store", found: State) -> None:
    mirror = store.mirror
    if mirror is None or not store.factory.managed:
        return
    try:
        key_version = mirror.get("kver") or 0
        floor = mirror.get("bver") or 0
        time_floor = mirror.get("tfloor")
        fleet = mirror.get("fleet")
    except OSError as error:
        store.error = error
        return
    if fleet is None or fleet == fleet_number(found.fleet):
        good = found.good or store.factory.bundle()
        if key_version >= good.key_version:
            found.floor = max(found.floor, floor)
        found.kver = max(found.kver, key_version)
    if time_floor is not None:
        found.tfloor = max(found.tfloor, time_floor + _EPOCH_2000)


def fleet_number(fleet: str) -> int:
    """Return what the mirror knows a fleet by; versions of another one compare with nothing here."""
    return int.from_bytes(sha256(fleet.encode()).digest()[:3], "big")


def _follow_factory(store: "Store", found: State, fresh: State) -> None:
    # New firmware may bring a newer bundle than the last one confirmed; it is trusted as the
    # firmware is, so it takes that one's place.
    if fresh.kver < found.kver:
        return
    newer_keys = fresh.kver > found.kver
    good = found.good
    if newer_keys or (good is not None and fresh.seen > good.version):
        found.good = None
    if newer_keys:
        # Versions under older keys compare with nothing here (fast-forward recovery).
        found.kver = fresh.kver
        found.seen = found.dv = 0
        found.bad = []
        found.trial = None
        found.floor = min(found.floor, fresh.seen)
    if found.good is None:
        found.floor = max(found.floor, fresh.floor)
        found.seen = max(found.seen, fresh.seen)
        if fresh.dv > found.dv:
            found.dv = fresh.dv
            found.distrust = fresh.distrust
    if found.trial is not None and found.trial.version <= found.seen:
        found.trial = None


def _recover(store: "Store", fresh: State) -> State:
    """Return a state from the slots alone: the highest whose signatures hold rules."""
    best = None
    listed = None
    store.state = fresh
    for slot in (0, 1):
        facts = reverify(store, slot)
        if facts is None:
            continue
        if sorted(keyset(store, False).bundle.kids) != sorted(store._recorded):
            # Versions under the factory's bundle keys compare with nothing under later ones.
            fresh.floor = fresh.seen = fresh.dv = 0
        if listed is None or facts.version > listed.version:
            listed = facts
        if facts.version >= fresh.floor and (best is None or facts.version > best[1].version):
            best = (slot, facts)
    if best is not None:
        slot, facts = best
        fresh.good = _record_of(store, slot, facts)
        fresh.seen = max(fresh.seen, facts.version)
        fresh.floor = max(fresh.floor, facts.min_version)
    if listed is not None and listed.version > fresh.dv:
        fresh.distrust = listed.distrust
        fresh.dv = listed.version
    if best is not None or listed is not None:
        fresh.kver = max(fresh.kver, keyset(store, False).version)
    return fresh


def _record_of(store: "Store", slot: int, facts: "Bundle") -> Slot:
    """Return what a record would say of a slot that was verified again."""
    source = files.FileSource(store.slot_path(slot))
    try:
        digest = files.digest_of(source).hex()
    finally:
        source.close()
    return Slot(slot, facts.version, facts.key_version, digest)


def reverify(store: "Store", slot: int) -> "Bundle | None":
    """Return a slot's facts if its signatures hold under the present key-set, else None."""
    if not files.exists(store.slot_path(slot)):
        return None
    try:
        source = files.FileSource(store.slot_path(slot))
        envelope = scan_envelope(source, BUNDLE)
        present = keyset(store, False)
        digest = verify(envelope, BUNDLE, present.keys, present.bundle, verifier(store))
        facts = _read(store, envelope, slot, digest, present.fleet)
        source.close()
        if facts.key_version > present.version:
            return None
    except TrustError as error:
        store.error = error
        return None
    store._facts[slot] = facts
    return facts


def read_facts(store: "Store", slot: Slot) -> "Bundle | None":
    """Read the facts of the bundle a record names; None if the slot does not hold that bundle."""
    try:
        source = files.FileSource(store.slot_path(slot.slot))
        if files.digest_of(source).hex() != slot.sha256:
            return None
        envelope = scan_envelope(source, BUNDLE)
        facts = _read(store, envelope, slot.slot, None, store.state.fleet)
        source.close()
    except TrustError as error:
        store.error = error
        return None
    return facts


def _read(
    store: "Store", envelope: "Envelope", slot: int, digest: "bytes | None", fleet: str
) -> "Bundle":
    facts = read_bundle(envelope, digest)
    facts.text = store.slot_path(slot)
    require_fleet(facts.fleet, fleet)
    return facts


def read_factory(factory: "Factory") -> "Bundle":
    """Return the facts of the factory bundle; without a key-set, of the roots alone."""
    if factory.managed:
        source = files.source_of(factory.envelope)
        bundle = read_bundle(scan_envelope(source, BUNDLE))
        source.close()
        bundle.text = factory.envelope
        return bundle
    bundle = Bundle()
    bundle.text = factory.roots
    for i, der in enumerate(factory.roots):
        facts = require_root(der)
        root = Root()
        root.sha256 = sha256(der).digest()
        root.uses = USES
        root.subject = name_digest(facts.subject)
        root.not_after = facts.not_after
        root.start = i
        bundle.records.append(root.pack())
    return bundle


def verifier(store: "Store") -> "Verifier":
    """Return what checks signatures here."""
    return store.verifier or native.verifier()


def keyset(store: "Store", complete: bool = True) -> "KeySet":
    """Walk the key-sets from the bootstrap one; refuse a walk that ends below `kver`."""
    if store._keyset is None:
        source = files.source_of(store.factory.keyset)
        found = read_keyset(scan_envelope(source, KEYS))
        source.close()
        store._recorded = found.bundle.kids
        while True:
            path = store.path("keys.%d.jws" % (found.version + 1))
            if not files.exists(path):
                break
            try:
                source = files.FileSource(path)
                following = next_keyset(scan_envelope(source, KEYS), found, verifier(store))
            except TrustError as error:
                store.error = error
                break
            source.close()
            found = following
            if found.version <= store.state.kver:
                store._recorded = found.bundle.kids
        store._keyset = found
    if complete and store._keyset.version < store.state.kver:
        raise RefusedError(
            "key-sets on flash end at %d, %d required" % (store._keyset.version, store.state.kver),
            "KEY_CHAIN",
        )
    return store._keyset


def keyset_payload_digest(store: "Store", version: int) -> bytes:
    """Return the payload digest of a key-set this device has accepted."""
    path = store.path("keys.%d.jws" % version)
    return _digest(path if files.exists(path) else store.factory.keyset, KEYS)


def slot_payload_digest(store: "Store", slot: Slot) -> "bytes | None":
    """Return the payload digest of the bundle a record names, None if it is not there."""
    return _digest(store.slot_path(slot.slot), BUNDLE) if store.facts(slot) is not None else None


def factory_payload_digest(store: "Store") -> bytes:
    """Return the payload digest of the factory bundle."""
    return _digest(store.factory.envelope, BUNDLE)


def _digest(text: "bytes | str", typ: str) -> bytes:
    source = files.source_of(text)
    try:
        return payload_digest(scan_envelope(source, typ))
    finally:
        source.close()


def previous(store: "Store") -> list:
    """Return records for the slots that could stand in for the good one (L1).

    Not the one on trial, none given up, none below the floor; the signatures must hold.
    """
    found: list = []
    if not store.factory.managed:
        return found
    state = store.state
    for slot in (0, 1):
        for taken in (state.trial, state.good):
            if taken is not None and taken.slot == slot and store.facts(taken) is not None:
                break
        else:
            facts = reverify(store, slot)
            if (
                facts is not None
                and facts.version >= state.floor
                and not state.is_bad(facts.version)
            ):
                found.append(_record_of(store, slot, facts))
    return found

"""What is on flash: the newest whole record, the bundle in each slot, the chain of key-sets.

Responsible for: `load()`, which never raises, re-verifying slots no record vouches for (L1, R-35),
walking the key-sets from the bootstrap one (R-16). Not for: writing (store.py).
"""

from micropython import const

from azure_iot.errors import TrustError

from . import files, native, state
from .bundle import read_bundle, read_der
from .errors import KeyChainError
from .jws import BUNDLE, KEYS, payload_digest, scan_envelope, verify
from .keyset import next_keyset
from .payload import require_fleet

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from typing import Protocol

    from .bundle import Bundle, Root
    from .factory import Factory
    from .keyset import KeySet
    from .rsa import Verifier

    class Mirror(Protocol):
        """Named integers outside the file system (NVS)."""

        def get(self, name: str) -> "int | None": ...
        def set(self, name: str, value: int) -> None: ...


_EPOCH_2000 = const(946684800)  # an i32 in NVS counts from here until 2068


class Stored:
    """The readable half of the store.

    folder: an existing or new directory. factory: factory.Factory. mirror: optional copy of the
    floors, `get(name) -> int | None` and `set(name, value)`. verifier: `(key, digest, signature)`.
    After `load()`: `state`, and `error` if something on flash was not as it should be.
    """

    def __init__(
        self,
        folder: str,
        factory: "Factory",
        *,
        mirror: "Mirror | None" = None,
        verifier: "Verifier | None" = None,
    ) -> None:
        self.folder = folder
        self.factory = factory
        self.state = state.State()
        self.error: Exception | None = None
        self._mirror = mirror
        self.verifier = verifier or native.verifier()
        self._record = 0
        self._uneven = False
        self._keyset = None
        self._recorded: list = []  # bundle keys of the key-set that `kver` names
        self._facts: list = [None, None]
        self._envelopes: list = [None, None]

    def path(self, name: str) -> str:
        """Return the path of a file of the store."""
        return self.folder + "/" + name

    def slot_path(self, slot: int) -> str:
        """Return the path of slot 0 or 1."""
        return self.path("slot%d.jws" % slot)

    def load(self) -> "Stored":
        """Find the state on flash. Damage leads to the next best state, never to an exception."""
        self._keyset = None
        self._facts = [None, None]
        self._envelopes = [None, None]
        self._uneven = False
        self.error = None
        try:
            self._load()
        except (TrustError, OSError, MemoryError) as error:
            # Nothing on flash can be relied on: the factory bundle rules, the floors of the
            # mirror still hold.
            self.error = error
            self.state = self._fresh()
            self._raise_floors(self.state)
        return self

    def _load(self) -> None:
        fresh = self._fresh()
        found = [
            state.decode(files.read_bytes(self.path("state%d" % i), state.MAX_RECORD), fresh.fleet)
            for i in (0, 1)
        ]
        newest = None
        for i in (0, 1):
            if found[i] and (newest is None or found[i].seq > newest.seq):
                newest = found[i]
                self._record = i
        if not self.factory.managed:
            # Nothing but the time floor is kept without a key-set.
            if newest is not None:
                fresh.seq = newest.seq
                fresh.tfloor = newest.tfloor
            self.state = fresh
            return
        if newest is None:
            # So that the first record goes to state0.
            self._record = 1
            newest = self._recover(fresh)
        else:
            other = found[1 - self._record]
            self._uneven = (
                other is None or other.dv != newest.dv or other.distrust != newest.distrust
            )
        self._raise_floors(newest)
        self._follow_factory(newest, fresh)
        self.state = newest

    def _fresh(self) -> state.State:
        fresh = state.State()
        if self.factory.managed:
            bundle = self.factory.bundle()
            fresh.fleet = bundle.fleet
            fresh.floor = bundle.min_version
            fresh.seen = bundle.version
            fresh.kver = bundle.key_version
            fresh.distrust = bundle.distrust
            fresh.dv = bundle.version
        return fresh

    def _raise_floors(self, found: state.State) -> None:
        mirror = self._mirror
        if mirror is None or not self.factory.managed:
            return
        try:
            key_version = mirror.get("kver") or 0
            floor = mirror.get("bver") or 0
            time_floor = mirror.get("tfloor")
        except OSError as error:
            self.error = error
            return
        if key_version >= (found.good.key_version if found.good else 0):
            found.floor = max(found.floor, floor)
        found.kver = max(found.kver, key_version)
        if time_floor is not None:
            found.tfloor = max(found.tfloor, time_floor + _EPOCH_2000)

    def _follow_factory(self, found: state.State, fresh: state.State) -> None:
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

    def _recover(self, fresh: state.State) -> state.State:
        """Return a state from the slots alone: the highest whose signatures hold rules."""
        best = None
        listed = None
        for slot in (0, 1):
            facts = self.reverify(slot)
            if facts is None:
                continue
            if listed is None or facts.version > listed.version:
                listed = facts
            if facts.version >= fresh.floor and (best is None or facts.version > best[1].version):
                best = (slot, facts)
        if best is not None:
            slot, facts = best
            fresh.good = state.Slot(
                slot, facts.version, facts.key_version, self._slot_digest(slot).hex()
            )
            fresh.seen = max(fresh.seen, facts.version)
            fresh.floor = max(fresh.floor, facts.min_version)
        if listed is not None and listed.version > fresh.dv:
            fresh.distrust = listed.distrust
            fresh.dv = listed.version
        if best is not None or listed is not None:
            fresh.kver = max(fresh.kver, self.keyset(False).version)
        return fresh

    def _slot_digest(self, slot: int) -> bytes:
        source = files.FileSource(self.slot_path(slot))
        try:
            return files.digest_of(source)
        finally:
            source.close()

    def reverify(self, slot: int) -> "Bundle | None":
        """Return a slot's facts if its signatures hold under the present key-set, else None."""
        if not files.exists(self.slot_path(slot)):
            return None
        try:
            source = files.FileSource(self.slot_path(slot))
            envelope = scan_envelope(source, BUNDLE)
            keyset = self.keyset(False)
            digest = verify(envelope, BUNDLE, keyset.keys, keyset.bundle, self.verifier)
            facts = read_bundle(envelope, digest)
            require_fleet(facts.fleet, keyset.fleet)
            source.close()
            if facts.key_version > keyset.version:
                return None
        except TrustError as error:
            self.error = error
            return None
        self._facts[slot] = facts
        self._envelopes[slot] = envelope
        return facts

    def keyset(self, complete: bool = True) -> "KeySet":
        """Walk the key-sets from the bootstrap one; refuse a walk that ends below `kver`."""
        if self._keyset is None:
            keyset = self.factory.keyset()
            self._recorded = keyset.bundle.kids
            while True:
                path = self.path("keys.%d.jws" % (keyset.version + 1))
                if not files.exists(path):
                    break
                try:
                    source = files.FileSource(path)
                    envelope = scan_envelope(source, KEYS)
                    following = next_keyset(envelope, keyset, self.verifier)
                except TrustError as error:
                    self.error = error
                    break
                source.close()
                keyset = following
                if keyset.version <= self.state.kver:
                    self._recorded = keyset.bundle.kids
            self._keyset = keyset
        if complete and self._keyset.version < self.state.kver:
            raise KeyChainError(
                "key-sets on flash end at %d, %d required"
                % (self._keyset.version, self.state.kver)
            )
        return self._keyset

    def keyset_payload_digest(self, version: int) -> bytes:
        """Return the payload digest of a key-set this device has accepted."""
        path = self.path("keys.%d.jws" % version)
        source = files.FileSource(path) if files.exists(path) else self.factory.keyset_source()
        try:
            return payload_digest(scan_envelope(source, KEYS))
        finally:
            source.close()

    def slot_payload_digest(self, slot: state.Slot) -> bytes | None:
        """Return the payload digest of the bundle a record names, None if it is not there."""
        if self.facts(slot) is None:
            return None
        envelope = self._envelopes[slot.slot]
        try:
            return payload_digest(envelope)
        finally:
            envelope.source.close()

    def facts(self, slot: state.Slot) -> "Bundle | None":
        """Return the facts of the bundle a record names, if the slot still holds that bundle."""
        if self._facts[slot.slot] is None:
            try:
                source = files.FileSource(self.slot_path(slot.slot))
                if files.digest_of(source).hex() != slot.sha256:
                    return None
                envelope = scan_envelope(source, BUNDLE)
                facts = read_bundle(envelope)
                require_fleet(facts.fleet, self.state.fleet)
                source.close()
            except TrustError as error:
                self.error = error
                return None
            self._facts[slot.slot] = facts
            self._envelopes[slot.slot] = envelope
        facts = self._facts[slot.slot]
        return facts if facts.version == slot.version else None

    def der(self, slot: int, root: "Root") -> bytes:
        """Return the DER of a root of the bundle in `slot`."""
        envelope = self._envelopes[slot]
        try:
            return read_der(envelope, root)
        finally:
            envelope.source.close()

    def previous(self) -> list:
        """Return records for the slots that could stand in for the good one (L1).

        Not the one on trial, none given up, none below the floor; the signatures must hold.
        """
        found = []
        if not self.factory.managed:
            return found
        for slot in (0, 1):
            for taken in (self.state.trial, self.state.good):
                if taken is not None and taken.slot == slot and self.facts(taken) is not None:
                    break
            else:
                facts = self.reverify(slot)
                if (
                    facts is not None
                    and facts.version >= self.state.floor
                    and not self.state.is_bad(facts.version)
                ):
                    found.append(
                        state.Slot(
                            slot, facts.version, facts.key_version, self._slot_digest(slot).hex()
                        )
                    )
        return found

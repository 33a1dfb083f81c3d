"""Two slots, two records and the key-sets, on any file system.

Responsible for: what is on flash and in which order it gets there, so that a cut at any point
leaves the old state or the new one (R-21, R-32 to R-37). Not for: whether a package is acceptable
(update.py), when a root is tried (ladder.py), what is found at boot (stored.py).

    slot0.jws slot1.jws   bundle envelopes exactly as received
    keys.<n>.jws          every accepted key-set
    state0 state1         records with a checksum; the one with the lower `seq` is replaced
    inbox.json            a package put there by hand

Theory of operation. A record is written only into the file that does not hold the newest one, and
a slot only while no record points at it, so the newest whole record always tells the truth. A
change of what is distrusted goes into both records before it is reported as done. `load()` takes
the newest whole record; without any, the slots' own signatures decide.
"""

import os

from micropython import const

from . import files, state
from .errors import StorageError
from .jws import BUNDLE, payload_digest, scan_envelope
from .stored import Stored

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .bundle import Bundle
    from .jws import Envelope
    from .keyset import KeySet

_TRIES = const(3)
_EPOCH_2000 = const(946684800)


class Store(Stored):
    """The trust store in one folder: `Store("/trust", factory).load()`."""

    def make_folder(self) -> None:
        """Make the store's folder; if that fails, the write that follows says why."""
        try:
            os.mkdir(self.folder)
        except OSError:
            return

    def _write(self, following: state.State) -> None:
        """Put a record in place of the older one; the state in memory follows only then."""
        following.seq = self.state.seq + 1
        target = 1 - self._record
        self.make_folder()
        path = self.path("state%d" % target)
        try:
            files.write_bytes(path, state.encode(following))
        except StorageError:
            # It may be whole on flash all the same, and would rule after a reset.
            files.remove(path)
            raise
        self._record = target
        self.state = following

    def _even(self) -> None:
        """Bring the other record up to date when a cut left it with an older `distrust`."""
        if self._uneven:
            self._write(self.state.copy())
            self._uneven = False

    def stage(
        self, envelope: "Envelope", bundle: "Bundle", digest: bytes, source: str = "ota"
    ) -> None:
        """Write a verified bundle into the slot that is not good and begin its trial.

        digest: SHA-256 of the payload's characters, as verified. source: ota, recovery or inbox.
        """
        self._even()
        if self.state.seq == 0 and self.state.good is not None:
            self._write(self.state.copy())  # recovered from the slots: on record before anything
        if self.state.trial is not None:
            following = self.state.copy()
            following.trial = None
            following.tries = 0
            self._write(following)
        slot = 1 - self.state.good.slot if self.state.good else 0
        self._facts[slot] = None
        self.make_folder()
        sha = files.write_span(self.slot_path(slot), envelope.source, envelope.start, envelope.end)
        written = scan_envelope(files.FileSource(self.slot_path(slot)), BUNDLE)
        if payload_digest(written) != digest:
            raise StorageError("slot does not hold what was verified")
        written.source.close()
        following = self.state.copy()
        following.trial = state.Slot(slot, bundle.version, bundle.key_version, sha.hex(), source)
        following.tries = _TRIES
        listed = bundle.version > self.state.dv
        if listed:
            following.distrust = bundle.distrust
            following.dv = bundle.version
        self._write(following)
        self._facts[slot] = bundle
        self._envelopes[slot] = written
        if listed:
            self._uneven = True
            self._even()

    def accept_keyset(self, envelope: "Envelope", keyset: "KeySet") -> None:
        """Keep a verified key-set N+1, then record its version (R-13 to R-15)."""
        self.make_folder()
        files.write_span(
            self.path("keys.%d.jws" % keyset.version),
            envelope.source,
            envelope.start,
            envelope.end,
        )
        self._keyset = keyset
        self.record_keyset(keyset)

    def record_keyset(self, keyset: "KeySet") -> None:
        """Record the version of the key-set in force, if a cut or this package left it unsaid.

        A change of the bundle role's keys is fast-forward recovery: whatever the old keys signed
        may have been signed by a thief, so versions start anew under the new ones, and a bundle
        still on trial is dropped.
        """
        if keyset.version > self.state.kver:
            following = self.state.copy()
            following.kver = keyset.version
            if sorted(self._recorded) != sorted(keyset.bundle.kids):
                following.seen = 0
                following.dv = 0
                following.bad = []
                following.trial = None
                following.tries = 0
            self._write(following)
        if keyset.version <= self.state.kver:
            self._recorded = keyset.bundle.kids

    def spend_try(self) -> None:
        """Take one try off the trial, before it is used."""
        following = self.state.copy()
        following.tries -= 1
        self._write(following)

    def refund_try(self) -> None:
        """Give back a try that ended without a verdict."""
        following = self.state.copy()
        following.tries += 1
        self._write(following)

    def confirm(self, bundle: "Bundle", time_floor: int = 0) -> None:
        """Make the trial good; floors rise in the same record (R-22)."""
        following = self.state.copy()
        trial = following.trial
        following.good = trial
        following.trial = None
        following.tries = 0
        if following.seen == 0:
            following.floor = bundle.min_version  # first after fast-forward recovery
        else:
            following.floor = max(following.floor, bundle.min_version)
        following.seen = max(following.seen, trial.version)
        following.tfloor = max(following.tfloor, bundle.issued, time_floor)
        following.recoveries = 0
        following.recovery_at = 0
        self._write(following)
        self._copy_floors()

    def _copy_floors(self) -> None:
        mirror = self._mirror
        if mirror is not None:
            # The order matters: bver is void while its kver is below the good bundle's.
            mirror.set("bver", self.state.floor)
            mirror.set("kver", self.state.good.key_version)
            if self.state.tfloor > _EPOCH_2000:
                mirror.set("tfloor", self.state.tfloor - _EPOCH_2000)

    def revert(self, why: str) -> None:
        """Give the trial up; its version is not accepted again."""
        following = self.state.copy()
        following.add_bad(following.trial.version, why)
        following.trial = None
        following.tries = 0
        self._write(following)

    def raise_time_floor(self, unix_seconds: int) -> None:
        """Record a later lower bound of the time (T4, T10)."""
        if unix_seconds > self.state.tfloor:
            following = self.state.copy()
            following.tfloor = unix_seconds
            self._write(following)
            if self._mirror is not None and unix_seconds > _EPOCH_2000:
                self._mirror.set("tfloor", unix_seconds - _EPOCH_2000)

    def note_recovery(self, count: int, at: int) -> None:
        """Record how often recovery was tried and when it may be tried again (G7)."""
        following = self.state.copy()
        following.recoveries = count
        following.recovery_at = at
        self._write(following)

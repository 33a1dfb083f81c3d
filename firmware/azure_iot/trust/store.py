"""The trust store as it stays in memory: what the newest record says, the facts of each slot.

Responsible for: the state, paths, the one way in which a record gets to flash; loading the modules
that read (stored.py) and change (changes.py) what is there for the moment they are needed, and
forgetting them. Not for: whether a package is acceptable (update.py), when a root is tried
(ladder.py).

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

from azure_iot.transient import Transient

from . import roots  # noqa: F401 (stays: it answers within a handshake)
from .errors import RefusedError

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from .factory import Factory
    from .keyset import KeySet
    from .roots import Bundle
    from .rsa import Verifier

    class Mirror(Protocol):
        """Named integers outside the file system (NVS)."""

        def get(self, name: str) -> "int | None": ...
        def set(self, name: str, value: int) -> None: ...


_MAX_BAD = const(4)

# Methods that live in a module of their own, which is loaded for the call.
_STORED = const((
    "factory_payload_digest", "keyset", "keyset_payload_digest", "load", "previous", "read_facts",
    "read_factory", "reverify", "slot_payload_digest",
))  # fmt: skip
_CHANGES = const((
    "accept_keyset", "add_tries", "confirm", "note_recovery", "raise_time_floor", "record_keyset",
    "revert", "stage",
))  # fmt: skip


class Slot:
    """What a record says about a slot: number, bundle version, its `key_version`, slot digest.

    `source` is how the bundle came: ota, recovery or inbox.
    """

    def __init__(
        self, slot: int, version: int, key_version: int, sha256: str, source: str = "ota"
    ) -> None:
        self.slot = slot
        self.version = version
        self.key_version = key_version
        self.sha256 = sha256
        self.source = source


class State:
    """One record. `good` is None while the factory bundle rules; `seen` 0 awaits fast-forward."""

    def __init__(self) -> None:
        self.seq = 0
        self.fleet = ""
        self.good: Slot | None = None
        self.trial: Slot | None = None
        self.tries = 0
        self.floor = 0
        self.seen = 0
        self.kver = 0
        self.tfloor = 0
        self.bad: list = []
        self.distrust: list = []
        self.dv = 0
        self.recoveries = 0
        self.recovery_at = 0

    def copy(self) -> "State":
        """Return a record to change and write; this one stays what is on flash."""
        other = State()
        for name in self.__dict__:
            value = getattr(self, name)
            setattr(other, name, list(value) if isinstance(value, list) else value)
        return other

    def add_bad(self, version: int, why: str) -> None:
        """Note a version that was tried and given up; the highest always stays on the list."""
        bad = [entry for entry in self.bad if entry[0] != version]
        bad.append((version, why))
        if len(bad) > _MAX_BAD:
            bad.remove(min(bad))
        self.bad = bad

    def is_bad(self, version: int) -> bool:
        """Tell whether this very version was tried and given up."""
        return version in [entry[0] for entry in self.bad]


class Store:
    """The trust store in one folder: `Store("/trust", factory).load()`.

    folder: an existing or new directory. factory: factory.Factory. mirror: optional copy of the
    floors, `get(name) -> int | None` and `set(name, value)`. verifier: `(key, digest, signature)`.
    After `load()`: `state`, and `error` if something on flash was not as it should be. Every
    function of stored.py and changes.py is a method: `store.load()` is `stored.load(store)`.
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
        self.state = State()
        self.error: Exception | None = None
        self.mirror = mirror
        self.verifier = verifier
        self._record = 0
        self._uneven = False
        self._facts: list = [None, None]
        self._jobs: Transient | None = None
        self._depth = 0
        # While a job runs: the key-set in force, the bundle keys of the one that `kver` names.
        self._keyset: KeySet | None = None
        self._recorded: list = []

    def __enter__(self) -> "Store":
        if not self._depth:
            self._jobs = Transient()
            self._jobs.__enter__()
        self._depth += 1
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._keyset = None
            self._recorded = []
            good = self.state.good
            if good is not None and self._facts[good.slot] is not None:
                self.factory.facts = None  # not in use
            jobs = self._jobs
            self._jobs = None
            jobs.__exit__(kind, error, trace)

    def __getattr__(self, name: str) -> "Callable":
        """Return a function of stored.py or changes.py, which are loaded for the call."""
        if name not in _STORED and name not in _CHANGES:
            raise AttributeError(name)

        def call(*args: object) -> object:
            with self:
                if name in _STORED:
                    from . import stored as module
                else:
                    from . import changes as module  # type: ignore[no-redef]
                return getattr(module, name)(self, *args)

        return call

    def path(self, name: str) -> str:
        """Return the path of a file of the store."""
        return self.folder + "/" + name

    def slot_path(self, slot: int) -> str:
        """Return the path of slot 0 or 1."""
        return self.path("slot%d.jws" % slot)

    def make_folder(self) -> None:
        """Make the store's folder; if that fails, the write that follows says why."""
        try:
            os.mkdir(self.folder)
        except OSError:
            return

    def facts(self, slot: Slot) -> "Bundle | None":
        """Return the facts of the bundle a record names, if the slot still holds that bundle."""
        facts = self._facts[slot.slot]
        if facts is None:
            facts = self._facts[slot.slot] = self.read_facts(slot)
        return facts if facts is not None and facts.version == slot.version else None

    def _write(self, following: State) -> None:
        """Put a record in place of the older one; the state in memory follows only then."""
        if self._record < 0:
            raise RefusedError("the records were not read for lack of memory: restart", "MEMORY")
        following.seq = self.state.seq + 1
        target = 1 - self._record
        self.make_folder()
        path = self.path("state%d" % target)
        with self:
            from . import files, state

            try:
                files.write_bytes(path, state.encode(following))
            except RefusedError:
                # It may be whole on flash all the same, and would rule after a reset.
                files.remove(path)
                raise
        self._record = target
        self.state = following

"""The state record: which slot is good, which is on trial, the floors, what is distrusted.

Responsible for: the record's members, its text and its checksum. Not for: where records lie and
which of the two is newer (store.py). A record is JSON followed by the SHA-256 of that JSON.
"""

import json
from hashlib import sha256

from micropython import const

from .sources import is_digest

_MAX_VERSION = const(0x3FFFFFFF)
_MAX_BAD = const(4)
MAX_RECORD = const(4096)


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

    def members(self) -> dict:
        """Return the record's form."""
        return {
            "slot": self.slot,
            "v": self.version,
            "kv": self.key_version,
            "sha": self.sha256,
            "src": self.source,
        }


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
        while len(bad) > _MAX_BAD:
            lowest = bad[0]
            for entry in bad:
                if entry[0] < lowest[0]:
                    lowest = entry
            bad.remove(lowest)
        self.bad = bad

    def is_bad(self, version: int) -> bool:
        """Tell whether this very version was tried and given up."""
        for entry in self.bad:
            if entry[0] == version:
                return True
        return False


def encode(state: State) -> bytes:
    """Return the record as bytes."""
    members = {
        "seq": state.seq,
        "fleet": state.fleet,
        "good": state.good.members() if state.good else None,
        "trial": state.trial.members() if state.trial else None,
        "tries": state.tries,
        "floor": state.floor,
        "seen": state.seen,
        "kver": state.kver,
        "tfloor": state.tfloor,
        "bad": [{"v": version, "why": why} for version, why in state.bad],
        "distrust": [digest.hex() for digest in state.distrust],
        "dv": state.dv,
        "rec": [state.recoveries, state.recovery_at],
    }
    body = json.dumps(members).encode()
    return body + sha256(body).digest()


def decode(record: bytes | None, fleet: str) -> State | None:
    """Return the state, or None for whatever is not a whole record of this fleet."""
    if record is None or len(record) < 34:
        return None
    body = record[:-32]
    if sha256(body).digest() != record[-32:]:
        return None
    try:
        return _state(json.loads(body), fleet)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        # The checksum holds, yet the members are not ours: a record of another make.
        return None


def _state(members: dict, fleet: str) -> State:
    state = State()
    state.fleet = members["fleet"]
    if state.fleet != fleet:
        raise ValueError("fleet")
    for name in ("seq", "tries", "floor", "seen", "kver", "dv"):
        setattr(state, name, _integer(members[name], _MAX_VERSION))
    state.tfloor = _integer(members["tfloor"], 9999999999)
    state.good = _slot(members["good"])
    state.trial = _slot(members["trial"])
    if state.good and state.trial and state.good.slot == state.trial.slot:
        raise ValueError("slot")
    for entry in members["bad"]:
        state.bad.append((_integer(entry["v"], _MAX_VERSION), str(entry["why"])))
    for text in members["distrust"]:
        if not is_digest(text.encode()):
            raise ValueError("distrust")
        state.distrust.append(bytes.fromhex(text))
    state.recoveries = _integer(members["rec"][0], _MAX_VERSION)
    state.recovery_at = _integer(members["rec"][1], 9999999999)
    return state


def _slot(members: dict | None) -> Slot | None:
    if members is None:
        return None
    if not is_digest(members["sha"].encode()):
        raise ValueError("sha")
    return Slot(
        _integer(members["slot"], 1),
        _integer(members["v"], _MAX_VERSION),
        _integer(members["kv"], _MAX_VERSION),
        members["sha"],
        str(members["src"]),
    )


def _integer(value: object, most: int) -> int:
    # `type`, not `isinstance`: True is an int on CPython only.
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("integer")
    return value

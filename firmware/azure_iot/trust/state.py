"""The state record: which slot is good, which is on trial, the floors, what is distrusted.

Responsible for: the record's text and its checksum. Not for: its members (store.py), where records
lie and which of the two is newer (stored.py). A record is JSON followed by the SHA-256 of it.
"""

import json
from hashlib import sha256

from micropython import const

from .sources import is_digest
from .store import Slot, State

_MAX_VERSION = const(0x3FFFFFFF)
MAX_RECORD = const(4096)


def encode(state: State) -> bytes:
    """Return the record as bytes."""
    members = {
        "seq": state.seq,
        "fleet": state.fleet,
        "good": _members(state.good),
        "trial": _members(state.trial),
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


def _members(slot: "Slot | None") -> "dict | None":
    if slot is None:
        return None
    return {
        "slot": slot.slot,
        "v": slot.version,
        "kv": slot.key_version,
        "sha": slot.sha256,
        "src": slot.source,
    }


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

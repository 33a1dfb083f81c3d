"""The install procedure: what a package must pass, in order.

Responsible for: the order of checks and writes from a package to a bundle on trial. Not for:
fetching it (agent.py, recovery.py), trying it (manager.py). Loading a root in the TLS library is a
function passed in, so that this module runs anywhere.

1. Size, brackets, strict JSON, exact shape: nothing decoded yet.
2. Each key-set after the one in force: exactly the next version, signed by the old threshold, then
   decoded, then signed by the new threshold, then written, then recorded.
3. The bundle: signed by the threshold of the bundle role, then decoded and judged.
4. Staged, together with its list of distrusted roots.
"""

import gc

from micropython import const

from . import rsa
from .bundle import read_bundle, require_uses
from .errors import RefusedError
from .jws import BUNDLE, payload_digest, scan_package, verify
from .keyset import next_keyset, require_fleet

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from .bundle import Bundle
    from .jws import Envelope
    from .keyset import KeySet
    from .rsa import Verifier
    from .sources import Source
    from .state import State
    from .store import Store


class Rules:
    """What an install is judged by.

    now: Unix time. synchronised: whether `now` was set in this boot by a source that counts.
    origin: ota, inbox or recovery; in recovery an expired bundle is acceptable while the clock is
    only assumed (R-23).
    uses: kinds of connection that need a root. loader: see bundle.read_bundle.
    """

    def __init__(
        self,
        now: int,
        synchronised: bool,
        uses: tuple = ("hub",),
        loader: "Callable | None" = None,
        origin: str = "ota",
        verifier: "Verifier" = rsa.verify,
    ) -> None:
        self.now = now
        self.synchronised = synchronised
        self.uses = uses
        self.loader = loader
        self.origin = origin
        self.verifier = verifier


def install(store: "Store", source: "Source", rules: Rules) -> "tuple[int, bool]":
    """Verify the package in `source` and stage its bundle.

    Return (version, True), or (version, False) if this very bundle is already in place.
    Raises the classes of errors.py; the roots in use are then what they were.
    """
    keysets, envelope = scan_package(source)
    _follow_keys(store, keysets, rules)
    keyset = store.keyset()
    gc.collect()
    digest = verify(envelope, BUNDLE, keyset.keys, keyset.bundle, rules.verifier)
    gc.collect()
    bundle = read_bundle(envelope, digest, rules.loader)
    gc.collect()
    try:
        return bundle.version, _judge(store, keyset, envelope, bundle, digest, rules)
    except RefusedError as error:
        error.version = bundle.version
        raise


def _judge(
    store: "Store",
    keyset: "KeySet",
    envelope: "Envelope",
    bundle: "Bundle",
    digest: bytes,
    rules: Rules,
) -> bool:
    require_fleet(bundle.fleet, keyset.fleet)
    if bundle.key_version != keyset.version:
        raise RefusedError(
            "bundle for key-set %d, this device is at %d" % (bundle.key_version, keyset.version),
            "KEY_CHAIN",
        )
    if _is_present(store, bundle, digest):
        return False
    _require_newer(store.state, bundle)
    _require_dates(bundle, rules)
    require_uses(bundle, rules.uses)
    store.stage(envelope, bundle, digest, rules.origin)
    return True


def _follow_keys(store: "Store", keysets: list, rules: Rules) -> None:
    keyset = store.keyset(False)
    store.record_keyset(keyset)
    # The package may begin with key-sets this device has walked already.
    known = store.keyset_payload_digest(keyset.version) if keysets else None
    begin = 0
    for i, envelope in enumerate(keysets):
        if payload_digest(envelope) == known:
            begin = i + 1
    for envelope in keysets[begin:]:
        keyset = next_keyset(envelope, keyset, rules.verifier)
        store.accept_keyset(envelope, keyset)
        gc.collect()


def _is_present(store: "Store", bundle: "Bundle", digest: bytes) -> bool:
    """Tell whether the good or trial bundle, or the factory's, is this one; R-20 refuses a twin."""
    state = store.state
    for slot in (state.trial, state.good):
        if slot is not None and slot.version == bundle.version and not state.is_bad(slot.version):
            if slot.key_version == bundle.key_version:
                return _same(store.slot_payload_digest(slot), digest)
    factory = store.factory.bundle()
    if factory.version == bundle.version and factory.key_version == bundle.key_version:
        if state.good is None:
            return _same(store.factory_payload_digest(), digest)
    return False


def _same(present: bytes | None, digest: bytes) -> bool:
    if present is not None and present != digest:
        raise RefusedError("another bundle of the version in place", "ROLLBACK")
    return present is not None


def _require_newer(state: "State", bundle: "Bundle") -> None:
    if bundle.version <= state.seen:
        raise RefusedError(
            "version %d, %d is confirmed" % (bundle.version, state.seen), "ROLLBACK"
        )
    for version, why in state.bad:
        if bundle.version <= version:
            raise RefusedError(
                "version %d, %d was tried and given up (%s)" % (bundle.version, version, why),
                "ROLLBACK",
            )


def _require_dates(bundle: "Bundle", rules: Rules) -> None:
    if rules.synchronised and bundle.issued > rules.now:
        raise RefusedError("issued in the future", "EXPIRED")
    if bundle.expires <= rules.now and (rules.synchronised or rules.origin != "recovery"):
        raise RefusedError("expired", "EXPIRED")

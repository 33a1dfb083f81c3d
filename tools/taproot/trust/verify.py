"""Judging a package as a device would: with the device's own install procedure.

Responsible for: giving `azure_iot.trust.update` a store that lives in memory and stands at a
chosen place (bootstrap key-set, confirmed version, clock), and loading each root into TLS through
unix MicroPython (R-29). Not for: what several devices together would suffer (guards.py).

    verdict = verify_package(package, Position(keyset_jws, now=int(time.time())))
    verdict.ok, verdict.code, verdict.text, verdict.steps
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from azure_iot.errors import TrustError
from azure_iot.trust import jws as device_jws
from azure_iot.trust import keyset as device_keyset
from azure_iot.trust import rsa as device_rsa
from azure_iot.trust import update as device_update
from azure_iot.trust.sources import BytesSource

from taproot import interpreters
from taproot.console import UsageFailed
from taproot.trust.signing import Envelope

_LOAD = """
import sys, tls
with open(sys.argv[1], "rb") as file:
    der = file.read()
try:
    tls.SSLContext(tls.PROTOCOL_TLS_CLIENT).load_verify_locations(der)
    print("ok")
except ValueError as error:
    print("refused", error)
"""


@dataclass
class Verdict:
    """What a device would say, step by step."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    code: str = ""
    text: str = ""
    version: int = 0
    key_version: int = 0
    not_checked: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when a device in this position would stage the package."""
        return not self.code

    def step(self, name: str, text: str) -> None:
        """Note a rule that held."""
        self.steps.append({"name": name, "ok": True, "text": text})

    def fail(self, name: str, code: str, text: str) -> None:
        """Note the rule that did not hold."""
        self.code, self.text = code, text
        self.steps.append({"name": name, "ok": False, "code": code, "text": text})


@dataclass(frozen=True)
class Position:
    """Where the judging device stands: bootstrap key-set, confirmed version, clock, uses."""

    bootstrap: bytes
    seen: int = 0
    now: int | None = None
    dps: bool = False


class _Memory:
    """What `update.install` needs of a store, with one bundle-less device behind it."""

    def __init__(self, at: Position, verdict: Verdict) -> None:
        envelope = device_jws.scan_envelope(BytesSource(at.bootstrap), device_jws.KEYS)
        self._keyset = device_keyset.read_keyset(envelope)
        self._digest = device_jws.payload_digest(envelope)
        self._verdict = verdict
        self.phase = "shape"
        self.state = SimpleNamespace(trial=None, good=None, seen=at.seen, bad=[])
        self.factory = SimpleNamespace(bundle=lambda: SimpleNamespace(version=0, key_version=0))

    def keyset(self, current: bool = True) -> Any:
        """Return the key-set in force; the device asks at the start and before the bundle."""
        if current:
            self.phase = "signatures"
        else:
            self._verdict.step("shape", "limits, strict JSON, exact members")
            self.phase = "key-sets"
        return self._keyset

    def keyset_payload_digest(self, version: int) -> bytes:
        """Return the digest of the key-set in force."""
        return self._digest

    def record_keyset(self, keyset: Any) -> None:
        """Record nothing: this device has no flash that a cut could leave behind."""

    def accept_keyset(self, envelope: Any, keyset: Any) -> None:
        """Step to the next key-set."""
        text = f"{self._keyset.version} -> {keyset.version}, signed by old and new threshold"
        self._verdict.step("key-sets", text)
        self._keyset, self._digest = keyset, device_jws.payload_digest(envelope)

    def stage(self, envelope: Any, bundle: Any, digest: bytes, *origin: Any) -> None:
        """Note what would be staged."""
        role = self._keyset.bundle
        v = self._verdict
        v.step("signatures", f"{role.threshold} of {len(role.kids)} bundle keys")
        v.step(
            "contents",
            f"version {bundle.version}, min_version {bundle.min_version}, "
            f"{len(bundle.roots)} roots, {len(bundle.distrust)} distrusted",
        )
        v.version, v.key_version = bundle.version, bundle.key_version


def verify_package(package: bytes, at: Position, *, load_roots: bool = True) -> Verdict:
    """Judge a package; the first rule that does not hold ends it."""
    verdict = Verdict()
    phase = "bootstrap"
    store = None
    try:
        store = _Memory(at, verdict)
        keyset = store._keyset
        verdict.step(phase, f"key-set {keyset.version} of fleet {keyset.fleet}")
        rules = device_update.Rules(
            now=0 if at.now is None else at.now,
            synchronised=at.now is not None,
            uses=("hub", "dps") if at.dps else ("hub",),
            loader=_loader(verdict) if load_roots else None,
            verifier=device_rsa.verify,
        )
        device_update.install(store, BytesSource(package), rules)
        if load_roots and not verdict.not_checked:
            verdict.step("tls", "every root loads into MicroPython's TLS (R-29)")
    except TrustError as error:
        phase = store.phase if store is not None else phase
        verdict.fail(_phase_of(error.code, phase), error.code, str(error))
    return verdict


def _phase_of(code: str, phase: str) -> str:
    if phase != "signatures" or code in ("BAD_SIGNATURE", "THRESHOLD"):
        return phase
    return "contents"


def _loader(verdict: Verdict) -> Callable[[bytes], None]:
    """Return the function that loads one root, or notes why none can be loaded here."""
    try:
        interpreters.path("unix64")
    except UsageFailed as error:
        verdict.not_checked.append(f"loading the roots into TLS (R-29): {error.message}")
        return lambda der: None

    def load(der: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="taproot-") as folder:
            script, root = Path(folder) / "load.py", Path(folder) / "root.der"
            script.write_text(_LOAD)
            root.write_bytes(bytes(der))
            result = interpreters.run("unix64", script, str(root), cwd=folder)
        if result.returncode or not result.stdout.startswith("ok"):
            raise ValueError(result.stdout.strip() or result.text)

    return load


def bootstrap_payload(keyset: bytes) -> dict[str, Any]:
    """Return the payload of a key-set envelope that is trusted as the firmware is."""
    try:
        envelope = device_jws.scan_envelope(BytesSource(keyset), device_jws.KEYS)
        device_keyset.read_keyset(envelope)
    except TrustError as error:
        raise UsageFailed(f"not a key-set: {error}") from None
    found: dict[str, Any] = json.loads(Envelope.from_bytes(keyset).payload)
    return found

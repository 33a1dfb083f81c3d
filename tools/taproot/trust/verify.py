"""Judging a package as a device would: with the device's own modules.

Responsible for: walking the key-sets from a bootstrap, the bundle's threshold, every rule of its
contents, versions and dates, and (through unix MicroPython) loading each root into TLS (R-29).
Not for: what several devices together would suffer (guards.py).

    verdict = verify_package(package, bootstrap=keyset_jws, now=int(time.time()))
    verdict.ok, verdict.code, verdict.text, verdict.steps
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import taproot.device_modules  # noqa: F401  (puts micropython.const within reach)
from azure_iot.errors import TrustError
from azure_iot.trust import bundle as device_bundle
from azure_iot.trust import jws as device_jws
from azure_iot.trust import rsa as device_rsa
from azure_iot.trust.scan import BytesSource
from taproot import interpreters
from taproot.console import UsageFailed

_LOAD = """
import sys, tls
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        der = file.read()
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(der)
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
    """Where the judging device stands: bootstrap key-set, versions, clock."""

    bootstrap: bytes
    seen: int = 0
    key_floor: int = 0
    now: int | None = None
    fleet: str | None = None
    dps: bool = False


def verify_package(package: bytes, at: Position, *, load_roots: bool = True) -> Verdict:
    """Judge a package; the first rule that does not hold ends it."""
    verdict = Verdict()
    name = "bootstrap"
    try:
        source = BytesSource(at.bootstrap)
        keyset = device_bundle.read_keyset(device_jws.scan_envelope(source, device_jws.KEYS))
        verdict.step(name, f"key-set {keyset.version} of fleet {keyset.fleet}")
        if at.fleet is not None:
            device_bundle.require_fleet(keyset.fleet, at.fleet)
        name = "shape"
        keysets, envelope = device_jws.scan_package(BytesSource(package))
        verdict.step(name, f"{len(package)} B, {len(keysets)} key-sets, one bundle")
        name = "key-sets"
        keyset = _walk(keyset, at.bootstrap, keysets, verdict)
        if keyset.version < at.key_floor:
            verdict.fail(
                name, "KEY_CHAIN", f"ends at {keyset.version}, below key-set {at.key_floor}"
            )
            return verdict
        name = "signatures"
        digest = device_jws.verify(
            envelope, device_jws.BUNDLE, keyset.keys, keyset.bundle, device_rsa.verify
        )
        verdict.step(name, f"{keyset.bundle.threshold} of {len(keyset.bundle.kids)} bundle keys")
        name = "contents"
        bundle = device_bundle.read_bundle(envelope, digest)
        _contents(bundle, keyset, at, verdict)
        if verdict.ok and load_roots:
            name = "tls"
            _load(envelope, bundle, verdict)
    except TrustError as error:
        verdict.fail(name, error.code, str(error))
    return verdict


def _walk(keyset: Any, bootstrap: bytes, keysets: list[Any], verdict: Verdict) -> Any:
    current = device_jws.payload_digest(
        device_jws.scan_envelope(BytesSource(bootstrap), device_jws.KEYS)
    )
    digests = [device_jws.payload_digest(entry) for entry in keysets]
    first = len(digests) - digests[::-1].index(current) if current in digests else 0
    for entry in keysets[first:]:
        digest = device_jws.verify(
            entry, device_jws.KEYS, keyset.keys, keyset.root, device_rsa.verify
        )
        following = device_bundle.read_keyset(entry, digest)
        device_bundle.require_fleet(following.fleet, keyset.fleet)
        if following.version != keyset.version + 1:
            raise TrustError(
                f"key-set {following.version} does not follow {keyset.version}", "KEY_CHAIN"
            )
        device_jws.verify(
            entry, device_jws.KEYS, following.keys, following.root, device_rsa.verify
        )
        verdict.step("key-sets", f"{keyset.version} -> {following.version}, old and new threshold")
        keyset = following
    return keyset


def _contents(bundle: Any, keyset: Any, at: Position, verdict: Verdict) -> None:
    verdict.version, verdict.key_version = bundle.version, bundle.key_version
    device_bundle.require_fleet(bundle.fleet, keyset.fleet)
    device_bundle.require_uses(bundle, ("hub", "dps") if at.dps else ("hub",))
    if bundle.key_version != keyset.version:
        text = f"made for key-set {bundle.key_version}, the chain ends at {keyset.version}"
        verdict.fail("contents", "KEY_CHAIN", text)
    elif bundle.version <= at.seen:
        text = f"version {bundle.version} is not above {at.seen}"
        verdict.fail("contents", "ROLLBACK", text)
    elif at.now is not None and bundle.expires <= at.now:
        verdict.fail("contents", "EXPIRED", "past its expires")
    elif at.now is not None and bundle.issued > at.now:
        verdict.fail("contents", "EXPIRED", "issued in the future")
    else:
        text = (
            f"version {bundle.version}, min_version {bundle.min_version}, "
            f"{len(bundle.roots)} roots, {len(bundle.distrust)} distrusted"
        )
        verdict.step("contents", text)


def _load(envelope: Any, bundle: Any, verdict: Verdict) -> None:
    try:
        interpreters.path("unix64")
    except UsageFailed as error:
        verdict.not_checked.append(f"loading the roots into TLS (R-29): {error.message}")
        return
    with tempfile.TemporaryDirectory(prefix="taproot-") as folder:
        names = []
        for i, root in enumerate(bundle.roots):
            path = Path(folder) / f"{i}.der"
            path.write_bytes(device_bundle.read_der(envelope, root))
            names.append(str(path))
        script = Path(folder) / "load.py"
        script.write_text(_LOAD)
        result = interpreters.run("unix64", script, *names, cwd=Path(folder))
    lines = result.stdout.splitlines()
    refused = [i for i, line in enumerate(lines) if line != "ok"]
    if result.returncode or len(lines) != len(bundle.roots):
        verdict.not_checked.append("loading the roots into TLS (R-29): the interpreter ended early")
    elif refused:
        text = f"root {bundle.roots[refused[0]].sha256.hex()[:16]}: {lines[refused[0]]}"
        verdict.fail("tls", "NOT_CA", text)
    else:
        verdict.step("tls", f"{len(lines)} roots load into MicroPython's TLS (R-29)")


def bootstrap_payload(keyset: bytes) -> dict[str, Any]:
    """Return the payload of a key-set envelope that is trusted as the firmware is."""
    source = BytesSource(keyset)
    try:
        envelope = device_jws.scan_envelope(source, device_jws.KEYS)
        device_bundle.read_keyset(envelope)
    except TrustError as error:
        raise UsageFailed(f"not a key-set: {error}") from None
    from taproot.trust.signing import Envelope

    found: dict[str, Any] = json.loads(Envelope.from_bytes(keyset).payload)
    return found

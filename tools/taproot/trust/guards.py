"""Refusals: what would strand a fleet, found before anything is signed or published.

Responsible for: comparing the next bundle with the one before, with what devices reported and
with the key chain old devices must walk; each finding has a code and a reason.
Not for: what a single device would refuse (builder.py, verify.py).

A refusal is lifted only by telling twice: `--despite CODE` names exactly this refusal, and
`--confirm-fleet NAME` names the fleet that carries the consequence. The ledger keeps both.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from taproot.console import PromiseFailed
from taproot.probe.file import Server
from taproot.trust.package import MAX_KEYSETS, MAX_PACKAGE
from taproot.trust.roots import Catalogue, describe
from taproot.trust.status import heard
from taproot.trust.workspace import Settings

PROBE_AGE = 7 * 86400
CODES = {
    "no-status": "what the fleet uses now is not known",
    "in-use": "a root goes away that devices or probes saw in use",
    "unproven": "a root goes away and nothing newer than 7 days proves the remaining ones",
    "below-floor": "devices would refuse the version",
    "unwalkable": "devices with the oldest bootstrap key-set cannot walk to the present one",
    "root-expires": "a root ends before the longest-absent device is back",
    "bundle-expires": "the bundle ends before the longest-absent device is back",
    "no-dps": "devices that register through DPS would have no root for it",
    "retired-root": "a retired root is listed",
    "no-root-for-server": "a probed server presents no chain that a root of the bundle carries",
}


class Refused(PromiseFailed):
    """Something would strand devices and was not told twice."""


@dataclass(frozen=True)
class Finding:
    """One reason to stop, or to take note."""

    code: str
    text: str
    devices: tuple[str, ...] = ()
    refuses: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the finding for `--json` and the ledger."""
        return {
            "code": self.code,
            "refuses": self.refuses,
            "text": self.text,
            "devices": list(self.devices),
        }


@dataclass
class Situation:
    """Everything the guards look at."""

    settings: Settings
    catalogue: Catalogue
    at: int
    previous: dict[str, Any] | None
    status: dict[str, Any] | None
    key_version: int
    chain_bytes: int = 0  # the bundle and every key-set after the oldest bootstrap
    servers: Sequence[Server] = ()  # what `taproot probe` saw
    devices: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.devices = list(self.status["devices"]) if self.status else []


def examine(bundle: dict[str, Any], situation: Situation) -> list[Finding]:
    """Return every finding about the next bundle."""
    return [
        *_removed(bundle, situation),
        *_floor(bundle, situation),
        *walk_findings(situation),
        *_expiry(bundle, situation),
        *_uses(bundle, situation),
        *_catalogue(bundle, situation),
        *_servers(bundle, situation),
    ]


def enforce(
    findings: Sequence[Finding], fleet: str, despite: Sequence[str], confirmed: str | None
) -> list[Finding]:
    """Raise Refused unless each refusal was told twice; return those that were overridden."""
    unknown = [code for code in despite if code not in CODES]
    if unknown:
        raise Refused(f"--despite {unknown[0]}: no such refusal; there are: {', '.join(CODES)}")
    refusals = [f for f in findings if f.refuses]
    standing = [f for f in refusals if f.code not in despite]
    if standing or (refusals and confirmed != fleet):
        lines = [_line(f) for f in standing or refusals]
        codes = " ".join(f"--despite {f.code}" for f in _unique(refusals))
        raise Refused(
            "refused, because it would strand devices:\n"
            + "\n".join(lines)
            + f"\nTo do it nevertheless, say it twice: {codes} --confirm-fleet {fleet}"
        )
    return refusals


def _line(finding: Finding) -> str:
    line = f"  {finding.code}: {finding.text}"
    if finding.devices:
        shown = ", ".join(finding.devices[:10])
        more = len(finding.devices) - 10
        line += f"\n    devices: {shown}" + (f" and {more} more" if more > 0 else "")
    return line


def _unique(findings: Sequence[Finding]) -> list[Finding]:
    return list({f.code: f for f in findings}.values())


def users_of(sha256: str, devices: Sequence[dict[str, Any]], at: int) -> list[str]:
    """Return the ids of devices whose last full handshake or a recent probe used a root."""
    return [d["id"] for d in devices if sha256 in _proofs(d, at)]


def _proofs(device: dict[str, Any], at: int) -> dict[str, int]:
    """Return root -> time of the last success that this device reported with it."""
    trust = device.get("trust") or {}
    found: dict[str, int] = {}
    for probe in trust.get("probes") or []:
        fresh = isinstance(probe.get("at"), int) and at - probe["at"] <= PROBE_AGE
        if probe.get("result") == "ok" and fresh:
            found[str(probe.get("root"))] = probe["at"]
    last = heard(device)
    if trust.get("via") and at - last <= PROBE_AGE:
        found[str(trust["via"])] = last
    return found


def _removed(bundle: dict[str, Any], s: Situation) -> list[Finding]:
    # A root that no longer serves the hub is gone for whoever connects with it.
    kept = {r["sha256"] for r in bundle["roots"] if "hub" in r["use"]}
    staying = kept | set(bundle.get("distrust", ()))
    before = s.previous["roots"] if s.previous else ()
    gone = [r for r in before if "hub" in r["use"] and r["sha256"] not in staying]
    found = _used(gone, staying, s)
    if not gone:
        return found
    names = ", ".join(f"{r['note']} ({r['sha256'][:16]})" for r in gone)
    names += " goes away" if len(gone) == 1 else " go away"
    age = ""
    if s.status is None:
        age = "there is no status"
    elif s.at - int(s.status.get("at", 0)) > PROBE_AGE:
        age = "the last status is over 7 days old"
    elif not any(_managed(d) for d in s.devices):
        age = "the last status knows no managed device"
    if age:
        return [Finding("no-status", f'{names}, and {age}: run "taproot trust status"')]
    unproven = [d["id"] for d in s.devices if _managed(d) and not kept & set(_proofs(d, s.at))]
    if unproven:
        found.append(
            Finding(
                "unproven",
                f"{names}, and {len(unproven)} of {len(s.devices)} devices have no "
                "connection or probe of the last 7 days with a root that stays",
                tuple(unproven),
            )
        )
    return found


def _used(gone: list[dict[str, Any]], staying: set[str], s: Situation) -> list[Finding]:
    """Say which roots devices use, though the bundle does not carry them.

    Not only those of the bundle before: it may have been packaged and never have reached anybody.
    """
    names = {r["sha256"]: str(r["note"]) for r in gone}
    for device in s.devices:
        via = (device.get("trust") or {}).get("via")
        if via and via not in staying and _managed(device):
            listed = s.catalogue.by_digest(via)
            names.setdefault(via, listed.title if listed else "a root")
    found = []
    for digest, name in names.items():
        users = users_of(digest, s.devices, s.at)
        if users:
            found.append(
                Finding(
                    "in-use",
                    f"{name} ({digest[:16]}) goes away, but {len(users)} of "
                    f"{len(s.devices)} devices connected or probed with it in the last 7 days",
                    tuple(users),
                )
            )
    return found


def _managed(device: dict[str, Any]) -> bool:
    return (device.get("trust") or {}).get("state") not in (None, "unmanaged")


def _floor(bundle: dict[str, Any], s: Situation) -> list[Finding]:
    found = []
    version, minimum = bundle["version"], bundle["min_version"]
    ahead = [
        d["id"]
        for d in s.devices
        if int((d.get("trust") or {}).get("version") or 0) >= version
        and int((d.get("trust") or {}).get("key_version") or 0) >= bundle["key_version"]
    ]
    below = [d["id"] for d in s.devices if int((d.get("trust") or {}).get("floor") or 0) > version]
    if below:
        text = f"version {version} is below the floor of {len(below)} devices"
        found.append(Finding("below-floor", text, tuple(below)))
    elif ahead:
        text = f"version {version} is not above what {len(ahead)} devices have"
        found.append(Finding("below-floor", text, tuple(ahead)))
    if s.previous is not None:
        same_keys = s.previous["key_version"] == bundle["key_version"]
        if version <= s.previous["version"] and same_keys:
            text = f"version {version} is not above the published {s.previous['version']}"
            found.append(Finding("below-floor", text))
        if minimum < s.previous["min_version"] and same_keys:
            text = (
                f"min_version {minimum} is below the published {s.previous['min_version']}; "
                "devices keep the higher floor"
            )
            found.append(Finding("below-floor", text, refuses=False))
    return found


def walk_findings(s: Situation) -> list[Finding]:
    """Say when the oldest bootstrap in the field is too far from the present key-set."""
    steps = s.key_version - s.settings.oldest_bootstrap
    if steps <= 0 or (steps <= MAX_KEYSETS and s.chain_bytes <= MAX_PACKAGE):
        return []
    if steps > MAX_KEYSETS:
        limit = f"there are {steps} steps, a package holds {MAX_KEYSETS} (R-15)"
    else:
        limit = f"it takes {s.chain_bytes} B, a package holds {MAX_PACKAGE}"
    return [
        Finding(
            "unwalkable",
            f"from bootstrap key-set {s.settings.oldest_bootstrap} to {s.key_version} {limit}: "
            "bring those devices to a newer key-set first, or retire them and raise "
            "oldest_bootstrap in fleet.toml",
        )
    ]


def _expiry(bundle: dict[str, Any], s: Situation) -> list[Finding]:
    found = []
    back = s.at + s.settings.longest_offline_days * 86400
    for root in bundle["roots"]:
        facts = describe(base64.b64decode(root["der"]))
        if int(str(facts["not_after"])) < back and root.get("state") != "retired":
            found.append(
                Finding(
                    "root-expires",
                    f"{root['note']} ({root['sha256'][:16]}) ends within the "
                    f"{s.settings.longest_offline_days} days that a device may be away (T9)",
                )
            )
    if bundle["expires"] < back:
        text = (
            "a device that comes back after "
            f"{s.settings.longest_offline_days} days could not install this bundle any more"
        )
        found.append(Finding("bundle-expires", text))
    return found


def _uses(bundle: dict[str, Any], s: Situation) -> list[Finding]:
    if s.settings.dps and not any("dps" in r["use"] for r in bundle["roots"]):
        return [Finding("no-dps", "no root has use dps, and fleet.toml says dps = true")]
    return []


def _catalogue(bundle: dict[str, Any], s: Situation) -> list[Finding]:
    found = []
    listed = {hashlib.sha256(base64.b64decode(r["der"])).hexdigest() for r in bundle["roots"]}
    for digest in sorted(listed):
        entry = s.catalogue.by_digest(digest)
        if entry is not None and entry.state == "retired":
            found.append(Finding("retired-root", f"{entry.title} is retired: {entry.why}"))
    cloud = s.catalogue.clouds.get(s.settings.cloud)
    for name in cloud.roots if cloud else ():
        root = s.catalogue.roots[name]
        if root.sha256 not in listed:
            text = f"{root.title}, a root of {cloud.title if cloud else ''}, is not listed"
            found.append(Finding("missing-cloud-root", text, refuses=False))
    return found


def _servers(bundle: dict[str, Any], s: Situation) -> list[Finding]:
    listed = {root["sha256"] for root in bundle["roots"]} - set(bundle.get("distrust", ()))
    found = []
    for server in s.servers:
        if not server.roots:
            text = f"the probe of {server.target} saw no chain of it"
            found.append(Finding("no-root-for-server", text, refuses=False))
            continue
        left = [kind for kind, roots in server.roots.items() if not listed & set(roots)]
        if left:
            needs = "; ".join(
                f"{kind}: {' or '.join(d[:16] for d in server.roots[kind]) or 'a root unknown here'}"
                for kind in left
            )
            none = len(left) == len(server.roots)
            what = "any chain" if none else f"the {left[0]} chain"
            text = f"no root of the bundle carries {what} of {server.target} ({needs})"
            found.append(Finding("no-root-for-server", text, refuses=none))
    return found

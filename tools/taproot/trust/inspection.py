"""Showing what a document says: packages, key-sets, bundles, factory modules; and how two differ.

Responsible for: one description (a dict, for `--json`) of every kind of document, its text for
people, and findings that deserve a look.
Not for: judging (verify.py). Nothing shown here has been verified.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from taproot.console import UsageFailed
from taproot.trust import package as packages
from taproot.trust.roots import Catalogue, RootsError, describe
from taproot.trust.signing import Envelope, SigningError
from taproot.trust.workspace import integer, keyset_from_payload, string

_DAY = 86400
_SOON = 90 * _DAY


def day(unix: int) -> str:
    """Return a date for people."""
    try:
        return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d")
    except (OverflowError, ValueError, OSError):
        return f"{unix} s"


def moment(unix: int) -> str:
    """Return a date with its time of day (UTC)."""
    try:
        return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{unix} s"


def read(path: Path) -> bytes:
    """Read a document."""
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise UsageFailed(f"cannot read {path}: {exc.strerror}") from None


def describe_document(data: bytes, catalogue: Catalogue, at: int) -> dict[str, Any]:
    """Describe a package, an envelope or a factory module; unverified."""
    found: dict[str, Any] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    if data.lstrip().startswith(b'"""'):
        found.update(_factory(data, catalogue))
    else:
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            raise UsageFailed("neither a package, an envelope nor a trust_factory.py") from None
        if isinstance(body, dict) and "bundle" in body:
            parts = packages.split(data)
            found["kind"] = "package"
            found["keysets"] = [_keyset(k) for k in parts.keysets]
            found["bundle"] = _bundle(parts.bundle, catalogue)
        else:
            found.update(_envelope(Envelope.from_bytes(data), catalogue))
    found["findings"] = _findings(found, at)
    return found


def _envelope(envelope: Envelope, catalogue: Catalogue) -> dict[str, Any]:
    if "roles" in packages.payload_of(envelope):
        return {"kind": "key-set", "keysets": [_keyset(envelope)], "bundle": None}
    return {"kind": "bundle", "keysets": [], "bundle": _bundle(envelope, catalogue)}


def _factory(data: bytes, catalogue: Catalogue) -> dict[str, Any]:
    values: dict[str, Any] = {}
    try:
        for node in ast.parse(data).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                values[node.targets[0].id] = ast.literal_eval(node.value)
        managed = values.get("KEYSET") is not None
        found: dict[str, Any] = {
            "kind": "factory",
            "state": "managed" if managed else "unmanaged",
            "fleet": values.get("FLEET"),
            "build_date": int(values["BUILD_DATE"]),
            "keysets": [],
            "bundle": None,
            "roots": [_root_facts(der, catalogue) for der in values.get("ROOTS", ())],
        }
        if managed:
            found["keysets"] = [_keyset(Envelope.from_bytes(values["KEYSET"]))]
            found["bundle"] = _bundle(Envelope.from_bytes(values["BUNDLE"]), catalogue)
    except (SyntaxError, ValueError, TypeError, LookupError, RootsError, SigningError):
        raise UsageFailed("not a trust_factory.py") from None
    return found


def _keyset(envelope: Envelope) -> dict[str, Any]:
    keyset = keyset_from_payload(envelope.payload)
    roles = {
        name: {
            "threshold": role.threshold,
            "keys": [{"kid": k.kid, "alg": k.alg, "bits": k.bits} for k in role.keys],
        }
        for name, role in (("root", keyset.root), ("bundle", keyset.bundle))
    }
    return {
        "fleet": keyset.fleet,
        "version": keyset.version,
        "issued": keyset.issued,
        "roles": roles,
        "signers": [s["kid"] for s in packages.signers(envelope)],
        "payload_sha256": hashlib.sha256(envelope.payload).hexdigest(),
    }


def _bundle(envelope: Envelope, catalogue: Catalogue) -> dict[str, Any]:
    body = packages.payload_of(envelope)
    try:
        roots = [
            {
                **_root_facts(base64.b64decode(r["der"]), catalogue),
                "note": string(r.get("note", "")),
                "use": [string(u) for u in r["use"]],
                "state": string(r.get("state", "active")),
            }
            for r in body["roots"]
        ]
        names = ("version", "key_version", "min_version", "issued", "expires")
        found: dict[str, Any] = {"fleet": string(body["fleet"])}
        found.update({name: integer(body[name]) for name in names})
        for name in ("distrust", "recovery"):
            found[name] = [string(text) for text in body.get(name, [])]
    except (ValueError, TypeError, LookupError, AttributeError, RootsError):
        raise UsageFailed("not a bundle payload") from None
    return {
        **found,
        "roots": roots,
        "signers": [s["kid"] for s in packages.signers(envelope)],
        "payload_sha256": hashlib.sha256(envelope.payload).hexdigest(),
    }


def _root_facts(der: bytes, catalogue: Catalogue) -> dict[str, Any]:
    facts = describe(der)
    known = catalogue.by_digest(str(facts["sha256"]))
    return {
        "sha256": facts["sha256"],
        "subject": facts["subject"],
        "key": facts["key"],
        "not_before": facts["not_before"],
        "not_after": facts["not_after"],
        "catalogue": known.state if known else "unknown",
    }


def _findings(found: dict[str, Any], at: int) -> list[str]:
    bundle = found["bundle"]
    notes = [note for keyset in found["keysets"] for note in _keyset_findings(keyset)]
    for root in found.get("roots") or (bundle["roots"] if bundle else []):
        notes += _root_findings(root, at)
    if bundle:
        if bundle["expires"] <= at:
            notes.append(f"the bundle expired on {day(bundle['expires'])}: no device installs it")
        if bundle["issued"] > at:
            notes.append("the bundle is issued in the future")
        if not bundle["recovery"]:
            notes.append("no recovery URL: a stranded device is reached only by hand")
    if found["kind"] == "factory" and found["state"] == "unmanaged":
        notes.append("unmanaged: no over-the-air update will ever be possible")
    return notes


def _keyset_findings(keyset: dict[str, Any]) -> list[str]:
    roles = keyset["roles"]
    notes = [
        f"key-set {keyset['version']}: role {name} has threshold 1; whoever holds one key "
        "decides alone"
        for name, role in roles.items()
        if role["threshold"] == 1
    ]
    kids = [{k["kid"] for k in roles[name]["keys"]} for name in ("root", "bundle")]
    if kids[0] & kids[1]:
        notes.append(f"key-set {keyset['version']}: {len(kids[0] & kids[1])} keys in both roles")
    return notes


def _root_findings(root: dict[str, Any], at: int) -> list[str]:
    name = root.get("note") or root["subject"]
    notes = [f"root {name} is retired"] if root["catalogue"] == "retired" else []
    if root["not_after"] <= at:
        notes.append(f"root {name} has expired")
    elif root["not_after"] - at < _SOON:
        notes.append(f"root {name} expires on {day(root['not_after'])}")
    return notes


def text(found: dict[str, Any], labels: dict[str, str] | None = None) -> list[str]:
    """Return the lines that describe a document to people."""
    labels = labels or {}
    lines = [f"{found['kind']}, {found['size']} B, sha256 {found['sha256']}"]
    if found["kind"] == "factory":
        lines.append(f"  {found['state']}, built {day(found['build_date'])}")
    for keyset in found["keysets"]:
        lines += _keyset_text(keyset, labels)
    if found["bundle"]:
        lines += _bundle_text(found["bundle"], labels)
    lines += [_root_text(r) for r in found.get("roots", ())]
    lines += [f"  note: {note}" for note in found["findings"]]
    return lines


def _keyset_text(keyset: dict[str, Any], labels: dict[str, str]) -> list[str]:
    lines = [f"  key-set {keyset['version']} of {keyset['fleet']}, {day(keyset['issued'])}"]
    for name, role in keyset["roles"].items():
        lines.append(f"    {name}: {role['threshold']} of {len(role['keys'])}")
        for key in role["keys"]:
            mark = "signed" if key["kid"] in keyset["signers"] else "      "
            label = labels.get(key["kid"], "")
            lines.append(f"      {mark} {key['kid']} {key['alg']} {key['bits']} {label}".rstrip())
    lines += _others(keyset, [k["kid"] for r in keyset["roles"].values() for k in r["keys"]])
    return lines


def _others(document: dict[str, Any], known: list[str]) -> list[str]:
    others = [kid for kid in document["signers"] if kid not in known]
    return [f"      signed {kid} (not a key of this key-set)" for kid in others]


def _bundle_text(bundle: dict[str, Any], labels: dict[str, str]) -> list[str]:
    lines = [
        f"  bundle {bundle['version']} of {bundle['fleet']} for key-set {bundle['key_version']}, "
        f"min_version {bundle['min_version']}, {day(bundle['issued'])} to {day(bundle['expires'])}"
    ]
    lines += [f"    signed {kid} {labels.get(kid, '')}".rstrip() for kid in bundle["signers"]]
    lines += [_root_text(root) for root in bundle["roots"]]
    lines += [f"    distrusts {digest}" for digest in bundle["distrust"]]
    lines += [f"    recovery {url}" for url in bundle["recovery"]]
    return lines


def _root_text(root: dict[str, Any]) -> str:
    name = root.get("note") or root["subject"]
    use = ",".join(root.get("use", ["all"]))
    state = root.get("state", "active")
    state = "" if state == "active" else f" {state}"
    return f"    root {root['sha256'][:16]} until {day(root['not_after'])} {use}{state}  {name}"


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, str]]:
    """Return what changed between two documents: `[{"what", "change", "text"}]`."""
    rows: list[dict[str, str]] = []

    def row(what: str, change: str, said: str) -> None:
        rows.append({"what": what, "change": change, "text": said})

    a, b = old["bundle"], new["bundle"]
    if a and b:
        names = ("fleet", "version", "key_version", "min_version", "issued", "expires")
        for name in names:
            if a[name] != b[name]:
                date = name in ("issued", "expires")
                was, now = (moment(a[name]), moment(b[name])) if date else (a[name], b[name])
                row(name, "changed", f"{was} -> {now}")
        _roots_difference(a, b, row)
        for name in ("distrust", "recovery"):
            for value in b[name]:
                if value not in a[name]:
                    row(name, "added", value)
            for value in a[name]:
                if value not in b[name]:
                    row(name, "removed", value)
    elif a or b:
        row("bundle", "added" if b else "removed", "a bundle on one side only")
    _keysets_difference(old["keysets"], new["keysets"], row)
    return rows


def _keysets_difference(old: list[Any], new: list[Any], row: Any) -> None:
    before, after = ({k["version"]: k for k in listed} for listed in (old, new))
    for version in sorted({*before, *after}):
        if version not in before or version not in after:
            change = "added" if version in after else "removed"
            row("key-set", change, f"key-set {version}")
        elif before[version]["payload_sha256"] != after[version]["payload_sha256"]:
            row("key-set", "changed", f"key-set {version} has another payload")


def _roots_difference(a: dict[str, Any], b: dict[str, Any], row: Any) -> None:
    before = {r["sha256"]: r for r in a["roots"]}
    after = {r["sha256"]: r for r in b["roots"]}
    for digest, root in after.items():
        if digest not in before:
            row("root", "added", f"{digest[:16]} {root['note']}")
        else:
            for name in ("use", "state", "note"):
                if root[name] != before[digest][name]:
                    said = f"{digest[:16]} {name}: {before[digest][name]} -> {root[name]}"
                    row("root", "changed", said)
    for digest, root in before.items():
        if digest not in after:
            row("root", "removed", f"{digest[:16]} {root['note']}")

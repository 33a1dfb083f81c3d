"""What the fleet says about its roots: carried, proven, in use, stranded, silent.

Responsible for: reading twins into a snapshot, and counting per root, with ids.
Not for: fetching (service.py), showing it as a page (status_page.py), judging a next bundle
(guards.py).

carried: in the bundle the device uses. proven: a probe or a connection succeeded with it. in use:
it anchored the last full handshake. stranded: the device would not connect if the hub switched
to it now. silent: registered, but nothing heard for N days.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

DEFAULT_SILENT_DAYS = 14
_DAY = 86400
_MANY, _TEXT = 64, 300  # what one device may fill of an operator's screen
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)")


def unix(stamp: Any) -> int:
    """Return Unix seconds of a service time stamp; 0 when there is none."""
    match = _STAMP.match(stamp) if isinstance(stamp, str) else None
    if not match or match[1].startswith("0001"):
        return 0
    try:
        return int(datetime.fromisoformat(match[1]).replace(tzinfo=UTC).timestamp())
    except ValueError:
        return 0


def printable(text: Any) -> str:
    """Return text without what could steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def again(device: Any) -> dict[str, Any]:
    """Return a device of `status.json` as `device_of` made it; TypeError or LookupError if not."""
    found = {name: device[name] for name in ("id", "enabled", "connected")}
    for name in ("last_activity", "reported_at", "desired_version"):
        found[name] = _int(device[name])
    return {**found, "id": printable(found["id"]), "trust": _trust(device["trust"])}


def device_of(twin: dict[str, Any]) -> dict[str, Any]:
    """Return what the snapshot keeps of one twin; what devices write is taken with gloves."""
    properties = _dict(twin.get("properties"))
    reported, desired = _dict(properties.get("reported")), _dict(properties.get("desired"))
    metadata = _dict(_dict(reported.get("$metadata")).get("trust"))
    return {
        "id": printable(twin.get("deviceId")),
        "enabled": twin.get("status") != "disabled",
        "connected": twin.get("connectionState") == "Connected",
        "last_activity": unix(twin.get("lastActivityTime")),
        "reported_at": unix(metadata.get("$lastUpdated")),
        "desired_version": _int(_dict(desired.get("trust")).get("version")),
        "trust": _trust(reported.get("trust")),
    }


def _trust(found: Any) -> dict[str, Any] | None:
    """Return the reported `trust` with members of the right types only, or None."""
    if not isinstance(found, dict):
        return None
    clean: dict[str, Any] = {
        name: value
        for name, value in ((n, _int(found.get(n))) for n in ("version", "key_version", "floor"))
        if value is not None
    }
    for name in ("state", "source", "via"):
        if isinstance(found.get(name), str):
            clean[name] = printable(found[name][:_TEXT])
    clean["roots"] = [
        {
            "sha256": printable(root["sha256"][:_TEXT]),
            "expires": _int(root.get("expires")) or 0,
            "use": [printable(u) for u in _list(root.get("use")) if isinstance(u, str)],
        }
        for root in _list(found.get("roots"))
        if isinstance(root, dict) and isinstance(root.get("sha256"), str)
    ]
    clean["distrusted"] = [
        printable(d) for d in _list(found.get("distrusted")) if isinstance(d, str)
    ]
    clean["probes"] = [
        {
            "root": printable(probe["root"][:_TEXT]),
            "host": printable(probe.get("host"))[:_TEXT],
            "result": printable(probe.get("result"))[:_TEXT],
            "at": _int(probe.get("at")) or 0,
        }
        for probe in _list(found.get("probes"))
        if isinstance(probe, dict) and isinstance(probe.get("root"), str)
    ]
    error = found.get("last_error")
    if isinstance(error, dict):
        clean["last_error"] = {
            "version": _int(error.get("version")),
            "code": printable(error.get("code"))[:_TEXT],
            "text": printable(error.get("text"))[:_TEXT],
        }
    return clean


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value[:_MANY] if isinstance(value, list) else []


def _int(value: Any) -> int | None:
    return value if type(value) is int and abs(value) < 1 << 53 else None


def snapshot(twins: Iterable[dict[str, Any]], fleet: str, at: int) -> dict[str, Any]:
    """Return the snapshot that `status.json` keeps."""
    devices = sorted((device_of(t) for t in twins), key=lambda d: d["id"])
    return {"schema": 1, "fleet": fleet, "at": at, "devices": devices}


def heard(device: dict[str, Any]) -> int:
    """Return when a device was last heard of."""
    return max(device.get("last_activity") or 0, device.get("reported_at") or 0)


def summarise(
    snap: dict[str, Any],
    names: dict[str, str],
    *,
    at: int | None = None,
    silent_days: int = DEFAULT_SILENT_DAYS,
) -> dict[str, Any]:
    """Count per root and over the fleet; `names` maps digests to what people call them."""
    at = snap["at"] if at is None else at
    devices = [d for d in snap["devices"] if d.get("enabled", True)]
    silent = [d["id"] for d in devices if at - heard(d) > silent_days * _DAY]
    reporting = [d for d in devices if d["trust"]]
    states: dict[str, list[str]] = {}
    for device in devices:
        state = (device["trust"] or {}).get("state") or "no report"
        states.setdefault(str(state), []).append(device["id"])
    versions: dict[str, list[str]] = {}
    for device in reporting:
        versions.setdefault(str(device["trust"].get("version", "-")), []).append(device["id"])
    errors = [
        {
            "id": d["id"],
            **{k: d["trust"]["last_error"].get(k) for k in ("version", "code", "text")},
        }
        for d in reporting
        if d["trust"].get("last_error")
    ]
    return {
        "fleet": snap["fleet"],
        "at": at,
        "devices": len(devices),
        "silent_days": silent_days,
        "silent": silent,
        "states": {k: states[k] for k in sorted(states)},
        "versions": {k: versions[k] for k in sorted(versions)},
        "errors": errors,
        "roots": [_root_row(digest, names, reporting) for digest in _digests(names, reporting)],
    }


def _digests(names: dict[str, str], devices: list[dict[str, Any]]) -> list[str]:
    """Return every root that is listed or reported, the operator's own list first."""
    found = list(names)
    for device in devices:
        trust = device["trust"]
        seen = [r.get("sha256", "") for r in trust.get("roots") or []]
        seen += [trust.get("via") or ""]
        seen += [p.get("root", "") for p in trust.get("probes") or []]
        for digest in seen:
            known = [f for f in found if f.startswith(digest) or digest.startswith(f)]
            if digest and not known:
                found.append(digest)
            elif digest and known and len(digest) > len(known[0]):
                found[found.index(known[0])] = digest
    return found


def _same(a: Any, b: str) -> bool:
    return isinstance(a, str) and len(a) >= 16 and a[:16] == b[:16]


def _root_row(digest: str, names: dict[str, str], devices: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "sha256": digest,
        "name": next((n for d, n in names.items() if _same(d, digest)), ""),
        "carried": [],
        "proven": [],
        "in_use": [],
        "stranded": [],
        "failed_probes": [],
    }
    for device in devices:
        trust, name = device["trust"], device["id"]
        carries = any(
            _same(r.get("sha256"), digest) and "hub" in (r.get("use") or ["hub"])
            for r in trust.get("roots") or []
        )
        distrusts = any(_same(d, digest) for d in trust.get("distrusted") or [])
        in_use = _same(trust.get("via"), digest)
        probes = [p for p in trust.get("probes") or [] if _same(p.get("root"), digest)]
        if carries and not distrusts:
            row["carried"].append(name)
        else:
            row["stranded"].append(name)
        if in_use:
            row["in_use"].append(name)
        if in_use or any(p.get("result") == "ok" for p in probes):
            row["proven"].append(name)
        elif probes:
            row["failed_probes"].append(name)
    return row


def text(summary: dict[str, Any]) -> list[str]:
    """Return the lines for people."""
    total = summary["devices"]
    lines = [f"fleet {summary['fleet']}: {total} devices"]
    lines += [f"  {state}: {_count(ids)}" for state, ids in summary["states"].items()]
    lines += [f"  version {v}: {_count(ids)}" for v, ids in summary["versions"].items()]
    for root in summary["roots"]:
        lines.append(f"root {root['sha256'][:16]} {root['name']}".rstrip())
        for what in ("carried", "proven", "in_use", "stranded"):
            lines.append(f"  {what.replace('_', ' '):<9} {_count(root[what])}")
    lines.append(f"silent for {summary['silent_days']} days: {_count(summary['silent'])}")
    lines += [f"error on {e['id']}: {e['code']} {e['text']}" for e in summary["errors"]]
    return lines


def _count(ids: list[str]) -> str:
    shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
    return f"{len(ids):>4}  {shown}".rstrip()

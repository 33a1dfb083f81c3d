"""What a state directory keeps between two runs: the hub's root, devices, twins, messages to them.

Responsible for: writing and reading `hub.json` (mode 0600, it holds keys) and the certificate
authority in `ca.pem`. Not for: `resources.json`, which belongs to `templates.py`; telemetry and
events, which are not kept.
"""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from taproot.console import UsageFailed
from taproot.emulator.c2d import Letter
from taproot.emulator.hub import Hub
from taproot.emulator.registry import Identity
from taproot.emulator.twin import Section
from taproot.pki import Authority, Leaf

SCHEMA = 1
_PLAIN = (
    "auth primary_key secondary_key enabled status_reason managed_by edge etag generation_id "
    "filters ever_connected connects created"
).split()


class State:
    """One state directory."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file, self.ca = self.folder / "hub.json", self.folder / "ca.pem"

    def leaf(self, names: list[str], addresses: list[str]) -> Leaf:
        """Make a server certificate under the directory's own root, made at the first run."""
        if self.ca.exists():
            issuing = self._read_ca()
        else:
            issuing = Authority.root(f"Taproot emulator root {int(time.time())}").intermediate(
                "Taproot emulator issuing CA"
            )
            _write(self.ca, issuing.pem + issuing.key_pem + issuing.top.pem)
        return issuing.leaf(names[0], dns=names, ips=addresses)

    def _read_ca(self) -> Authority:
        text = self.ca.read_bytes()
        try:
            certificate, root = x509.load_pem_x509_certificates(text)
            key = load_pem_private_key(text, None)
        except (ValueError, TypeError):
            raise UsageFailed(f"{self.ca}: damaged; delete it to make a new root") from None
        return Authority(certificate, key, Authority(root, None))

    def save(self, hub: Hub) -> None:
        """Write devices and modules, atomically."""
        body = {"schema": SCHEMA, "identities": [_dump(one) for one in hub.registry.all()]}
        body["policies"] = {p.name: list(p.keys) for p in hub.registry.policies.values()}
        _write(self.file, json.dumps(body, indent=1))

    def restore(self, hub: Hub) -> None:
        """Read what `save` has written."""
        if not self.file.exists():
            return
        try:
            body = json.loads(self.file.read_text(encoding="utf-8"))
            for entry in body["identities"]:
                _load(hub, entry)
            for name, keys in body["policies"].items():
                policy = hub.registry.policies[name]
                policy.primary_key, policy.secondary_key = keys
        except (ValueError, KeyError, TypeError):
            raise UsageFailed(
                f"{self.file}: damaged; delete it to start without devices"
            ) from None


def _dump(one: Identity) -> dict[str, Any]:
    body: dict[str, Any] = {"id": one.id, "thumbprints": list(one.thumbprints)}
    body.update((name, getattr(one, name)) for name in _PLAIN)
    twin = one.twin
    body["twin"] = {"tags": twin.tags, "version": twin.version}
    for section in (twin.desired, twin.reported):
        body["twin"][section.name] = [section.values, section.version, section.metadata]
    body["letters"] = [
        [
            base64.b64encode(x.body).decode(),
            x.bag,
            x.expires,
            x.ack,
            x.id,
            x.deliveries,
            x.packet_id,
        ]
        for x in one.queue.letters
    ]
    return body


def _load(hub: Hub, entry: dict[str, Any]) -> None:
    one = hub.registry.add(
        entry["id"],
        auth=entry["auth"],
        primary_key=entry["primary_key"] or None,
        secondary_key=entry["secondary_key"] or None,
        thumbprints=entry["thumbprints"],
    )
    for name in _PLAIN:
        setattr(one, name, entry[name])
    one.twin.tags, one.twin.version = entry["twin"]["tags"], entry["twin"]["version"]
    for section in (one.twin.desired, one.twin.reported):
        _load_section(section, *entry["twin"][section.name])
    for body, bag, expires, ack, number, deliveries, packet_id in entry["letters"]:
        letter = Letter(base64.b64decode(body), bag, expires, ack, number, deliveries)
        letter.packet_id = packet_id
        one.queue.letters.append(letter)


def _load_section(section: Section, values: Any, version: int, metadata: Any) -> None:
    section.values, section.version, section.metadata = values, version, metadata


def _write(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)

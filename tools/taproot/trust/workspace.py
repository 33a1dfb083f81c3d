"""The operator's folder: fleet settings, public keys, roots, documents, ledger.

Responsible for: where everything lies, reading it with checks, writing it whole or not at all.
Not for: what devices accept (verify.py) and what would strand them (guards.py).

    fleet.toml            settings, written by `init`, edited by hand
    keys/NAME.jwk         public keys; keys/NAME.pem only where a private half is kept here
    roots.json roots/     the roots the next bundle will list, and those it will distrust
    keysets/N.jws         key-sets with the signatures collected so far
    bundles/N.jws         bundles with the signatures collected so far
    packages/N.json       what is published
    status.json           what the fleet said last
    ledger.jsonl          every change, hash-chained
"""

from __future__ import annotations

import json
import os
import re
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taproot.console import UsageFailed
from taproot.trust import keys, ledger, roots
from taproot.trust.builder import BundleRoot, KeySet, Role
from taproot.trust.keys import PublicKey
from taproot.trust.signing import Envelope
from taproot.trust.status import again, printable

_SETTINGS: dict[str, tuple[type, Any]] = {
    "schema": (int, 1),
    "fleet": (str, ""),
    "cloud": (str, "public"),
    "dps": (bool, True),
    "lifetime_days": (int, 730),
    "longest_offline_days": (int, 180),
    "oldest_bootstrap": (int, 1),
    "recovery": (list, []),
}


class WorkspaceError(UsageFailed):
    """The operator's folder is missing something or holds what it must not."""


def now() -> int:
    """Return the time in Unix seconds; SOURCE_DATE_EPOCH stands in for reproducible runs."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH")
    if fixed is None:
        return int(time.time())
    if not re.fullmatch(r"[0-9]{1,10}", fixed):
        raise WorkspaceError(f"SOURCE_DATE_EPOCH={fixed!r}: Unix seconds are needed")
    return int(fixed)


def write_whole(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file so that it is there whole or not at all."""
    if not replace and path.exists():
        raise WorkspaceError(f"{path} exists and is not replaced")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@dataclass
class RootEntry:
    """One root of the working list."""

    sha256: str
    note: str
    use: list[str]
    state: str = "active"

    def to_json(self) -> dict[str, Any]:
        """Return the entry as stored."""
        return {
            "sha256": self.sha256,
            "note": self.note,
            "use": self.use,
            "state": self.state,
        }


@dataclass
class Settings:
    """`fleet.toml`."""

    fleet: str
    cloud: str
    dps: bool
    lifetime_days: int
    longest_offline_days: int
    oldest_bootstrap: int
    recovery: list[str]

    def to_toml(self) -> str:
        """Return the file's text, each setting with its meaning."""
        urls = ", ".join(json.dumps(u) for u in self.recovery)
        return (
            "# Settings of a fleet; `taproot trust` reads them at every call.\n"
            "schema = 1\n"
            f"fleet = {json.dumps(self.fleet)}\n"
            f"cloud = {json.dumps(self.cloud)}\n"
            f"dps = {str(self.dps).lower()}  # devices register through DPS\n"
            f"lifetime_days = {self.lifetime_days}  # a bundle's validity\n"
            f"longest_offline_days = {self.longest_offline_days}"
            "  # a device may come back after this long\n"
            f"oldest_bootstrap = {self.oldest_bootstrap}"
            "  # the oldest key-set frozen into a device in the field\n"
            f"recovery = [{urls}]  # plain-HTTP recovery is off while this is empty\n"
        )


class Workspace:
    """An operator's folder that exists."""

    def __init__(self, home: Path) -> None:
        self.home = Path(home)
        if not (self.home / "fleet.toml").is_file():
            raise WorkspaceError(
                f"{self.home} holds no fleet.toml: run "
                f'"taproot trust --home {self.home} init --fleet NAME" first'
            )
        self.settings = read_settings(self.home / "fleet.toml")

    def record(self, command: str, facts: dict[str, Any], *files: Path) -> dict[str, Any]:
        """Append to the ledger."""
        return ledger.append(self.home, command, facts, files, now())

    # -- keys and key-sets

    def public_keys(self) -> dict[str, PublicKey]:
        """Return every public key in the folder, by kid."""
        found = [keys.read_public(p) for p in sorted((self.home / "keys").glob("*.jwk"))]
        return {key.kid: key for key in found}

    def key(self, name: str) -> PublicKey:
        """Find a public key by label, or by the beginning of its kid."""
        found = [
            k
            for k in self.public_keys().values()
            if k.label == name or (len(name) >= 6 and k.kid.startswith(name))
        ]
        if len(found) != 1:
            labels = ", ".join(sorted(k.label for k in self.public_keys().values()))
            raise WorkspaceError(f"key {name!r}: {len(found)} found; there are: {labels}")
        return found[0]

    def keyset_path(self, version: int) -> Path:
        """Return where key-set N lies."""
        return self.home / "keysets" / f"{version}.jws"

    def keyset_versions(self) -> list[int]:
        """Return the versions of all key-sets, lowest first."""
        return _numbered(self.home / "keysets", "jws")

    def envelope(self, path: Path) -> Envelope:
        """Read an envelope of the folder."""
        try:
            data = path.read_bytes()
        except OSError as exc:
            raise WorkspaceError(f"cannot read {path}: {exc.strerror}") from None
        return Envelope.from_bytes(data, str(path))

    def keyset(self, version: int | None = None) -> KeySet:
        """Return a key-set as an object; the newest by default."""
        if version is None:
            versions = self.keyset_versions()
            if not versions:
                raise WorkspaceError(f"{self.home} has no key-set")
            version = versions[-1]
        envelope = self.envelope(self.keyset_path(version))
        return keyset_from_payload(envelope.payload, self.public_keys())

    # -- roots

    def roots(self) -> list[RootEntry]:
        """Return the roots the next bundle will list."""
        return [RootEntry(**entry) for entry in self._roots_file()["roots"]]

    def distrusted(self) -> list[str]:
        """Return the digests the next bundle will distrust."""
        return list(self._roots_file()["distrust"])

    def write_roots(self, entries: list[RootEntry], distrust: list[str]) -> Path:
        """Replace the working list."""
        body = {"schema": 1, "roots": [e.to_json() for e in entries], "distrust": distrust}
        path = self.home / "roots.json"
        write_whole(path, (json.dumps(body, indent=1) + "\n").encode())
        return path

    def root_path(self, sha256: str) -> Path:
        """Return where a root's certificate lies."""
        return self.home / "roots" / f"{sha256[:16]}.der"

    def bundle_roots(self) -> list[BundleRoot]:
        """Return the working list with its certificates, each checked against its digest."""
        found = []
        for entry in self.roots():
            root = BundleRoot(
                roots.load_certificate(self.root_path(entry.sha256)),
                tuple(entry.use),
                entry.note,
                entry.state,
            )
            if root.sha256 != entry.sha256:
                raise WorkspaceError(
                    f"{self.root_path(entry.sha256)} is not the certificate roots.json names"
                )
            found.append(root)
        return found

    def _roots_file(self) -> dict[str, Any]:
        path = self.home / "roots.json"
        try:
            body = json.loads(path.read_bytes())
            if body["schema"] != 1:
                raise ValueError
            for entry in [RootEntry(**entry) for entry in body["roots"]]:
                _texts([entry.sha256, entry.note, entry.state, *_texts(entry.use)])
            _texts(body["distrust"])
        except OSError as exc:
            raise WorkspaceError(f"cannot read {path}: {exc.strerror}") from None
        except (ValueError, TypeError, LookupError):
            raise WorkspaceError(f"{path} is damaged: restore it from your records") from None
        return body

    # -- bundles and packages

    def bundle_path(self, version: int) -> Path:
        """Return where bundle N lies."""
        return self.home / "bundles" / f"{version}.jws"

    def package_path(self, version: int) -> Path:
        """Return where the package of bundle N lies."""
        return self.home / "packages" / f"{version}.json"

    def bundle_versions(self) -> list[int]:
        """Return the versions of all bundles, lowest first."""
        return _numbered(self.home / "bundles", "jws")

    def package_versions(self) -> list[int]:
        """Return the versions of all packages, lowest first."""
        return _numbered(self.home / "packages", "json")

    def bundle(self, version: int) -> dict[str, Any]:
        """Return the decoded payload of a bundle of this folder."""
        payload: dict[str, Any] = json.loads(self.envelope(self.bundle_path(version)).payload)
        return payload

    def previous(self, version: int | None = None) -> dict[str, Any] | None:
        """Return the newest packaged bundle below a version: what the fleet may have now."""
        below = [v for v in self.package_versions() if version is None or v < version]
        return self.bundle(below[-1]) if below else None

    def status(self) -> dict[str, Any] | None:
        """Return what the fleet said last, or None."""
        path = self.home / "status.json"
        if not path.is_file():
            return None
        try:
            body = json.loads(path.read_bytes())
            if not isinstance(body, dict):
                raise ValueError
            integer(body["at"])
            body["devices"] = [again(device) for device in body["devices"]]
        except (ValueError, TypeError, LookupError):
            raise WorkspaceError(f'{path} is damaged: run "taproot trust status" again') from None
        return body


def read_settings(path: Path) -> Settings:
    """Read `fleet.toml`; an unknown key is an error naming file and line."""
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as exc:
        raise WorkspaceError(f"cannot read {path}: {exc.strerror}") from None
    except UnicodeDecodeError as exc:
        raise WorkspaceError(f"{path}: byte {exc.start} is not UTF-8") from None
    except tomllib.TOMLDecodeError as exc:
        raise WorkspaceError(f"{path}: {exc}") from None
    for name, value in data.items():
        line = _line_of(text, name)
        if name not in _SETTINGS:
            raise WorkspaceError(f"{path}, line {line}: unknown key {name!r}")
        if type(value) is not _SETTINGS[name][0]:
            raise WorkspaceError(
                f"{path}, line {line}: {name} must be {_SETTINGS[name][0].__name__}"
            )
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise WorkspaceError(f"{path}, line {line}: {name} must hold texts")
        if type(value) is int and value < 1:
            raise WorkspaceError(f"{path}, line {line}: {name} must be 1 or more")
    merged = {name: data.get(name, default) for name, (_, default) in _SETTINGS.items()}
    if merged.pop("schema") != 1:
        raise WorkspaceError(f"{path}: schema must be 1")
    return Settings(**merged)


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError("not a list of strings")
    return value


def integer(value: Any) -> int:
    """Return an integer of a document; TypeError for anything else, ValueError beyond 64 bits."""
    if type(value) is not int:
        raise TypeError("not an integer")
    if abs(value) >> 63:
        raise ValueError("not a number of this world")
    return value


def string(value: Any) -> str:
    """Return a string of a document, made printable; TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError("not a string")
    return printable(value)


def keyset_from_payload(payload: bytes, known: dict[str, PublicKey] | None = None) -> KeySet:
    """Return the object of a key-set payload; labels come from the keys that are known."""
    try:
        body = json.loads(payload)
        listed = {}
        for jwk in body["keys"]:
            modulus = int.from_bytes(keys.b64u_decode(jwk["n"]), "big")
            key = PublicKey(modulus, jwk["alg"])
            listed[key.kid] = (known or {}).get(key.kid, key)
        roles = {
            name: Role(integer(role["threshold"]), tuple(listed[kid] for kid in role["kids"]))
            for name, role in body["roles"].items()
        }
        for jwk in body["keys"]:
            string(jwk["alg"])
        return KeySet(
            string(body["fleet"]),
            integer(body["version"]),
            integer(body["issued"]),
            roles["root"],
            roles["bundle"],
        )
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise WorkspaceError("not a key-set payload") from None


def _numbered(folder: Path, suffix: str) -> list[int]:
    found = [p.stem for p in folder.glob(f"*.{suffix}")]
    return sorted(int(stem) for stem in found if stem.isdecimal())


def _line_of(text: str, key: str) -> int:
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*(\[+)?\s*\"?{re.escape(key)}\b", line):
            return number
    return 1

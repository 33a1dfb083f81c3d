"""Packages: the unsigned wrapper of key-sets and one bundle that travels to devices.

Responsible for: packing envelopes within the limits that devices keep (R-25), taking a
package apart for people, and its digest and chunks for a twin.
Not for: judging signatures and rules; that is verify.py, with the device's own modules.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taproot.console import UsageFailed
from taproot.trust.builder import MAX_BUNDLE, MAX_KEYSET
from taproot.trust.signing import Envelope, header_of

MAX_PACKAGE = 32 * 1024
MAX_KEYSETS = 4
MAX_BRACKETS = 40
CHUNK = 3968  # a desired property's string value stays within 4 KB (contracts, section 1)
MAX_CHUNKS = 8
PART = 2000  # a C2D message of the parts channel
MAX_DESIRED = 32_000


class PackageError(UsageFailed):
    """A package cannot be built or read."""


@dataclass(frozen=True)
class Parts:
    """A package taken apart; nothing in it has been judged."""

    bundle: Envelope
    keysets: list[Envelope]


def pack(bundle: bytes, keysets: Sequence[bytes] = ()) -> bytes:
    """Return the package of a bundle envelope and the key-sets that lead to it."""
    package = b'{"keysets":[' + b",".join(keysets) + b'],"bundle":' + bundle + b"}"
    problems = limits(package, bundle, keysets)
    if problems:
        raise PackageError("package cannot be built: " + "; ".join(problems))
    return package


def limits(package: bytes, bundle: bytes, keysets: Sequence[bytes]) -> list[str]:
    """Say which size limits a package exceeds."""
    found = []
    if len(package) > MAX_PACKAGE:
        found.append(f"{len(package)} B; a package holds at most {MAX_PACKAGE}")
    if len(bundle) > MAX_BUNDLE:
        found.append(f"bundle envelope of {len(bundle)} B; at most {MAX_BUNDLE}")
    found += [
        f"key-set envelope of {len(k)} B; at most {MAX_KEYSET}"
        for k in keysets
        if len(k) > MAX_KEYSET
    ]
    if len(keysets) > MAX_KEYSETS:
        found.append(
            f"{len(keysets)} key-sets; a package holds at most {MAX_KEYSETS}, so no single one "
            "could bring such an old device back (R-15): send two packages one after the other"
        )
    brackets = package.count(b"{") + package.count(b"[")
    if brackets > MAX_BRACKETS:
        found.append(f"{brackets} opening brackets; at most {MAX_BRACKETS}: use fewer signatures")
    return found


def sha256(package: bytes) -> str:
    """Return the digest that the desired property names."""
    return hashlib.sha256(package).hexdigest()


def chunks(package: bytes) -> list[str]:
    """Return the package text in slices for the `twin` channel."""
    text = package.decode("ascii")
    return [text[i : i + CHUNK] for i in range(0, len(text), CHUNK)]


def desired_url(version: int, package: bytes, url: str) -> dict[str, Any]:
    """Return the desired `trust` object that makes a device download the package."""
    return {"version": version, "sha256": sha256(package), "size": len(package), "url": url}


def desired_twin(version: int, package: bytes) -> dict[str, Any]:
    """Return the desired `trust` object that carries the package itself."""
    slices = chunks(package)
    found: dict[str, Any] = {
        "version": version,
        "sha256": sha256(package),
        "size": len(package),
        "chunks": len(slices),
    }
    found.update({f"c{i}": text for i, text in enumerate(slices)})
    size = len(json.dumps({"trust": found}, separators=(",", ":")))
    if size > MAX_DESIRED or len(slices) > MAX_CHUNKS:
        raise PackageError(
            f"the package needs {size} B of desired properties, a twin holds {MAX_DESIRED}: "
            "publish with --channel url or --channel method"
        )
    return found


def messages(package: bytes, whole: bool) -> list[tuple[str, bytes, dict[str, str]]]:
    """Return (name, body, properties) of the C2D messages that carry a package."""
    if whole:
        return [("package.json", package, {"trust": "package"})]
    slices = [package[i : i + PART] for i in range(0, len(package), PART)]
    common = {"trust": "part", "count": str(len(slices)), "sha256": sha256(package)}
    return [(f"{i:02}.part", body, {**common, "index": str(i)}) for i, body in enumerate(slices)]


def split(package: bytes) -> Parts:
    """Take a package apart without judging it."""
    try:
        body = json.loads(package)
        keysets = [json.dumps(k).encode() for k in body["keysets"]]
        bundle = json.dumps(body["bundle"]).encode()
    except (ValueError, TypeError, LookupError, RecursionError):
        raise PackageError("not a package: no JSON object with keysets and bundle") from None
    return Parts(Envelope.from_bytes(bundle), [Envelope.from_bytes(k) for k in keysets])


def payload_of(envelope: Envelope) -> dict[str, Any]:
    """Return the decoded payload of an envelope, for people; not judged."""
    try:
        found = json.loads(envelope.payload)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise PackageError("a payload is not a JSON object")
    return found


def signers(envelope: Envelope) -> list[dict[str, str]]:
    """Return kid, alg and typ of each signature."""
    found = []
    for text, _ in envelope.signatures:
        header = header_of(text)
        found.append({k: str(header.get(k)) for k in ("kid", "alg", "typ")})
    return found

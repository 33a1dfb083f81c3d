"""Reads an ARM template and says what the emulator has to enforce for it.

Responsible for: finding the IoT hub or provisioning service in a template, filling parameters
in, the TLS policy that follows from `minTlsVersion`, and refusing a changed value on an
existing state directory (the property is read-only on the real service). Not for: deploying,
TLS itself. Documentation: learn.microsoft.com/azure/iot-hub/iot-hub-tls-support.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = {
    "microsoft.devices/iothubs": "hub",
    "microsoft.devices/provisioningservices": "dps",
}
STATE_FILE = "resources.json"

# The eight suites of the TLS 1.2 policy and the three of TLS 1.3 (IANA registry).
RECOMMENDED = {
    0xC02B: "ECDHE-ECDSA-AES128-GCM-SHA256",
    0xC02C: "ECDHE-ECDSA-AES256-GCM-SHA384",
    0xC023: "ECDHE-ECDSA-AES128-SHA256",
    0xC024: "ECDHE-ECDSA-AES256-SHA384",
    0xC02F: "ECDHE-RSA-AES128-GCM-SHA256",
    0xC030: "ECDHE-RSA-AES256-GCM-SHA384",
    0xC027: "ECDHE-RSA-AES128-SHA256",
    0xC028: "ECDHE-RSA-AES256-SHA384",
}
RECOMMENDED_13 = frozenset((0x1301, 0x1302, 0x1303))
# Accepted besides without minTlsVersion, until the service drops them (2024 documentation).
LEGACY = (
    "ECDHE-RSA-AES256-SHA:ECDHE-RSA-AES128-SHA:AES256-GCM-SHA384:AES128-GCM-SHA256:"
    "AES256-SHA256:AES128-SHA256:AES256-SHA:AES128-SHA"
)
TLS12, TLS13 = 0x0303, 0x0304


class TemplateError(ValueError):
    """The template cannot be used; the text names file, place and remedy."""


@dataclass(frozen=True)
class TLSPolicy:
    """What a listener accepts."""

    minimum: str | None = "1.2"

    @property
    def strict(self) -> bool:
        """True when TLS below 1.2 and weak suites are refused."""
        return self.minimum == "1.2"

    @property
    def ciphers(self) -> str:
        """The TLS 1.2 cipher list in OpenSSL's notation."""
        strong = ":".join(RECOMMENDED.values())
        return strong if self.strict else f"{strong}:{LEGACY}"

    def refusal(self, versions: Iterable[int], suites: Iterable[int]) -> str | None:
        """Return why a ClientHello with these versions and suites is refused, or None."""
        if not self.strict:
            return None
        versions, suites = set(versions), set(suites)
        if max(versions, default=0) < TLS12:
            return "minTlsVersion is 1.2 and the client offers less"
        if RECOMMENDED.keys() & suites:
            return None
        if TLS13 in versions and RECOMMENDED_13 & suites:
            return None
        return "minTlsVersion is 1.2 and the client offers no recommended cipher suite"


@dataclass(frozen=True)
class Resource:
    """One IoT hub or provisioning service of a template."""

    kind: str
    name: str
    location: str
    sku: str
    capacity: int
    min_tls_version: str | None

    @property
    def policy(self) -> TLSPolicy:
        """The TLS policy the service would apply."""
        return TLSPolicy(self.min_tls_version)


_PARAMETER = re.compile(r"\[\s*parameters\(\s*'([^']+)'\s*\)\s*\]")


class _Values:
    """Fills `[parameters('x')]` in; other expressions stay as they are written."""

    def __init__(self, path: Path, declared: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        unknown = sorted(set(given) - set(declared))
        if unknown:
            have = ", ".join(sorted(declared)) or "none"
            raise TemplateError(f"{path}: no parameter '{unknown[0]}'; it has: {have}")
        self.path = path
        self.values: dict[str, Any] = {}
        for name, rule in declared.items():
            value = given.get(name, rule.get("defaultValue"))
            allowed = rule.get("allowedValues")
            if value is not None and allowed and value not in allowed:
                choices = ", ".join(str(choice) for choice in allowed)
                raise TemplateError(f"{path}: parameter '{name}' must be one of {choices}")
            self.values[name] = value

    def get(self, text: Any, default: Any) -> Any:
        if not isinstance(text, str):
            return default if text is None else text
        match = _PARAMETER.fullmatch(text)
        if match is None:
            return text
        if match[1] not in self.values:
            raise TemplateError(f"{self.path}: '{text}' names a parameter that is not declared")
        value = self.values[match[1]]
        return default if value is None else value


def load(path: Path | str, parameters: Mapping[str, Any] | None = None) -> list[Resource]:
    """Read a template; return its hubs and provisioning services.

    Raises TemplateError with file and line. A `name` without a value becomes "emulator".
    """
    path = Path(path)
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TemplateError(
            f"{path}: {error.strerror}; give the path of an ARM template"
        ) from None
    except UnicodeDecodeError:
        raise TemplateError(f"{path}: not UTF-8 text; give the path of an ARM template") from None
    except json.JSONDecodeError as error:
        raise TemplateError(
            f"{path}, line {error.lineno}: not JSON: {error.msg}; correct that line"
        ) from None
    if not isinstance(body, dict) or not isinstance(body.get("resources"), list):
        raise TemplateError(f"{path}: not an ARM template: it has no list 'resources'")
    declared = body.get("parameters") or {}
    if not isinstance(declared, dict) or not all(isinstance(v, dict) for v in declared.values()):
        raise TemplateError(f"{path}: 'parameters' must be an object of objects")
    values = _Values(path, declared, parameters or {})
    found = [
        _resource(path, entry, values)
        for entry in body["resources"]
        if isinstance(entry, dict) and str(entry.get("type", "")).lower() in KINDS
    ]
    if not found:
        raise TemplateError(
            f"{path}: no resource of type Microsoft.Devices/IotHubs or "
            "Microsoft.Devices/provisioningServices"
        )
    return found


def _resource(path: Path, entry: dict[str, Any], values: _Values) -> Resource:
    properties, sku = entry.get("properties") or {}, entry.get("sku") or {}
    if not isinstance(properties, dict) or not isinstance(sku, dict):
        raise TemplateError(f"{path}: 'properties' and 'sku' of a resource must be objects")
    minimum = values.get(properties.get("minTlsVersion"), None)
    if minimum is not None and minimum != "1.2":
        raise TemplateError(
            f'{path}: minTlsVersion is {minimum!r}; the service takes "1.2" or no value'
        )
    return Resource(
        kind=KINDS[str(entry["type"]).lower()],
        name=str(values.get(entry.get("name"), "emulator")),
        location=str(values.get(entry.get("location"), "")),
        sku=str(values.get(sku.get("name"), "S1")),
        capacity=int(values.get(sku.get("capacity"), 1)),
        min_tls_version=minimum,
    )


def hold(state: Path | str, resources: Iterable[Resource]) -> None:
    """Remember the resources in a state directory; refuse a changed minTlsVersion."""
    folder = Path(state)
    file = folder / STATE_FILE
    known: dict[str, Any] = {}
    if file.exists():
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            raise TemplateError(
                f"{file}: damaged; delete the state directory to start over"
            ) from None
    for resource in resources:
        key = f"{resource.kind}:{resource.name}"
        if key in known and known[key] != resource.min_tls_version:
            raise TemplateError(
                f"minTlsVersion of {resource.kind} '{resource.name}' is read-only: it was made "
                f"with {known[key] or 'none'} and cannot become "
                f"{resource.min_tls_version or 'none'}; use a new name or a new state directory"
            )
        known[key] = resource.min_tls_version
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")

"""Device twins: tags, desired and reported properties with `$version` and `$metadata`.

Responsible for: merging patches (null deletes), metadata, etag, the documented limits of size,
depth, names and numbers. Pure. Not for: topics, who may write, connections.
"""

from __future__ import annotations

import base64
import datetime as dt
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

MAX_DEPTH = 10
MAX_NAME = 1024
MAX_STRING = 4096
MAX_INTEGER = 4_503_599_627_370_496
SECTION_LIMIT = 32_768
TAGS_LIMIT = 8_192


class TwinError(Exception):
    """A patch the hub refuses. `status` is what the device reads."""

    def __init__(self, text: str, status: int = 400, code: int = 400000) -> None:
        super().__init__(text)
        self.status, self.code = status, code


def stamp(seconds: float) -> str:
    """Format a time as the service does."""
    moment = dt.datetime.fromtimestamp(seconds, dt.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f0Z")


def check(patch: object, where: str) -> Json:
    """Refuse what a twin cannot hold; return the patch."""
    if not isinstance(patch, dict):
        raise TwinError(f"{where} is not a JSON object")
    _check_object(patch, where, 1)
    return patch


def _check_object(value: Json, where: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise TwinError(f"{where} is nested deeper than {MAX_DEPTH} levels")
    for name, inner in value.items():
        if not name or _bytes(name, where) > MAX_NAME:
            raise TwinError(f"{where}: a property name has 1 to {MAX_NAME} bytes")
        if any(c in ".$ " or ord(c) < 32 or 127 <= ord(c) < 160 for c in name):
            raise TwinError(f"{where}: '{name[:40]}' contains a character that names may not")
        _check_value(inner, f"{where}.{name[:40]}", depth)


def _bytes(text: str, where: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise TwinError(f"{where}: half a surrogate pair is no text") from None


def _check_value(value: object, where: str, depth: int) -> None:
    if isinstance(value, dict):
        _check_object(value, where, depth + 1)
    elif isinstance(value, list):
        if depth + 1 > MAX_DEPTH:
            raise TwinError(f"{where} is nested deeper than {MAX_DEPTH} levels")
        for inner in value:
            if inner is None:
                raise TwinError(f"{where}: an array may not hold null")
            _check_value(inner, where, depth + 1)
    elif isinstance(value, str):
        if _bytes(value, where) > MAX_STRING:
            raise TwinError(f"{where} is a string of more than {MAX_STRING} bytes")
    elif isinstance(value, bool) or value is None:
        pass
    elif isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise TwinError(f"{where} is an integer beyond 52 bits")
    elif isinstance(value, float) and not math.isfinite(value):
        raise TwinError(f"{where} is not a number JSON has")


def size(value: object) -> int:
    """Size as the service counts it: names and strings in UTF-8, numbers 8, booleans 4."""
    if isinstance(value, dict):
        return sum(len(name.encode()) + size(inner) for name, inner in value.items())
    if isinstance(value, list):
        return sum(size(inner) for inner in value)
    if isinstance(value, str):
        return len("".join(c for c in value if ord(c) >= 32).encode())
    if isinstance(value, bool):
        return 4
    return 8 if isinstance(value, (int, float)) else 0


def merge(target: Json, patch: Json) -> Json:
    """Return `target` with `patch` merged in; null deletes (RFC 7396)."""
    merged = dict(target)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            below = merged.get(name)
            merged[name] = merge(below if isinstance(below, dict) else {}, value)
        else:
            merged[name] = value
    return merged


@dataclass
class Section:
    """Desired or reported properties."""

    name: str
    now: Callable[[], float]
    limit: int = SECTION_LIMIT
    values: Json = field(default_factory=dict)
    version: int = 1
    metadata: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.metadata = {"$lastUpdated": stamp(self.now())}

    def patch(self, patch: object) -> Json:
        """Merge a patch; return it without `$` members. Nothing changes when it is refused."""
        wanted = self._strip(patch)
        check(wanted, self.name)
        merged = merge(self.values, wanted)
        self._check_size(merged)
        self.values = merged
        self._advance()
        self._stamp(self.metadata, wanted, merged)
        return wanted

    def replace(self, values: object) -> Json:
        """Replace everything; return the new values."""
        wanted = self._strip(values)
        check(wanted, self.name)
        wanted = merge({}, wanted)  # null members vanish
        self._check_size(wanted)
        self.values = wanted
        self._advance()
        self.metadata = {}
        self._stamp(self.metadata, wanted, wanted)
        return wanted

    def _strip(self, patch: object) -> Any:
        if not isinstance(patch, dict):
            return patch
        return {k: v for k, v in patch.items() if k not in ("$version", "$metadata")}

    def _check_size(self, values: Json) -> None:
        have = size(values)
        if have > self.limit:
            raise TwinError(f"{self.name} would be {have} bytes, limit {self.limit}", 413, 413001)

    def _advance(self) -> None:
        self.version += 1

    def _stamp(self, metadata: Json, patch: Json, merged: Json) -> None:
        moment = stamp(self.now())
        metadata["$lastUpdated"] = moment
        if self.name == "desired":
            metadata["$lastUpdatedVersion"] = self.version
        for name, value in patch.items():
            if name not in merged:
                metadata.pop(name, None)
            elif isinstance(value, dict):
                below = metadata.setdefault(name, {})
                self._stamp(below, value, merged[name])
            else:
                metadata[name] = {"$lastUpdated": moment}
                if self.name == "desired":
                    metadata[name]["$lastUpdatedVersion"] = self.version

    def for_device(self) -> Json:
        """What a device reads: values and `$version`."""
        return {**self.values, "$version": self.version}

    def for_service(self) -> Json:
        """What a service reads: `$metadata` too."""
        return {**self.values, "$metadata": self.metadata, "$version": self.version}


@dataclass
class Twin:
    """One twin of a device or module."""

    now: Callable[[], float]
    section_limit: int = SECTION_LIMIT
    tags_limit: int = TAGS_LIMIT

    def __post_init__(self) -> None:
        self.desired = Section("desired", self.now, self.section_limit)
        self.reported = Section("reported", self.now, self.section_limit)
        self.tags: Json = {}
        self.version = 1

    @property
    def etag(self) -> str:
        """Changes with every change of tags or desired properties."""
        return base64.b64encode(f"{self.version}.{self.desired.version}".encode()).decode()

    def patch_tags(self, patch: object) -> None:
        """Merge tags."""
        self._set_tags(merge(self.tags, check(patch, "tags")))

    def replace_tags(self, tags: object) -> None:
        """Replace tags."""
        self._set_tags(merge({}, check(tags, "tags")))

    def _set_tags(self, tags: Json) -> None:
        have = size(tags)
        if have > self.tags_limit:
            raise TwinError(f"tags would be {have} bytes, limit {self.tags_limit}", 413, 413001)
        self.tags = tags
        self.version += 1

    def for_device(self) -> Json:
        """The body of a twin GET."""
        return {"desired": self.desired.for_device(), "reported": self.reported.for_device()}

"""Automatic device configurations: content set on every twin that a condition selects.

Responsible for: the stored configurations, their target conditions and metrics, applying the one
of highest priority per device. Not for: REST (`service.py`). The real service looks again every
five minutes; here it happens at every change and whenever metrics are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from taproot.emulator import query
from taproot.emulator.query import QueryError
from taproot.emulator.registry import new_etag
from taproot.emulator.rest import Problem, integer_of, object_of, string_of
from taproot.emulator.twin import stamp

_ID = re.compile(r"[a-z0-9\-:+%_#*?!(),=@;']{1,128}")
_DESIRED = "properties.desired"
MAX_CONFIGURATIONS = 100


@dataclass
class Configuration:
    """One configuration as the operator wrote it."""

    id: str
    target: str = ""
    priority: int = 0
    content: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    schema_version: str = "1.0"
    etag: str = field(default_factory=new_etag)
    created: float = 0.0
    updated: float = 0.0
    targeted: set[str] = field(default_factory=set)
    applied: set[str] = field(default_factory=set)

    def patch(self) -> dict[str, Any]:
        """Return the desired properties that the content sets, as a merge patch."""
        result: dict[str, Any] = {}
        for path, value in object_of(self.content, "deviceContent").items():
            if path == _DESIRED:
                result.update(value if isinstance(value, dict) else {})
                continue
            place = result
            names = path.removeprefix(_DESIRED + ".").split(".")
            for name in names[:-1]:
                place = place.setdefault(name, {})
            place[names[-1]] = value
        return result


class Configurations:
    """All configurations of one hub."""

    def __init__(
        self,
        now: Callable[[], float],
        documents: Callable[[], Iterable[dict[str, Any]]],
        set_desired: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self._now, self._documents, self._set_desired = now, documents, set_desired
        self.all: dict[str, Configuration] = {}

    def get(self, name: str) -> Configuration:
        """Return one or answer 404."""
        found = self.all.get(name)
        if found is None:
            raise Problem(404, f"Configuration {name} does not exist", "ConfigurationNotFound")
        return found

    def put(self, name: str, body: dict[str, Any]) -> Configuration:
        """Create or replace a configuration."""
        if not _ID.fullmatch(name):
            raise Problem(400, "A configuration id has 1 to 128 lower-case letters or digits")
        known = self.all.get(name)
        if known is None and len(self.all) >= MAX_CONFIGURATIONS:
            raise Problem(403, f"At most {MAX_CONFIGURATIONS} configurations")
        content = object_of(body, "content")
        if known is not None and content and content != known.content:
            raise Problem(400, "The content of a configuration cannot be changed")
        target = string_of(body, "targetCondition") or ""
        metrics = object_of(object_of(body, "metrics"), "queries")
        self.check(target, metrics)
        now = self._now()
        made = Configuration(
            name,
            target=target,
            priority=integer_of(body, "priority", 0),
            content=content or (known.content if known else {}),
            labels=object_of(body, "labels"),
            metrics=metrics,
            schema_version=string_of(body, "schemaVersion") or "1.0",
            created=known.created if known else now,
            updated=now,
        )
        self._check_content(made)
        self.all[name] = made
        self.apply()
        return made

    def remove(self, name: str) -> None:
        """Remove a configuration; what it set stays, as the service leaves it."""
        del self.all[self.get(name).id]
        self.apply()

    @staticmethod
    def check(target: str, metrics: dict[str, str]) -> None:
        """Refuse a condition or metric query that is not understood."""
        target_error, metric_errors = test(target, metrics)
        if target_error or metric_errors:
            raise Problem(400, target_error or next(iter(metric_errors.values())))

    @staticmethod
    def _check_content(made: Configuration) -> None:
        content = made.content.get("deviceContent")
        if content is None:
            return
        if not isinstance(content, dict) or not all(
            path == _DESIRED or path.startswith(_DESIRED + ".") for path in content
        ):
            raise Problem(400, "deviceContent is an object whose names begin properties.desired")

    def apply(self) -> None:
        """Set the content of the highest priority on every device that is targeted."""
        if not self.all:
            return
        ranked = sorted(self.all.values(), key=lambda c: (-c.priority, -c.created, c.id))
        conditions = []
        for one in ranked:
            one.targeted, one.applied = set(), set()
            conditions.append(query.condition(one.target) if one.target.strip() else None)
        for document in list(self._documents()):
            device = document["deviceId"]
            winner = None
            for one, matches in zip(ranked, conditions, strict=True):
                if matches is not None and matches(document) is True:
                    one.targeted.add(device)
                    winner = winner or one
            if winner is not None:
                winner.applied.add(device)
                patch = winner.patch()
                if patch and not _contains(document["properties"]["desired"], patch):
                    self._set_desired(device, patch)

    def view(self, one: Configuration) -> dict[str, Any]:
        """Return a configuration as REST shows it, with fresh metrics."""
        self.apply()
        results = {}
        for name, text in one.metrics.items():
            found = query.parse(text)
            results[name] = len(found.run(self._documents()))
        return {
            "id": one.id,
            "schemaVersion": one.schema_version,
            "labels": one.labels,
            "content": one.content,
            "targetCondition": one.target,
            "createdTimeUtc": stamp(one.created),
            "lastUpdatedTimeUtc": stamp(one.updated),
            "priority": one.priority,
            "systemMetrics": {
                "results": {
                    "targetedCount": len(one.targeted),
                    "appliedCount": len(one.applied),
                },
                "queries": {
                    "targetedCount": f"select deviceId from devices where {one.target}",
                    "appliedCount": "select deviceId from devices where "
                    f"configurations.[[{one.id}]].status = 'Applied'",
                },
            },
            "metrics": {"results": results, "queries": one.metrics},
            "etag": one.etag,
        }


def test(target: str, metrics: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Return what is wrong with a condition and with metric queries: texts, empty when fine."""
    target_error = ""
    try:
        if target.strip():
            query.condition(target)
    except QueryError as error:
        target_error = f"target condition: {error}"
    errors = {}
    for name, text in metrics.items():
        try:
            query.parse(text)
        except QueryError as error:
            errors[name] = f"metric '{name}': {error}"
    return target_error, errors


def _contains(have: Any, patch: dict[str, Any]) -> bool:
    """Say whether merging `patch` would change nothing."""
    if not isinstance(have, dict):
        return False
    for name, value in patch.items():
        if isinstance(value, dict):
            if not _contains(have.get(name), value):
                return False
        elif value is None:
            if name in have:
                return False
        elif name not in have or have[name] != value:
            return False
    return True

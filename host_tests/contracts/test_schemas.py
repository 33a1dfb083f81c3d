"""The contracts' schemas are valid, accept what the contract shows and refuse what it forbids."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest

SCHEMAS = Path(__file__).resolve().parents[1] / "vectors" / "schemas"
HEX = "ab" * 32

DESIRED_URL = {"trust": {"version": 7, "sha256": HEX, "size": 12345, "url": "http://h/p.json"}}
DESIRED_CHUNKS = {
    "trust": {"version": 7, "sha256": HEX, "size": 9, "chunks": 2, "c0": "abcde", "c1": "fghi"}
}
DESIRED_PROBE = {"trust": {"probe": {"host": "h", "port": 8883, "root": HEX}}}
ROOT = {"sha256": HEX[:16], "expires": 2147212799, "use": ["hub", "dps"]}
REPORTED = {
    "trust": {
        "version": 7,
        "key_version": 4,
        "floor": 5,
        "state": "good",
        "source": "ota",
        "last_error": {"version": 8, "code": "BAD_SIGNATURE", "text": "one of two is wrong"},
        "roots": [ROOT],
        "via": HEX,
        "distrusted": [],
        "probes": [{"root": HEX, "host": "h", "result": "ok", "peak_heap": 0, "at": 1795000000}],
    },
    "tls": {
        "version": "TLSv1.2",
        "suite": "TLS-ECDHE-RSA-WITH-AES-128-GCM-SHA256",
        "mfl_asked": 4096,
        "mfl_acknowledged": True,
        "resumed": False,
        "plan": "max_fragment_length 4096",
        "heap_peak": 0,
        "heap_connected": 0,
    },
    "clock": {"source": "floor", "ntp_delta": 0, "floor_age_days": 0},
}
UNMANAGED = {"trust": {"state": "unmanaged", "source": "factory", "roots": [ROOT], "via": HEX}}


def schema(name: str) -> dict:
    return json.loads((SCHEMAS / f"{name}.schema.json").read_text())


def accepts(name: str, value: object) -> bool:
    return jsonschema.Draft202012Validator(schema(name)).is_valid(value)


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda path: path.stem)
def test_every_schema_is_itself_valid(path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))


@pytest.mark.parametrize("value", [DESIRED_URL, DESIRED_CHUNKS, DESIRED_PROBE, {}])
def test_desired_shapes_are_accepted(value: dict) -> None:
    assert accepts("twin_desired", value)


@pytest.mark.parametrize("value", [REPORTED, UNMANAGED])
def test_reported_shapes_are_accepted(value: dict) -> None:
    assert accepts("twin_reported", value)


def changed(base: dict, where: str, value: object) -> dict:
    result = copy.deepcopy(base)
    *path, last = where.split(".")
    target = result
    for step in path:
        target = target[step]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return result


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("trust.version", "7"),
        ("trust.version", 0),
        ("trust.version", 2**30),
        ("trust.sha256", HEX.upper()),
        ("trust.size", 32769),
        ("trust.url", "ftp://h/p"),
        ("trust.url", None),
        ("trust.extra", 1),
    ],
)
def test_desired_shapes_are_refused(where: str, value: object) -> None:
    assert not accepts("twin_desired", changed(DESIRED_URL, where, value))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("trust.state", "fine"),
        ("trust.floor", None),
        ("trust.roots", [{"sha256": HEX, "expires": 1, "use": ["hub"]}]),
        ("trust.last_error", {"version": 8, "code": "bad signature", "text": ""}),
        ("tls.version", "TLSv1.1"),
        ("tls.mfl_asked", 3000),
        ("clock.source", "guess"),
    ],
)
def test_reported_shapes_are_refused(where: str, value: object) -> None:
    assert not accepts("twin_reported", changed(REPORTED, where, value))


def test_an_unmanaged_device_reports_no_versions() -> None:
    assert not accepts("twin_reported", changed(UNMANAGED, "trust.version", 1))


def test_every_schema_is_named_in_the_contract() -> None:
    text = (SCHEMAS.parents[2] / "firmware" / "docs" / "contracts.md").read_text()
    for path in SCHEMAS.glob("*.schema.json"):
        assert path.stem.removesuffix(".schema") in text, f"{path.name} is not in contracts.md"

"""The emulator's configuration: one dataclass, read from TOML or made in Python.

Responsible for: names, defaults, types, and errors that name file, line and remedy. Not for:
acting on it (`server.py`). Tables: top level, [tls], [limits], [reactions], [[devices]],
[[enrollments]], [[faults]].
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taproot.console import UsageFailed
from taproot.emulator import faults
from taproot.emulator.chains import TLSOptions
from taproot.emulator.enrollments import Enrollment
from taproot.emulator.faults import FaultError
from taproot.emulator.rules import Limits, Reactions

DEFAULT_MQTT, DEFAULT_HTTPS, DEFAULT_CONTROL = 8883, 8443, 8088


@dataclass
class DeviceConfig:
    """One device (`d`) or module (`d/m`) registered at the start."""

    id: str
    auth: str = "sas"
    primary_key: str | None = field(default=None, repr=False)
    secondary_key: str | None = field(default=None, repr=False)
    thumbprints: list[str] = field(default_factory=list)
    enabled: bool = True
    desired: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, Any] = field(default_factory=dict)


@dataclass
class EnrollmentConfig:
    """One DPS enrolment: symmetric key, thumbprints, or `roots` (PEM files)."""

    id: str
    group: bool = False
    primary_key: str | None = field(default=None, repr=False)
    secondary_key: str | None = field(default=None, repr=False)
    thumbprints: list[str] = field(default_factory=list)
    roots: list[str] = field(default_factory=list)
    enabled: bool = True
    device_id: str | None = None
    hubs: list[str] = field(default_factory=list)
    reprovision: str = "migrate"
    payload: dict[str, Any] | None = None
    initial_twin: dict[str, Any] | None = None
    issue_certificates: bool = False
    outcome: str = "assigned"
    polls: int = 1
    retry_after: int = 0

    def make(self) -> Enrollment:
        """Make the enrolment; raise ValueError or OSError."""
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        facts["roots"] = [Path(path).read_text() for path in self.roots]
        facts["hubs"] = tuple(self.hubs)
        return Enrollment(**facts)


@dataclass
class EmulatorConfig:
    """Everything that can be set. Port 0 takes a free port."""

    bind: str = "127.0.0.1"
    host_names: list[str] = field(default_factory=lambda: ["localhost"])
    mqtt_port: int = 0
    https_port: int | None = 0  # None: no HTTPS listener
    plain_port: int | None = None  # MQTT without TLS, on loopback, for wire-format comparisons
    control_port: int = 0
    control_token: str | None = field(default=None, repr=False)  # None: a random one
    chain: Any = None  # a taproot.pki.Leaf, or a list of them; None: made at the start
    chain_file: str | None = None  # PEM: leaf, then intermediates
    key_file: str | None = None
    client_roots: list[str] = field(default_factory=list)  # PEM files: CAs of client certificates
    id_scope: str = "0ne00000001"
    blob_host: str | None = None  # TLS name of the storage account; None: the hub's own
    preview: bool = False
    state_dir: str | None = None
    templates: list[str] = field(default_factory=list)
    seed: int = 0
    random_faults: bool = False
    fault_interval: float = 1.0  # mean seconds between two random faults
    record_packets: bool = False
    events_kept: int = 100_000
    packet_limit: int = 262_144 + 65_536
    devices: list[DeviceConfig] = field(default_factory=list)
    enrollments: list[EnrollmentConfig] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    tls: TLSOptions = field(default_factory=TLSOptions)
    limits: Limits = field(default_factory=Limits)
    reactions: Reactions = field(default_factory=Reactions)


_TABLES: dict[str, type] = {"tls": TLSOptions, "limits": Limits, "reactions": Reactions}
_NOT_IN_FILES = {"chain"}


def load(path: Path | str, **overrides: Any) -> EmulatorConfig:
    """Read a TOML file; `overrides` that are not None win. Raise UsageFailed."""
    path = Path(path)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageFailed(
            f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}"
        ) from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageFailed(f"{path}: not TOML: {error}") from None
    reader = _File(path, text)
    config = reader.make(EmulatorConfig, table, "")
    for name, value in overrides.items():
        if value is not None:
            setattr(config, name, value)
    return config


class _File:
    """Turns tables into dataclasses and says where a mistake is."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.lines = path, text.splitlines()

    def wrong(self, table: str, key: str, text: str) -> UsageFailed:
        """Make the error that names file and line."""
        return UsageFailed(f"{self.path}:{self.line_of(table, key)}: {text}")

    def line_of(self, table: str, key: str) -> int:
        """Find the line where `key` is set in `table` (name, or name#number in an array)."""
        name, _, number = table.partition("#")
        current, seen = "", -1
        first = 1
        for line, text in enumerate(self.lines, 1):
            header = re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]", text)
            if header:
                current = header[2].strip("\"'")
                if current == name:
                    seen += 1
                    first = line
                if current == f"{name}.{key}" or (not name and current.split(".")[0] == key):
                    return line
                continue
            wanted = current == name and (not number or seen == int(number))
            if wanted and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]", text):
                return line
        return first

    def make(self, kind: Any, table: dict[str, Any], name: str) -> Any:
        """Make a dataclass from a table, strictly."""
        hints = typing.get_type_hints(kind)
        known = {f.name for f in dataclasses.fields(kind)} - _NOT_IN_FILES
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in known:
                close = ", ".join(sorted(known))
                where = f" in [{name.partition('#')[0]}]" if name else ""
                raise self.wrong(name, key, f"unknown key '{key}'{where}; known are: {close}")
            values[key] = self._value(key, value, hints[key], name)
        missing = [
            f.name
            for f in dataclasses.fields(kind)
            if f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
            and f.name not in values
        ]
        if missing:
            raise self.wrong(
                name, missing[0], f"'{missing[0]}' is missing in [{name.partition('#')[0]}]"
            )
        try:
            return kind(**values)
        except ValueError as error:
            key = next((k for k in table if k in str(error)), next(iter(table), ""))
            raise self.wrong(name, key, str(error)) from None

    def _value(self, key: str, value: Any, hint: Any, table: str) -> Any:
        if not table and key in _TABLES:
            if not isinstance(value, dict):
                raise self.wrong(table, key, f"'{key}' is a table: write [{key}]")
            return self.make(_TABLES[key], value, key)
        if not table and key == "devices":
            self._array(key, value)
            return [self.make(DeviceConfig, d, f"devices#{n}") for n, d in enumerate(value)]
        if not table and key == "enrollments":
            self._array(key, value)
            return [self._enrollment(d, f"enrollments#{n}") for n, d in enumerate(value)]
        if not table and key == "faults":
            self._array(key, value)
            for number, spec in enumerate(value):
                try:
                    faults.parse(spec)
                except FaultError as error:
                    raise self.wrong(f"faults#{number}", "action", str(error)) from None
            return value
        if key == "fault_interval" and isinstance(value, (int, float)) and value <= 0:
            raise self.wrong(table, key, "'fault_interval' is above 0 seconds")
        if not _fits(value, hint):
            raise self.wrong(table, key, f"'{key}' is to be {_words(hint)}, not {value!r}")
        if key.endswith("port") and not (value is None or 0 <= value <= 65_535):
            raise self.wrong(table, key, f"'{key}' is a port, 0 to 65535")
        return tuple(value) if typing.get_origin(hint) is tuple else value

    def _enrollment(self, table: dict[str, Any], name: str) -> EnrollmentConfig:
        made: EnrollmentConfig = self.make(EnrollmentConfig, table, name)
        try:
            made.make()
        except OSError as error:
            raise self.wrong(name, "roots", f"{error.filename}: {error.strerror}") from None
        except ValueError as error:
            key = next((k for k in table if k in str(error)), "id")
            raise self.wrong(name, key, str(error)) from None
        return made

    def _array(self, key: str, value: Any) -> None:
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.wrong("", key, f"'{key}' is an array of tables: write [[{key}]]")


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin in (list, tuple):
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(item, arguments[1]) for item in value.values()
        )
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(a) for a in arguments if a is not type(None))
    if origin in (list, tuple):
        return f"a list of which each is {_words(arguments[0])}"
    if origin is dict:
        return "a table"
    return names.get(hint, str(hint))

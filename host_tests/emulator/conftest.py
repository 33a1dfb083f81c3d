"""One emulator per test module, reached over plain TCP where TLS is not the subject."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from support import wire
from taproot.emulator import EmulatorConfig, Running, running

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def hub() -> Iterator[Running]:
    """A hub with a plain MQTT port beside its TLS one."""
    with running(EmulatorConfig(plain_port=0, preview=True)) as emu:
        yield emu


@pytest.fixture
def device(hub: Running) -> Iterator[Any]:
    """A device of its own for each test: `.id`, `.key`, `.connect(…)` -> Wire with CONNACK taken."""
    yield from make_device(hub)


def make_device(hub: Running, identity: str | None = None) -> Iterator[Any]:
    """The device fixture for any hub."""
    record = hub.add_device(identity or f"unit{next(_numbers)}")
    opened: list[wire.Wire] = []

    def start(*, code: int | None = 0, ttl: float = 3600, query: str = "api-version=2021-04-12",
              tls: Any = None, **how: Any) -> wire.Wire:  # fmt: skip
        link = wire.Wire.tls(hub.mqtt_port, tls) if tls else wire.Wire.plain(hub.plain_port)
        opened.append(link)
        login = wire.credentials(hub.host, record.id, record.primary_key, ttl, query)
        link.send(wire.connect(how.pop("client_id", record.id), **{**login, **how}))
        if code is not None:
            first, body = link.expect(wire.CONNACK)
            link.session_present = bool(body[0])  # type: ignore[attr-defined]
            assert (first, body[1]) == (0x20, code)
        return link

    topic = f"devices/{record.device_id}/messages/"
    if record.module_id:
        topic = f"devices/{record.device_id}/modules/{record.module_id}/messages/"
    yield SimpleNamespace(
        id=record.id,
        record=record,
        key=record.primary_key,
        connect=start,
        events=f"{topic}events/",
        inbox=f"{topic}devicebound/#",
    )
    for link in opened:
        link.close()


@pytest.fixture
def since(hub: Running) -> Callable[..., list[dict[str, Any]]]:
    """`since("strictness")`: events of these types since the test began."""
    start = hub.emulator.recorder.seq

    def events(*types: str) -> list[dict[str, Any]]:
        return [e for e in hub.events(start) if not types or e["type"] in types]

    return events

"""The fault matrix: every scenario ends in bounded time, typed, nothing lost (requirement MQTT 7).

All run at once, a few at a time, because they mostly wait for deadlines; each is a test of its
own below.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from taproot.bench import faults

NAMES = faults.names()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, long_run: bool) -> dict:
    folder: Path = tmp_path_factory.mktemp("faults")
    rows = faults.run_all(None, "unix64", 1.0 if long_run else 0.05, folder)
    return {row.id: row for row in rows}


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.xdist_group("mqtt-faults")
def test_fault(name: str, outcomes: dict):
    row = outcomes[name]
    assert row.ok, f"expected {row.expected}; seen {row.seen}"
    assert row.lost == 0


@pytest.mark.parametrize("name", ["restart_in", "kill_before_puback", "login_password"])
def test_fault_on_a_32_bit_device(name: str, tmp_path: Path):
    row = next(iter(faults.run_all(name, "unix32", 0.05, tmp_path)))
    assert row.ok, row.seen

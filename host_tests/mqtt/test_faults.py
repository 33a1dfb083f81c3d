"""The fault matrix: every scenario ends in bounded time, typed, nothing lost (requirement MQTT 7).

`taproot bench faults` prints what was expected and what was seen, row by row.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from taproot.bench import faults


@pytest.mark.timeout(1500)
def test_every_fault_ends_as_promised(tmp_path: Path, long_run: bool, capsys):
    # one test, because the scenarios run a few at a time: they mostly wait for deadlines
    rows = list(faults.run_all(None, "unix64", 1.0 if long_run else 0.05, tmp_path))
    with capsys.disabled():
        for row in rows:
            print(f"\n  {'ok  ' if row.ok else 'FAIL'} {row.id:<22} {row.seconds:6.1f} s", end="")
        print()
    failed = [f"{r.id}: expected {r.expected}; seen {r.seen}" for r in rows if not r.ok]
    assert not failed, "\n".join(failed)
    assert sum(row.lost for row in rows) == 0
    assert len(rows) >= 68


@pytest.mark.parametrize("name", ["restart_in", "kill_before_puback", "login_password"])
def test_fault_on_a_32_bit_device(name: str, tmp_path: Path):
    row = next(iter(faults.run_all(name, "unix32", 0.05, tmp_path)))
    assert row.ok, row.seen

"""Pauses, deadlines and evictions in virtual time, with ticks that wrap (requirement MQTT 7)."""

from __future__ import annotations

from pathlib import Path

import pytest
from taproot import interpreters

SCRIPT = Path(__file__).resolve().parent / "device_time.py"


def run(case: str, build: str = "unix64") -> list[list[str]]:
    result = interpreters.run(build, SCRIPT, case, heap="1m", timeout=60)
    assert result.returncode == 0 and not result.stderr.strip(), result.text
    lines = [line for line in result.stdout.splitlines() if not line.startswith("warning: ")]
    return [line.split(" ", 1) for line in lines]


@pytest.mark.parametrize("build", ["unix64", "unix32"])
@pytest.mark.parametrize(
    ("what", "least", "most", "said"),
    [
        ("pause", 20000, 20000, ""),
        ("puback", 20000, 25000, "PUBACK did not come within 20000 ms"),
        ("ping", 150000, 360000, "PINGRESP did not come within 10000 ms"),
    ],
)
def test_a_wait_lasts_as_long_wherever_the_ticks_wrap(build, what, least, most, said):
    found = run(f"wait={what}", build)
    assert len(found) == 5
    assert {int(line[0]) for line in found} == {int(found[0][0])}, found
    assert least <= int(found[0][0]) <= most
    assert all(line[1:] == ([said] if said else []) for line in found)


def test_a_twin_that_returns_within_half_a_minute_is_called_an_eviction_and_backed_off_from():
    found = run("twin=" + ",".join(["29000"] * 10))
    assert [line[1] for line in found[:2]] == ["closed by the peer"] * 2
    for i, line in enumerate(found[2:], 3):
        assert line[1] == (
            f"closed {i} times soon after connecting: another client seems to use the id 'dev1'"
        )
    # the third is the last one that a connect had reset: from there on they double, to 120 s
    assert all(int(line[0]) <= 1000 for line in found[:2])
    assert int(found[-1][0]) >= 32000


def test_a_twin_that_returns_later_is_taken_for_a_bad_network():
    # Not told from one: nothing is said, and each link ends in a first pause. The two clients
    # take turns of more than half a minute, 120 connects an hour at most.
    found = run("twin=" + ",".join(["31000"] * 10))
    assert [line[1] for line in found] == ["closed by the peer"] * 10
    assert all(int(line[0]) <= 1000 for line in found)


def test_a_link_that_lasted_is_no_eviction_after_two_that_did_not():
    found = run("twin=1000,1000,31000,1000,1000,1000")
    assert [line[1][:8] for line in found] == ["closed b"] * 5 + ["closed 3"]


@pytest.mark.parametrize(("size", "window"), [(1, 1000), (100, 1000), (10_000, 100_000)])
def test_a_fleet_comes_back_evenly_over_a_window_of_its_size(size, window):
    pauses = [int(line[0]) for line in run(f"fleet={size}")]
    assert max(pauses) <= window
    for part in range(10):  # 100 are expected in each tenth, with a deviation of 9.5
        inside = [p for p in pauses if part * window <= p * 10 < (part + 1) * window]
        assert 50 <= len(inside) <= 150, (part, len(inside))

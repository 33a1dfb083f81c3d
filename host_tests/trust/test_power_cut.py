"""Power cuts at every flash operation, on littlefs, FAT and POSIX; SIGKILL of a live process.

The short form takes every n-th cut; the long form all single ones and every 53rd double one (there
are about 85,000 in a plan). Counts are printed (`-rP`) and kept in the report as properties.
"""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path

import pytest
from taproot import interpreters

HERE = Path(__file__).resolve().parent
PLANS = ("stage_confirm", "stage_revert_stage_confirm", "stage_distrust", "rotate", "fast_forward")
pytestmark = pytest.mark.timeout(1200)
IDS = ("R-21", "R-32", "R-33", "R-36", "R-48", "H15")


@pytest.fixture
def cut(catalogue, tmp_path, record_property, firmware):
    """`cut(script, *args)`: (operations, cuts, violations)."""

    def run(script: str, *args: str) -> tuple[int, int, list]:
        path = f"{HERE}:{HERE.parent / 'support'}:{firmware}:.frozen"
        result = interpreters.run(
            "unix64",
            HERE / script,
            str(catalogue.folder),
            *args,
            heap="16m",
            timeout=3000,
            cwd=tmp_path,
            env={"MICROPYPATH": path},
        )
        assert result.returncode == 0, result.text
        lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[")]
        facts = dict(line for line in lines if line[0] != "bad")
        bad = [line[1] for line in lines if line[0] == "bad"]
        counts = ", ".join(f"{name} {n}" for name, n in facts.items())
        text = f"{' '.join(args)}: {counts}, violations {len(bad)}"
        print(text)
        record_property("power_cut", text)
        assert facts["cuts"] > 0
        return facts["ops"], facts["cuts"], bad

    return run


@pytest.mark.requirement(*IDS)
@pytest.mark.parametrize("plan", ["first_stage_confirm", *PLANS])
def test_littlefs_survives_a_cut(plan, cut, count):
    _, _, bad = cut("power_cut.py", "lfs", plan, "single", count("13", "1"))
    assert bad == []


@pytest.mark.requirement("R-32", "R-36")
@pytest.mark.parametrize("plan", PLANS)
def test_fat_loses_only_its_own_sectors(plan, cut, count):
    """FAT may lose a directory or table sector that was half written: nothing above it can help.

    Every other tear mode must leave it whole, and the frozen factory bundle is there in any case.
    """
    _, cuts, bad = cut("power_cut.py", "fat", plan, "single", count("13", "1"))
    assert [violation for violation in bad if violation[1] != "garble"] == []
    assert len(bad) <= cuts // 20 + 2


@pytest.mark.requirement(*IDS)
@pytest.mark.parametrize(
    "plan",
    [
        "stage_distrust",
        pytest.param("fast_forward", marks=pytest.mark.long),
        pytest.param("stage_confirm", marks=pytest.mark.long),
    ],
)
def test_littlefs_survives_two_cuts(plan, cut, count):
    _, _, bad = cut("power_cut.py", "lfs", plan, "double", count("31", "53"), count("97", "1"))
    assert bad == []


@pytest.mark.requirement("R-21", "R-32", "R-33", "R-36", "R-48")
@pytest.mark.parametrize("plan", PLANS)
def test_posix_replay(plan, cut, count):
    _, _, bad = cut("posix_cut.py", plan, count("2", "1"), count("7", "1"))
    assert bad == []


@pytest.mark.requirement("R-32", "R-33", "R-36")
def test_sigkill_at_any_moment(catalogue, tmp_path, count, firmware, record_property):
    """A process that installs, reverts and confirms is killed at random; no state is lost."""
    pick = random.Random(20261123)
    kills = count(12, 300)
    life = 20.0  # the first run is left alone, to learn how long one takes here
    floor = seen = good = 0
    ended = killed = confirmed = 0
    while killed < kills:
        with interpreters.Process(
            "unix64",
            HERE / "kill_loop.py",
            str(catalogue.folder),
            heap="2m",
            limit=60,
            folder=tmp_path,
            env={"MICROPYPATH": f"{HERE}:{firmware}:.frozen"},
        ) as device:
            begun = time.monotonic()
            timer = threading.Timer(pick.random() * life if killed else life, device.kill)
            timer.start()
            lines = [json.loads(line) for line in device.lines(30) if line.endswith("]")]
            timer.cancel()
            life = life if killed else time.monotonic() - begun
        killed += 1
        for kind, *facts in lines:
            if kind == "boot":
                assert facts[0] >= good, lines
                assert facts[1] >= floor and facts[2] >= seen, lines
                assert facts[3] == "None", lines
                floor, seen = facts[1], facts[2]
            elif kind == "confirmed":
                good, floor = facts[0], facts[1]
                confirmed += 1
            elif kind == "end":
                ended += 1
                for file in (tmp_path / "trust").iterdir():
                    file.unlink()
                floor = seen = good = 0
    text = f"{killed} kills, {confirmed} confirmations, {ended} times from the beginning"
    print(text)
    record_property("power_cut", text)
    assert confirmed > kills // 10  # a loaded machine comes less far between two kills

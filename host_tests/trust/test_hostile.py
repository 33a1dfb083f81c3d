"""Hostile packages generated: every byte, every length, and changes where they hurt (H1 to H14)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from taproot import interpreters

HERE = Path(__file__).resolve().parent
pytestmark = pytest.mark.timeout(1200)
HEAP = "800k"  # a bound with room for the packages being changed; R-31 has its own test


@pytest.fixture
def offered(catalogue, tmp_path, firmware, record_property):
    """`offered(build, how, first, count)`: what hostile.py reports; build None is CPython."""

    def run(build: str | None, how: str, first: int, count: int) -> dict:
        args = [str(catalogue.folder), how, str(first), str(count)]
        if build is None:
            code = "import sys; sys.path.insert(0, %r); import suite; suite.prepare(%r); import hostile; hostile.main()"
            result = subprocess.run(
                [sys.executable, "-c", code % (str(HERE), str(firmware)), *args],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                timeout=3000,
            )
        else:
            result = interpreters.run(
                build,
                HERE / "hostile.py",
                *args,
                heap=HEAP,
                timeout=3000,
                cwd=tmp_path,
                env={"MICROPYPATH": f"{HERE}:{firmware}:.frozen"},
            )
        assert result.returncode == 0, result.stdout + result.stderr
        found = json.loads(result.stdout.splitlines()[-1])
        text = f"{build or 'cpython'} {how}: {found['tried']} tried, {found['accepted']} accepted, {found['codes']}"
        print(text)
        record_property("hostile", text)
        assert found["bad"] == []
        assert "MEMORY" not in found["codes"]
        return found

    return run


@pytest.mark.requirement("R-46", "H1")
@pytest.mark.parametrize("build", [None, "unix64"])
def test_every_byte_flipped(build, offered, count):
    found = offered(build, "flip", count(3, 0), count(300, 100000))
    assert found["tried"] >= 300
    assert found["accepted"] == 0  # every signature of this package is needed


@pytest.mark.requirement("R-46", "H2")
@pytest.mark.parametrize("build", [None, "unix64"])
def test_every_length_truncated(build, offered, count):
    found = offered(build, "cut", count(2, 0), count(500, 100000))
    assert found["tried"] >= 500
    assert found["accepted"] == 0


@pytest.mark.requirement("R-01", "R-46", "H7", "H9", "H13", "H14")
def test_changed_where_it_hurts(offered, count):
    found = offered(None, "mutate", 7, count(1500, 200_000))
    assert len(found["codes"]) >= 4


@pytest.mark.requirement("R-01", "R-31", "R-46", "H13")
def test_changed_where_it_hurts_on_micropython(offered, count):
    found = offered("unix64", "mutate", 20261123, count(600, 5_000))
    assert len(found["codes"]) >= 4


@pytest.mark.requirement("R-31", "H13")
def test_changed_within_a_small_heap(offered, count):
    offered("unix32", "mutate", 5, count(200, 1_000))

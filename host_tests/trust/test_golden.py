"""The committed vectors, as a third party would use them (R-47)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import trust_golden
from taproot import interpreters

DEVICE = Path(__file__).resolve().parents[1] / "operator" / "golden_device.py"


@pytest.mark.requirement("R-47", "R-45")
@pytest.mark.parametrize("build", ["unix64"])
def test_golden_vectors_hold(build, tmp_path, firmware):
    path = trust_golden.FOLDER / "golden.json"
    result = interpreters.run(
        build,
        DEVICE,
        str(path),
        heap="4m",
        timeout=120,
        cwd=tmp_path,
        env={"MICROPYPATH": f"{firmware}:.frozen"},
    )
    assert result.returncode == 0, result.text
    found = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[")]
    cases = json.loads(path.read_text())["cases"]
    expected = [[case["name"], [s["expect"] for s in case["steps"]], False] for case in cases]
    assert found == expected
    assert len(found) > 100


@pytest.mark.requirement("R-47")
def test_golden_modules_hold(answers, tmp_path):
    path = trust_golden.FOLDER / "modules.json"
    found = answers("check_vectors.py", "unix64", str(path))
    assert {name: why for name, why in found.items() if why} == {}
    assert len(found) == len(json.loads(path.read_text())["vectors"])


def test_golden_vectors_hold_no_private_key():
    for path in trust_golden.FOLDER.iterdir():
        text = path.read_text()
        assert "PRIVATE" not in text and '"d"' not in text and '\\"d\\":' not in text

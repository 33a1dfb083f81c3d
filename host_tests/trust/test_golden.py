"""The committed vectors, as a third party would use them (R-47)."""

from __future__ import annotations

import json

import pytest
from support import trust_golden


@pytest.mark.requirement("R-47", "R-45")
@pytest.mark.parametrize("build", ["unix64"])
def test_golden_vectors_hold(build, answers, tmp_path):
    expected = trust_golden.unpack(tmp_path)
    found = answers("judge.py", build, cwd=tmp_path)
    assert found == expected
    assert len(found) > 60


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

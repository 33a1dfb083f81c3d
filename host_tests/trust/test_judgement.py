"""Every package, every vector, every scenario, on every interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import trust_cases

HERE = Path(__file__).resolve().parent


def wrong(found: dict, expected: dict) -> list:
    return [
        (name, answer, expected[name])
        for name, answer in found.items()
        if answer != expected[name]
    ]


@pytest.mark.parametrize("build", ["unix64", "stock"])
def test_packages_are_judged_alike(build, catalogue, answers):
    found = answers("judge.py", build, str(catalogue.folder))
    expected = {case.name: case.expect for case in catalogue.cases}
    assert wrong(found, expected) == []
    left = {case.name for case in catalogue.cases if not case.tls} - set(found)
    assert not left


@pytest.mark.parametrize("build", ["unix64", "unix32", "stock"])
def test_vectors_hold(build, catalogue, answers):
    found = answers("check_vectors.py", build, str(catalogue.folder / "vectors.json"))
    assert len(found) == len(catalogue.vectors) > 300
    assert {name: why for name, why in found.items() if why} == {}


@pytest.mark.parametrize("build", ["unix64", "stock"])
def test_scenarios_hold(build, catalogue, answers):
    found = answers("scenarios.py", build, str(catalogue.folder))
    assert len(found) > 70
    assert {name: why for name, why in found.items() if why} == {}


def test_cpython_agrees(catalogue):
    """The suite that mutants and stubs have to get past is itself green."""
    result = subprocess.run(
        [sys.executable, str(HERE / "suite.py"), str(catalogue.folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.requirement("R-13", "R-14")
@pytest.mark.parametrize("name", trust_cases.ROTATIONS)
def test_rotation(name, catalogue, answers):
    """TUF's conformance suite has 25 rotation cases; each has its like here."""
    (case,) = [case for case in catalogue.cases if case.name == name]
    found = answers("judge.py", "unix64", str(catalogue.folder), name)
    assert found == {name: case.expect}

"""The main job, from the outside: `taproot drill` on real interpreters over real TLS.

Shows the claims of the README's first paragraph; slow, hence few.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from taproot.console import Report
from taproot.drill import scenario
from taproot.drill.scenario import MESSAGES, OFFLINE, Story, rehearse
from taproot.drill.world import Options, World

SCHEMA = Path(__file__).resolve().parents[1] / "vectors" / "schemas" / "cli.schema.json"


def drill(*args: str) -> tuple[int, dict]:
    done = subprocess.run(
        [sys.executable, "-m", "taproot", "drill", "--json", *args],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.timeout(320)
@pytest.mark.parametrize("options", [("--build", "unix64"), ("--build", "unix32")])
def test_devices_that_follow_survive_a_root_migration(options: tuple[str, ...]) -> None:
    code, report = drill(*options)
    jsonschema.validate(report, json.loads(SCHEMA.read_text()))
    assert code == 0 and report["ok"], [step for step in report["steps"] if not step["ok"]]
    last = report["steps"][-1]
    assert last["lost"] == 0
    follower = last["devices"]["device-a"]
    assert follower["accepted"] >= MESSAGES and follower["offline"] >= OFFLINE
    assert follower["tls"] == "TLSv1.2"


class _NewRootForgotten(World):
    """An operator who forgot the new root in bundle 2."""

    def package(self, version, roots, signatures=None):
        return super().package(version, [r for r in roots if r[0] != "new root"], signatures)


@pytest.mark.timeout(200)
def test_the_drill_fails_when_the_new_root_was_never_published(monkeypatch) -> None:
    monkeypatch.setattr(scenario, "World", _NewRootForgotten)
    monkeypatch.setattr(scenario, "_RECONNECT_S", 8.0)
    report = Report("taproot drill", as_json=True)
    rehearse(Options(seed=2), report)
    assert not report.ok
    assert report.steps[-1]["name"] == "6", report.steps


def test_the_steps_are_those_of_the_readme() -> None:
    numbers = [number for number, _ in Story(None, None).steps()]  # type: ignore[arg-type]
    assert numbers[:4] == ["1", "2", "3", "3b"] and numbers[-1] == "7"

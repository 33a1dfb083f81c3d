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
from taproot.drill import migration, scenario
from taproot.drill.scenario import STEPS, rehearse
from taproot.drill.stage import MESSAGES, OFFLINE
from taproot.drill.world import Options, World

SCHEMAS = Path(__file__).resolve().parents[1] / "vectors" / "schemas"
NUMBERS = [number for number, _ in STEPS]


def drill(*args: str) -> tuple[int, dict]:
    done = subprocess.run(
        [sys.executable, "-m", "taproot", "drill", "--json", *args],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.timeout(420)
@pytest.mark.parametrize(
    "options",
    [
        ("--build", "unix64"),
        ("--build", "unix32"),
        pytest.param(("--keep-floor", "--seed", "2"), marks=pytest.mark.long),
        pytest.param(("--chain", "ecc", "--seed", "3"), marks=pytest.mark.long),
        pytest.param(("--devices", "3", "--seed", "4"), marks=pytest.mark.long),
    ],
    ids=lambda options: " ".join(options),
)
def test_devices_that_follow_survive_a_root_migration(options: tuple[str, ...]) -> None:
    code, report = drill(*options)
    jsonschema.validate(report, json.loads((SCHEMAS / "cli.schema.json").read_text()))
    assert code == 0 and report["ok"], [step for step in report["steps"] if not step["ok"]]
    assert [step["name"] for step in report["steps"]] == NUMBERS
    last = report["steps"][-1]
    assert last["lost"] == 0
    for name in ("device-a", "device-b"):
        device = last["devices"][name]
        assert device["accepted"] >= MESSAGES and device["offline"] >= OFFLINE
        assert device["tls"] == "TLSv1.2"


class _NewRootForgotten(World):
    """An operator who forgot the new root in bundle 2."""

    def package(self, version, roots, signatures=None, **more):
        kept = [root for root in roots if root[0] != "new root"]
        return super().package(version, kept, signatures, **more)


@pytest.mark.timeout(200)
def test_the_drill_fails_when_the_new_root_was_never_published() -> None:
    report = Report("taproot drill", as_json=True)
    rehearse(Options(seed=2, kills=0), report, _NewRootForgotten)
    assert not report.ok
    assert report.steps[-1]["name"] == "5b", report.steps[-1]


class _MessagesVanish(World):
    """A hub that forgets one message."""

    def recorded(self, device):
        return [number for number in super().recorded(device) if number != 17]


@pytest.mark.timeout(200)
def test_the_drill_fails_when_one_message_is_lost(monkeypatch) -> None:
    kept = [step for step in STEPS if step[0] in ("1", "2", "3", "12")]
    monkeypatch.setattr(scenario, "STEPS", kept)
    monkeypatch.setattr(migration, "SETTLE_S", 2.0)
    report = Report("taproot drill", as_json=True)
    rehearse(Options(seed=3, kills=0), report, _MessagesVanish)
    assert not report.ok and report.steps[-1]["name"] == "12"
    assert report.steps[-1]["devices"]["device-a"]["lost"] == 1


def test_help_shows_an_example_that_exists() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "taproot", "drill", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "Example: taproot drill --seed 7" in done.stdout

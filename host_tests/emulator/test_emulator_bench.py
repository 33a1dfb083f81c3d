"""The emulator's figures (issue: emulator, quality): memory per connection, CPU per message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from taproot.bench import emulator as bench
from taproot.bench.broker import program
from taproot.console import UsageFailed


@pytest.fixture(scope="module")
def rows(count):
    try:
        program()
    except UsageFailed as error:
        pytest.fail(error.message)
    found = bench.measure(connections=count(250, 2000), messages=count(2000, 10_000))
    return {row["id"]: row for row in found}


@pytest.mark.parametrize(
    "name", ["emulator.tls.rss", "emulator.tls.answered", "emulator.pub.q1.ratio"]
)
def test_goal_holds(rows, name):
    assert rows[name]["goal"] is not None
    assert rows[name]["ok"], rows[name]


def test_the_figures_are_measured_not_assumed(rows):
    assert rows["mosquitto.pub.q1.cpu"]["value"] > 1
    assert rows["emulator.pub.q1.cpu"]["value"] > 1
    assert rows["emulator.tls.rss"]["value"] > 5


def test_too_few_open_files_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr(bench.resource, "getrlimit", lambda what: (64, 64))
    with pytest.raises(UsageFailed, match="raise the hard limit"):
        bench.raise_files(1000)


def test_the_example_of_the_command_runs():
    """`--json` is one object on stdout with the rows; progress goes to stderr."""
    taproot = Path(sys.executable).with_name("taproot")
    shown = subprocess.run(
        [taproot, "bench", "emulator", "--help"], capture_output=True, text=True
    )
    words = shown.stdout.partition("Example: taproot ")[2].split("\n")[0].split()
    assert words[:2] == ["bench", "emulator"]
    done = subprocess.run([taproot, *words, "--json"], capture_output=True, text=True, timeout=100)
    body = json.loads(done.stdout)
    assert done.returncode == (0 if body["ok"] else 1)
    assert body["tool"] == "taproot bench emulator" and len(body["rows"]) == 7
    assert "KiB each" in done.stderr

"""`taproot bench mqtt` and `faults`: JSON per contract, goals that hold in every build."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner
from taproot.bench import cli, runner

SCHEMA = Path(__file__).resolve().parents[1] / "vectors" / "schemas" / "bench.schema.json"


def rows(*args: str) -> dict:
    result = CliRunner().invoke(cli.command, ["mqtt", "--json", *args])
    assert result.exit_code in (0, 1), result.output
    body = json.loads(result.stdout)
    jsonschema.validate(body, json.loads(SCHEMA.read_text()))
    return {row["id"]: row for row in body["rows"]}


def test_one_record_per_packet():
    found = rows("--only", "wire")
    assert all(row["ok"] for row in found.values()), found
    assert found["mqtt.pub.q1.64.records"]["value"] == 1
    # packet + 29 bytes of TLS
    assert found["mqtt.pub.q1.64.records"]["wire_bytes"] == 64 + 2 + 29 + 2 + 2 + 29


def test_heap_on_the_protocol_path():
    found = rows("--only", "heap")
    for name in ("mqtt.pub.q0.64.heap", "mqtt.pub.q1.64.heap"):
        assert found[name]["ok"], found[name]
    for name in ("mqtt.recv.q1.64.heap", "mqtt.recv.q1.1k.heap"):
        assert found[name]["ok"], found[name]


def test_sizes_are_printed_with_the_reason_of_a_miss():
    found = rows("--only", "size")
    row = found["mqtt.size.mpy"]
    assert row["ok"] or row["why"]


def test_recorded_figures_of_other_clients_say_that_they_are_recorded():
    found = rows("--only", "size", "--peers")
    peers = [row for name, row in found.items() if name.startswith("peer.")]
    assert peers and all(row["recorded"] and row["peer"] for row in peers)


def test_compare_joins_on_id_build_and_n(tmp_path):
    old = tmp_path / "old.json"
    old.write_text(
        json.dumps({"rows": [{"id": "mqtt.size.mpy", "build": "mpy-cross", "n": 1, "value": 1}]})
    )
    result = CliRunner().invoke(cli.command, ["mqtt", "--only", "size", "--compare", str(old)])
    assert "was 1" in result.output


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["mqtt", "--only", "nothing"], "no part 'nothing'"),
        (["faults", "--only", "nothing"], "no fault 'nothing'"),
        (["mqtt", "--compare", "/nowhere.json", "--only", "size"], "no such file"),
    ],
)
def test_a_usage_mistake_is_one_line_and_exit_2(args, text):
    result = CliRunner().invoke(cli.command, args)
    assert result.exit_code == 2 and text in result.output


def test_a_goal_is_held_or_missed():
    assert runner._holds(1, 1, "<=") and not runner._holds(2, 1, "<=")
    assert runner._holds(2, 1, ">=") and not runner._holds(None, 1, ">=")
    assert runner._holds(5, None, "<=")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_instructions_against_the_floor():
    found = rows("--only", "publish")
    missed = [row["id"] for row in found.values() if not row["ok"] and not row["why"]]
    assert not missed
    for name in ("mqtt.pub.q0.64.core", "mqtt.pub.q0.1k.core", "mqtt.pub.q1.16k.core"):
        assert found[name]["ok"], found[name]

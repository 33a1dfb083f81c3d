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
    found = rows("--only", "size", "--recorded")
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
        (["mqtt", "--only", "size", "--peers", "/usr/bin"], "no umqtt/simple.py"),
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


TINY = """
import socket
class MQTTClient:
    def __init__(self, client_id, server, port, user, password, keepalive, ssl):
        self.args, self.address, self.ssl = (client_id, user, password), (server, port), ssl
    def connect(self):
        sock = socket.socket()
        sock.connect(socket.getaddrinfo(*self.address)[0][-1])
        self.sock = self.ssl.wrap_socket(sock, server_hostname="localhost")
        body = b"\\0\\4MQTT\\4\\xc2\\0\\x3c"
        for part in self.args:
            body += bytes([0, len(part)]) + part.encode()
        self.sock.write(bytes([0x10, len(body)]) + body)
        if self.sock.read(4) != b"\\x20\\2\\0\\0":
            raise OSError("refused")
    def publish(self, topic, payload, retain, qos):
        body = bytes([0, len(topic)]) + topic.encode() + (b"\\0\\1" if qos else b"") + payload
        self.sock.write(bytes([0x30 | qos << 1, len(body)]) + body)
        if qos and self.sock.read(4) != b"\\x40\\2\\0\\1":
            raise OSError("no PUBACK")
    def disconnect(self):
        self.sock.close()
"""


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_peer_is_measured_from_the_checkout_the_user_names(tmp_path):
    (tmp_path / "umqtt.simple" / "umqtt").mkdir(parents=True)
    (tmp_path / "umqtt.simple" / "umqtt" / "simple.py").write_text(TINY)
    found = rows("--only", "size", "--peers", str(tmp_path))
    for qos in (0, 1):
        row = found[f"peer.simple.pub.q{qos}.64"]
        assert row["commit"] == "no git checkout" and row["heap"] > 0
        assert row["floor"] < row["value"] < 3 * row["floor"]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_instructions_against_the_floor():
    found = rows("--only", "publish")
    assert len(found) == 8
    for row in found.values():
        assert row["ok"], row

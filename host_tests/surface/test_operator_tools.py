"""`taproot dps-key`, `taproot simulate` and `taproot device`, as a user calls them."""

import json

from click.testing import CliRunner
from taproot.device import cli as device_cli
from taproot.device import dps_key
from taproot.simulate import cli as simulate_cli
from taproot.simulate import reconnect

GROUP = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
DERIVED = "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="


def test_dps_key_prints_the_derived_key_only(tmp_path):
    (tmp_path / "group.key").write_text(GROUP + "\n")
    words = ["--registration-id", "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6"]
    done = CliRunner().invoke(
        dps_key.command, [*words, "--group-key-file", str(tmp_path / "group.key")]
    )
    assert (done.exit_code, done.output) == (0, DERIVED + "\n")
    assert CliRunner().invoke(dps_key.command, words, input=GROUP).output == DERIVED + "\n"
    for bad in ("###", "YWJj", ""):
        done = CliRunner().invoke(dps_key.command, words, input=bad)
        assert done.exit_code == 2
    done = CliRunner().invoke(dps_key.command, ["--registration-id", "-x"], input=GROUP)
    assert done.exit_code == 2 and GROUP not in done.output


def test_a_dropped_fleet_comes_back_without_bothering_anybody(count):
    devices = count(5000, 50000)
    for cold in (False, True):
        found = reconnect.run(devices, 100, cold=cold)
        assert found.back_99_s <= found.limit_s
        assert found.registrations == 0 and found.recovery_requests == 0
        assert found.renewal_peak <= 2.0
        assert set(found.clock_runs.values()) == {0}


def test_the_simulation_can_fail():
    """A fleet that does not know its size comes back in one burst: the hub refuses most."""
    calm = reconnect.run(3000, 100)
    rude = reconnect.Outcome(3000, 100)
    reconnect._reconnect(rude, reconnect.random.Random(1), 1000)
    assert rude.attempts > 3 * calm.attempts


def test_simulate_prints_one_json_object():
    done = CliRunner().invoke(
        simulate_cli.command, ["reconnect", "--devices", "1000", "--rate", "100", "--json"]
    )
    body = json.loads(done.stdout)
    assert done.exit_code == 0 and body["ok"] is True and len(body["steps"]) == 7
    done = CliRunner().invoke(simulate_cli.command, ["reconnect", "--devices", "1"])
    assert done.exit_code == 2


def test_deploy_refuses_what_must_not_reach_a_board(tmp_path):
    config, factory = tmp_path / "device.json", tmp_path / "trust_factory.py"
    words = ["deploy", "--config", str(config), "--factory", str(factory), "--dry-run"]
    assert CliRunner().invoke(device_cli.command, words).exit_code == 2
    factory.write_text("FLEET = 'contoso'\n")
    config.write_text(
        json.dumps({"connection_string": "HostName=h;SharedAccessKeyName=iothubowner"})
    )
    done = CliRunner().invoke(device_cli.command, words)
    assert done.exit_code == 2 and "whole hub" in done.output
    config.write_text(json.dumps({"dps": {}}))
    assert CliRunner().invoke(device_cli.command, words).exit_code == 0
    factory.write_text("FLEET = 'demo-1'\n")
    assert CliRunner().invoke(device_cli.command, words).exit_code == 2
    assert CliRunner().invoke(device_cli.command, [*words, "--demo"]).exit_code == 0


def test_a_board_that_is_not_there_is_one_line():
    done = CliRunner().invoke(device_cli.command, ["info", "--port", "/dev/no-such-port"])
    assert done.exit_code == 3 and "Traceback" not in done.output

"""`taproot dps-key`, `taproot simulate` and `taproot device`, as a user calls them."""

import json
from pathlib import Path

import pytest
from azure_iot import sas
from azure_iot.ladder import Ladder
from azure_iot.trust import ladder as trust_ladder
from click.testing import CliRunner
from taproot.device import cli as device_cli
from taproot.device import dps_key
from taproot.simulate import cli as simulate_cli
from taproot.simulate import reconnect, world

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "host_tests" / "reports" / "reconnect.md"
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


@pytest.mark.timeout(400)
def test_a_dropped_fleet_comes_back_without_bothering_anybody(count):
    devices = count(5000, 50000)
    for cold in (False, True):
        found = reconnect.run(devices, 100, cold=cold)
        assert found.back_99_s <= found.limit_s and not found.away
        assert found.registrations == 0 and found.recovery_requests == 0
        assert found.refused_tokens == 0, "the time is right"
        assert found.renewal_peak <= 2.0
        for name, wrong in found.clock_runs.items():
            assert wrong.refused_tokens == devices, f"{name}: each had to repair its clock"
            assert (wrong.registrations, wrong.recovery_requests, wrong.away) == (0, 0, 0), name
        # Beyond the certificate's life: its dates refuse first, and the floor leads back.
        repairs = [wrong.time_repairs // devices for wrong in found.clock_runs.values()]
        assert repairs == [1, 1, 4]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_page_of_figures_is_what_the_command_writes(tmp_path, record_property):
    """And fifty thousand devices cost less than a minute of CPU."""
    page = tmp_path / "reconnect.md"
    done = CliRunner().invoke(simulate_cli.command, ["reconnect", "--json", "--report", str(page)])
    took = json.loads(done.stdout)["cpu_s"]
    record_property("simulate reconnect, 50000 devices", f"{took} s of CPU")
    assert done.exit_code == 0 and took < 60
    assert page.read_text() == PAGE.read_text(), (
        "old: run  taproot simulate reconnect --report host_tests/reports/reconnect.md"
    )


def test_the_page_of_figures_is_linked_and_reaches_its_goal():
    assert "host_tests/reports/reconnect.md" in (ROOT / "README.md").read_text()
    first, _, rest = PAGE.read_text().partition("## A hint")
    rows = [row.strip("| ").split(" | ") for row in first.splitlines() if " s | " in row]
    assert len(rows) == 4 and rest
    for row in rows:
        assert row[5:] == ["0", "0", "0"], row


def test_a_fleet_that_does_not_know_its_size_is_a_burden_to_the_hub_alone():
    """It comes back in one burst: the hub refuses most, many times, and nobody registers anew."""
    calm, rude = (reconnect.drop(3000, 100, hint) for hint in (3000, 1))
    assert rude.attempts > 3 * calm.attempts and not rude.registrations
    assert not reconnect.drop(1500, 3, 1000).registrations


def test_a_ladder_without_patience_for_a_busy_hub_is_seen(monkeypatch):
    monkeypatch.setattr("azure_iot.ladder._BUSY_S", 1)
    assert reconnect.drop(1500, 3, 1000).registrations > 0


def test_a_ladder_that_registers_at_once_is_seen(monkeypatch):
    rule = Ladder.failed
    monkeypatch.setattr(
        Ladder, "failed", lambda self, kind, now_s, **_: rule(self, kind, now_s, clock_proven=True)
    )
    for wrong in reconnect.WRONG_CLOCKS:
        assert reconnect.boot(200, 100, wrong).registrations == 200


def test_a_repair_that_is_skipped_is_seen(monkeypatch):
    async def nothing(self, host, context):
        pass

    monkeypatch.setattr(world.TimeKeeper, "repair", nothing)
    found = reconnect.boot(200, 100, "-2 h")
    assert found.registrations >= 200 and found.away == 200


def test_a_date_verdict_that_counts_at_once_is_seen(monkeypatch):
    monkeypatch.setattr(trust_ladder, "_REPAIRS", 0)
    found = reconnect.boot(200, 100, "+10 y")
    assert found.recovery_requests >= 200 and found.registrations == 0


def test_a_clock_that_is_not_set_back_to_the_floor_is_seen(monkeypatch):
    def only_offered(trust, offered):
        trust.time_repair_wanted = False
        trust._repairs += 1
        trust.clock.offer(offered, trust.time_floor())

    monkeypatch.setattr(trust_ladder, "repair_time", only_offered)
    assert reconnect.boot(200, 100, "+10 y").away == 200


def test_first_tokens_of_equal_life_are_seen(monkeypatch):
    monkeypatch.setattr(sas, "first_life", lambda life, random32: life)
    assert reconnect.run(5000, 100, cold=True).renewal_peak > 3


def test_devices_from_the_shelf_have_no_time_to_go_back_to():
    """Their floor is older than the certificate: only recovery brings a later one."""
    found = reconnect.boot(200, 100, "-400 d", floor_days=500)
    assert found.away == 200 and found.recovery_requests and not found.registrations


def test_simulate_prints_one_json_object(tmp_path):
    words = ["reconnect", "--devices", "1000", "--rate", "100", "--json"]
    done = CliRunner().invoke(simulate_cli.command, words)
    body = json.loads(done.stdout)
    assert done.exit_code == 0 and body["ok"] is True and len(body["steps"]) == 7
    done = CliRunner().invoke(simulate_cli.command, [*words, "--report", str(tmp_path / "r.md")])
    page = (tmp_path / "r.md").read_text()
    assert "| boot, NTP wrong by +10 y |" in page and "| 1000 devices |" in page
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

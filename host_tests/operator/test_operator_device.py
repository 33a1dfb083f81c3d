"""The operator's whole way with a real device: MicroPython, real TLS, the emulator as hub.

The operator founds a fleet, freezes it into a device, publishes over each channel, asks for a
probe, reads the status and is stopped before taking away the root that the device lives on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from taproot import interpreters
from taproot.emulator import EmulatorConfig, Running, running
from taproot.trust import roots
from test_operator_publish import access, publish, write_access

PROGRAM = Path(__file__).resolve().parent / "whole_device.py"
NAME = "device-01"


@pytest.fixture(scope="module")
def hub() -> Iterator[Running]:
    with running(EmulatorConfig()) as emu:
        yield emu


def wait(hub: Running, wanted: Any, seconds: float = 60) -> dict[str, Any]:
    """Wait until the device reports what is wanted."""
    end = time.monotonic() + seconds
    trust: dict[str, Any] = {}
    while time.monotonic() < end:
        trust = hub.twin(NAME)["properties"]["reported"].get("trust") or {}
        if trust and wanted(trust):
            return trust
        time.sleep(0.05)
    raise AssertionError(f"the device reports {trust} after {seconds} s")


@pytest.mark.requirement("R-45", "R-49")
@pytest.mark.timeout(240)
def test_whole_way_of_an_operator_with_a_real_device(
    operator, hub: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    folder = operator.folder
    write_access(folder, hub)
    operator.found()
    operator.ok("add-root ca.pem")
    operator.release(1)
    operator.ok("factory --folder device/factory")
    (folder / "device/trust").mkdir()
    config = {
        "connection_string": hub.add_device(NAME).connection_string,
        "factory_folder": "factory",
        "trust_folder": "trust",
        "client": {"port": hub.mqtt_port, "fleet_size_hint": 1},
    }
    (folder / "device/device.json").write_text(json.dumps(config))
    device = interpreters.Process(
        "unix64", PROGRAM, heap="1m", limit=220, folder=folder / "device"
    ).start()
    root = str(roots.describe(roots.load_certificate(folder / "ca.pem"))["sha256"])
    try:
        first = wait(hub, lambda t: t.get("version") == 1)
        assert first["source"] == "factory" and first["via"] == root

        operator.release(2)
        operator.ok(publish(hub, f"--device {NAME} --only-device --stage-timeout 60"))
        second = wait(hub, lambda t: t.get("version") == 2)
        assert (second["state"], second["source"], second["via"]) == ("good", "ota", root)

        package = operator.release(3)
        url = hub.publish_file("3.json", (operator.home / "packages/3.json").read_bytes())
        line = publish(hub, f"--url {url} --stages 100 --stage-timeout 60")
        operator.ok(line.replace("--channel twin", "--channel url"))
        wait(hub, lambda t: t.get("version") == 3)
        offer = hub.twin(NAME)["properties"]["desired"]["trust"]
        assert offer["sha256"] == package["sha256"] and "c0" not in offer

        operator.release(4)
        line = publish(hub, "--stages 100 --stage-timeout 60")
        operator.ok(line.replace("--channel twin", "--channel method"))
        assert wait(hub, lambda t: t.get("version") == 4)["state"] == "good"

        wish = f"--host localhost --hub-port {hub.mqtt_port} {access(hub)}"
        operator.ok(f"probe {root} {wish}")
        probed = wait(hub, lambda t: any(p["root"] == root for p in t.get("probes") or []))
        assert probed["probes"][0]["result"] == "ok"
        operator.ok(f"probe digicert-global-root-g2 {wish}")
        other = wait(hub, lambda t: len(t.get("probes") or []) == 2)
        assert {p["result"] == "ok" for p in other["probes"]} == {True, False}

        body = operator.ok(f"status {access(hub)}")
        rows = {r["sha256"]: r for r in body["status"]["roots"]}
        assert rows[root]["in_use"] == rows[root]["proven"] == rows[root]["carried"] == [NAME]
        g2 = roots.catalogue().roots["digicert-global-root-g2"].sha256
        assert rows[g2]["carried"] == [NAME] and rows[g2]["proven"] == []
        assert rows[g2]["failed_probes"] == [NAME]

        operator.ok(f"remove-root {root[:16]}")
        said = operator.fails("build", 1)
        assert "in-use: " in said and f"devices: {NAME}" in said and "unproven: " in said

        # Told twice, it is built and offered; the device tries it, goes back and says why.
        twice = "--despite in-use --despite unproven --confirm-fleet contoso-esp32"
        operator.release(5, twice)
        line = publish(hub, f"--stages 100 --stage-timeout 90 --offline-grace 90 {twice}")
        answer = operator.run(line, json_too=True)
        assert answer.code == 1, answer.out
        (stage,) = answer.body["stages"]
        assert "X509" in stage["failed"][NAME] and stage["withdrawn"] == [NAME]
        after = wait(hub, lambda t: t.get("version") == 4 and t["state"] == "reverted")
        assert after["via"] == root and after["last_error"]["version"] == 5
        assert "trust" not in hub.twin(NAME)["properties"]["desired"]
    except AssertionError as error:
        raise AssertionError(f"{error}\n{device.errors[-20:]}") from error
    finally:
        device.kill()

"""The official azure-iot-hub against the emulator's REST: step by step.

Its venv is made only where the wheels of uamqp exist; C2D goes over AMQP there and is not tested.
"""

from __future__ import annotations

import subprocess

import pytest
from sdk_support import drive
from taproot.emulator import EmulatorConfig, running

STEPS = (
    "devices", "modules", "twins", "methods", "queries", "configuration", "statistics", "bulk",
    "feedback", "removal", "unauthorized",
)  # fmt: skip


@pytest.fixture(scope="module")
def report(sdk_python, tmp_path_factory):
    """One process of the SDK that has run every step."""
    probe = [sdk_python, "-c", "import azure.iot.hub"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        return None
    folder = tmp_path_factory.mktemp("service")
    with running(EmulatorConfig()) as emu:
        (folder / "root.pem").write_text(emu.root_pem)
        key = emu.emulator.hub.registry.policies["iothubowner"].primary_key
        job = {
            "mqtt_port": emu.mqtt_port,
            "https_port": emu.https_port,
            "root_pem": emu.root_pem,
            "root_file": str(folder / "root.pem"),
            "connection_string": f"HostName=localhost;SharedAccessKeyName=iothubowner;"
            f"SharedAccessKey={key}",
        }
        return drive(sdk_python, "service_driver.py", job, 120)


@pytest.mark.parametrize("name", STEPS)
def test_step(report, name, not_checked):
    if report is None:
        not_checked("azure-iot-hub has no wheels for this machine")
    [ended] = [step for step in report["steps"] if step["name"] == name]
    assert ended["ok"], ended["error"]

"""The same MQTT client against the project's hub: telemetry, C2D, drops (requirement MQTT)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
from taproot import interpreters
from taproot.emulator import EmulatorConfig, running
from taproot.pki import Authority

SCRIPT = Path(__file__).resolve().parent / "device_hub.py"


def token(host: str, device: str, key: str) -> str:
    """A SAS token, computed without the device's code."""
    resource = urllib.parse.quote(f"{host}/devices/{device}", safe="")
    expiry = int(time.time()) + 3600
    digest = hmac.new(base64.b64decode(key), f"{resource}\n{expiry}".encode(), hashlib.sha256)
    signature = urllib.parse.quote(base64.b64encode(digest.digest()), safe="")
    return f"SharedAccessSignature sr={resource}&sig={signature}&se={expiry}"


@pytest.mark.parametrize("build", ["unix64", "unix32"])
def test_nothing_is_lost_while_the_hub_drops_the_link(tmp_path, build):
    root = Authority.root("hub root", "p256")
    leaf = root.leaf("localhost", "p256", dns=["localhost"], ips=["127.0.0.1"])
    with running(EmulatorConfig(chain=leaf)) as emu:
        record = emu.add_device("mq1")
        parts = dict(part.split("=", 1) for part in record.connection_string.split(";"))
        (tmp_path / "root.der").write_bytes(root.der)
        options = {
            "port": emu.mqtt_port,
            "root": str(tmp_path / "root.der"),
            "user": f"{parts['HostName']}/mq1/?api-version=2021-04-12",
            "password": token(parts["HostName"], "mq1", parts["SharedAccessKey"]),
            "n": 60,
        }
        (tmp_path / "options.json").write_text(json.dumps(options))

        def drop() -> None:
            for _ in range(3):
                time.sleep(0.6)
                emu.drop("mq1")
            emu.send_c2d("mq1", b"last", {})

        dropper = threading.Thread(target=drop, daemon=True)
        dropper.start()
        result = interpreters.run(
            build, SCRIPT, str(tmp_path / "options.json"), heap="400k", timeout=60
        )
        dropper.join(10)
        bodies = [bytes(message.body) for message in emu.messages("mq1")]
    assert result.returncode == 0, result.text
    assert result.stdout.splitlines()[-1].startswith("DONE"), result.text
    assert list(dict.fromkeys(bodies)) == [b"m%04d" % i for i in range(60)]
    assert "C last" in result.stdout

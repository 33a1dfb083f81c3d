"""firmware/docs/coming-from.md against the names of the installed SDK, and our own."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "firmware" / "docs" / "coming-from.md").read_text()
SECTION = PAGE.partition("## azure-iot-device")[2].partition("## umqtt")[0]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in SECTION.splitlines()
    if line.startswith("| `")
]

# Every public name: classes, exceptions, members, what their objects carry, options of constructors.
NAMES = """
import json, re
import azure.iot.device as sdk
from azure.iot.device import aio, exceptions
from azure.iot.device.provisioning.models import registration_result as results
found = {*sdk.__all__, *(name for name in dir(exceptions) if not name.startswith("_"))}
classes = [getattr(sdk, name) for name in sdk.__all__]
classes += [aio.IoTHubDeviceClient, aio.IoTHubModuleClient, aio.ProvisioningDeviceClient]
for one in [*classes, results.RegistrationState]:
    members = [name for name in dir(one) if not name.startswith("_")]
    found.update(members)
    for name in members:
        if name.startswith("create_"):
            found.update(re.findall(r":param (?:[\\w(). ]+ )?(\\w+):", getattr(one, name).__doc__))
found.update(name for name in vars(sdk.Message(b"")) if not name.startswith("_"))
print(json.dumps(sorted(found)))
"""


def test_no_name_of_the_sdk_is_forgotten_or_invented(sdk_python):
    done = subprocess.run(
        [sdk_python, "-c", NAMES], capture_output=True, text=True, timeout=60, check=True
    )
    names = set(json.loads(done.stdout))
    assert len(names) > 80
    there = " ".join(re.findall(r"`(.*?)`", " ".join(row[0] for row in ROWS)))
    missing = {name for name in names if not re.search(rf"\b{name}\b", there)}
    assert not missing
    said = {re.match(r"(?:await )?(?:(?:client|message)\.)?\.?(\w+)", span)[1]
            for span in re.findall(r"`([^`]+)`", " ".join(row[0] for row in ROWS))}  # fmt: skip
    assert said <= names | {"registration_state"}, said - names  # an attribute set in __init__


def test_what_is_named_as_ours_exists():
    source = " ".join(path.read_text() for path in (ROOT / "firmware/azure_iot").rglob("*.py"))
    for _, here in ROWS:
        for name in re.findall(
            r"\b(?:\w+_\w+|[A-Z]\w+[a-z][A-Z]\w+)\b", " ".join(re.findall(r"`(.*?)`", here))
        ):
            assert re.search(rf"\b{name}\b", source), name


def test_what_is_not_here_says_why():
    for _, here in ROWS:
        assert ("not here" in here) == ("not here, because" in here)

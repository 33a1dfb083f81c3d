"""A saved session of the real client serves only as long as everything it belongs to stays."""

from __future__ import annotations

import base64
import datetime as dt
from typing import Any

import pytest
from support.surface import Device
from support.tls_peer import Relay
from taproot.emulator import EmulatorConfig, running
from taproot.pki import Authority

# Two clients share one Sessions object, as a program that makes its client anew does; the second
# one differs in what `change` says.
PROGRAM = """
from azure_iot import IoTHubDeviceClient, X509Certificate
from azure_iot.clock import default
from azure_iot.errors import AzureIoTError
from azure_iot.tls.context import build_of
from azure_iot.tls.profile import TLSProfile
from azure_iot.tls.sessions import Sessions
import tlsopt
class Clock:
    ahead = 0
    def unix_time(self):
        return default().unix_time() + self.ahead
clock = Clock()
sessions = Sessions(clock)
read = lambda name: open(name, "rb").read()
async def connect(change=None):
    facts = dict(F)
    facts.update(change or {})
    clock.ahead = facts.get("ahead", 0)
    # One fragment length: a session belongs to it too.
    options = {"port": facts["port"], "sessions": sessions, "profile": TLSProfile(
        facts.get("profile", "default"), build=build_of(tlsopt), mode=facts.get("mode", "hub"), mfl=512)}
    options["roots"] = [read(facts.get("root", "root.der"))]
    if "cert" in facts:
        cert = X509Certificate(read(facts["cert"]), read(facts["cert"] + ".key"))
        client = IoTHubDeviceClient.from_x509(cert, "localhost", facts["device_id"], **options)
    else:
        client = IoTHubDeviceClient.from_connection_string(facts["cs"], **options)
    try:
        async with client:
            return client.tls["resumed"]
    except AzureIoTError as error:
        return type(error).__name__
async def main():
    out(await connect(), await connect(), await connect(F["change"]))
asyncio.run(main())
"""

HOUR = 3600


@pytest.fixture(scope="module")
def devices() -> Authority:
    """The CA of the device certificates."""
    return Authority.root("resumption devices", key="p256")


@pytest.fixture(scope="module")
def short_emu(hub_root, devices, tmp_path_factory):
    """An emulator whose leaf ends in an hour, that knows devices by certificate too."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    path.write_text(devices.pem)
    leaf = hub_root.intermediate("resumption issuing", key="p256").leaf(
        "localhost",
        dns=["localhost"],
        key="p256",
        not_after=dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=HOUR),
    )
    with running(EmulatorConfig(chain=leaf, client_roots=[str(path)])) as emulator:
        yield emulator


@pytest.fixture
def run(tmp_path, short_emu, hub_root):
    """Run the program; whether each of its three connections was resumed."""

    def once(name: str, change: dict[str, Any], **facts: Any) -> list[Any]:
        device = Device(tmp_path, short_emu, hub_root)
        (tmp_path / "other.der").write_bytes(Authority.root("another root", key="p256").der)
        return device.run(PROGRAM, name, change=change, **facts)[0]

    return once


@pytest.mark.parametrize(
    ("change", "third"),
    [
        ({}, True),
        ({"profile": "tiny"}, False),
        ({"mode": "ecc"}, False),
        ({"ahead": HOUR - 120}, True),
        ({"ahead": HOUR + 1}, False),  # the leaf is over, by this device's clock
        ({"root": "other.der"}, "TrustError"),  # resumed, nobody would ask for a root
    ],
)
def test_a_session_ends_with_profile_chain_and_root(run, change, third) -> None:
    name = "s-" + "-".join(f"{k}-{v}" for k, v in change.items()).replace(".", "-")
    assert run(name, change) == [False, True, third]


def test_a_session_is_not_offered_on_another_port(run, short_emu) -> None:
    """The same server behind both ports, which would resume it."""
    with Relay(short_emu.mqtt_port) as relay:
        assert run("s-port", {"port": relay.port}) == [False, True, False]


def test_a_session_ends_with_the_devices_key(run, short_emu) -> None:
    keys = [base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2)]
    short_emu.add_device("s-key", primary_key=keys[0], secondary_key=keys[1])
    text = "HostName=localhost;DeviceId=s-key;SharedAccessKey="
    assert run("s-key", {"cs": text + keys[1]}, cs=text + keys[0]) == [False, True, False]
    other = "HostName=localhost;DeviceId=s-other;SharedAccessKey="
    short_emu.add_device("s-other", primary_key=keys[0])
    assert run("s-key", {"cs": other + keys[0]}, cs=text + keys[0]) == [False, True, False]


def test_a_session_ends_with_the_devices_certificate(run, short_emu, devices, tmp_path) -> None:
    """The same name and the same key: the hub would go on with the certificate it saw first."""
    from taproot.pki.authority import new_key

    key = new_key("p256")
    for number in (1, 2):
        leaf = devices.leaf("s-cert", key=key, client=True)
        (tmp_path / f"cert{number}").write_bytes(leaf.der)
        (tmp_path / f"cert{number}.key").write_bytes(leaf.key_der)
    short_emu.add_device("s-cert", auth="x509_ca")
    found = run("s-cert", {"cert": "cert2"}, cert="cert1", cs="")
    assert found == [False, True, False]

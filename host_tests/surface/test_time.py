"""A wrong clock is put right before anything else is blamed (trust store T2, T3, T5, T10)."""

import base64
import time

import pytest
from support.surface import outputs
from taproot.trust.fleet import Fleet

KEY = base64.b64encode(b"k" * 32).decode()
SCOPE = "0ne00000001"

AGENT = """
from azure_iot.agent import Agent
from azure_iot.unix.platform import Platform
async def main():
    agent = Agent(Platform({
        "dps": {"id_scope": F["scope"], "registration_id": F["device_id"], "key": F["key"],
                "host": "localhost", "port": F["port"]},
        "factory_folder": "factory", "trust_folder": "trust",
        "time_offset": F["offset"], "clock_start": F["start"],
        "client": {"port": F["port"], "https_port": F["https"]}}))
    agent.platform.kv.set("assignment", json.dumps({"scope": F["scope"], "hub": "localhost",
        "registration": F["device_id"], "device": F["device_id"]}))
    client = await agent.start()
    client.on_event = lambda name, fact: out(name, str(fact))
    await client.connect(None)
    await client.send_message("x")
    while not client.keeper.proven:
        await asyncio.sleep_ms(50)
    await asyncio.sleep_ms(300)
    out("time", agent.clock.unix_time(), agent.clock.source, client.keeper.corrections)
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def fleet():
    return Fleet.create("demo-time", root=(1, 1), bundle=(1, 1))


@pytest.mark.requirement("T10")
@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("right", 0),
        ("two-hours-late", -7200),
        ("year-late", -400 * 86400),
        ("ten-years", 315360000),
    ],
)
def test_a_lying_time_server_causes_no_registration(device, emu, hub_root, fleet, name, offset):
    factory = device.folder / "factory"
    factory.mkdir()
    (factory / "keyset.jws").write_bytes(fleet.keyset_jws())
    roots = [("hub", hub_root.der, ("hub", "dps"))]
    (factory / "bundle.jws").write_bytes(fleet.bundle_jws(version=1, roots=roots))
    (factory / "build_date").write_text(str(fleet.issued))
    emu.add_device(name, primary_key=KEY)
    emu.enroll(name, primary_key=KEY)
    program = AGENT.replace("client.connect(None)", "client._mqtt.connected.wait()")
    with device.start(
        program, name, cs="", scope=SCOPE, key=KEY, offset=offset, start=946684800, limit=60
    ) as process:
        assert process.wait(50) == 0, process.text
    seen = outputs(process.output)[-1]
    assert seen[0] == "time" and abs(seen[1] - time.time()) < 60 and seen[2] == "authenticated"
    assert not [e for e in emu.events() if e["type"] == "dps_register" and e["identity"] == name]
    clock = emu.twin(name)["properties"]["reported"]["clock"]
    assert clock["source"] == "authenticated"


BEFORE = """
import time
from azure_iot import IoTHubDeviceClient
from azure_iot.clock import Clock
from azure_iot.trust.factory import Factory
from azure_iot.trust.manager import TrustManager
from azure_iot.trust.store import Store
async def main():
    clock = Clock()
    trust = TrustManager(Store("trust", Factory.from_folder("factory")), clock)
    clock.set_time(946684800)
    client = IoTHubDeviceClient.from_connection_string(
        F["cs"], trust=trust, clock=clock, port=F["port"], https_port=F["https"])
    await client.start()
    await asyncio.wait_for(client.connected.wait(), 20)
    out("connected")
    await client.disconnect()
asyncio.run(main())
"""


def test_a_clock_before_2025_is_set_to_the_floor_by_who_has_a_trust_store(device, hub_root):
    fleet = Fleet.create("demo-floor", bundle=(1, 1), root=(1, 1))
    bundle = fleet.bundle_jws(version=1, roots=[("hub", hub_root.der, ("hub", "dps"))])
    factory = device.folder / "factory"
    factory.mkdir()
    (factory / "keyset.jws").write_bytes(fleet.keyset_jws())
    (factory / "bundle.jws").write_bytes(bundle)
    (factory / "build_date").write_text(str(fleet.issued))
    assert device.run(BEFORE, "before-2025") == [["connected"]]

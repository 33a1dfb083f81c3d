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
    roots = [("hub", hub_root.der, ("hub", "dps"))]
    bundle = fleet.bundle_jws(version=1, roots=roots)
    fleet.write_factory(device.folder / "factory", bundle)
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
    fleet.write_factory(device.folder / "factory", bundle)
    assert device.run(BEFORE, "before-2025") == [["connected"]]


FIRST = """
nap = asyncio.sleep_ms
asyncio.sleep_ms = lambda ms: nap(min(ms, 500))
from azure_iot.agent import Agent
from azure_iot.errors import AzureIoTError, ClockError
from azure_iot.unix.platform import Platform
class Board(Platform):
    asked = 0
    async def sync_time(self):
        self.asked += 1
        if self.asked <= F["silent"]:
            if self.asked % 2:
                raise ClockError("no time server answers")
            return None
        return await super().sync_time()
async def main():
    config = {
        "dps": {"id_scope": F["scope"], "registration_id": F["device_id"], "key": F["key"],
                "host": "localhost", "port": F["port"]},
        "clock_start": F["start"], "client": {"port": F["port"], "https_port": F["https"]}}
    if F["trust"]:
        config.update({"factory_folder": "factory", "trust_folder": "trust"})
    else:
        config["roots"] = ["root.der"]
    agent = Agent(Board(config))
    try:
        client = await agent.start()
    except AzureIoTError as error:
        out(type(error).__name__, str(error))
        return
    await client._mqtt.connected.wait()
    out("connected", agent.platform.asked, agent.clock.source)
asyncio.run(main())
"""


@pytest.mark.requirement("T5", "T10")
@pytest.mark.parametrize(
    ("case", "trust", "silent", "https", "source"),
    [
        ("by-https", True, 999, True, "authenticated"),
        ("by-ntp", True, 6, False, "ntp"),
        ("fixed-roots", False, 4, False, "ntp"),
    ],
)
def test_a_first_start_without_the_time_gets_it_and_is_provisioned(
    device, emu, hub_root, fleet, case, trust, silent, https, source
):
    """NTP fails at first: DPS refuses the token, or its certificate seems to lie in the future."""
    name = "first-" + case
    emu.enroll(name, primary_key=KEY)
    roots = [("hub", hub_root.der, ("hub", "dps"))]
    bundle = fleet.bundle_jws(version=1, roots=roots)
    # Far enough behind: every token that is made with this time has expired.
    fleet.write_factory(device.folder / "factory", bundle, fleet.issued - 40 * 86400)
    facts = {"trust": trust, "silent": silent, "start": 946684800, "scope": SCOPE, "key": KEY}
    if not https:
        facts["https"] = 1
    with device.start(FIRST, name, cs="", limit=80, **facts) as process:
        assert process.wait(70) == 0, process.text
    kind, asked, found = outputs(process.output)[-1]
    assert kind == "connected" and found == source, process.text
    assert "no assignment yet" in process.text
    if not https:
        assert asked == silent + 1


def test_a_wrong_key_is_named_once_and_the_device_asks_again(device, emu):
    emu.enroll("wrong-key", primary_key=base64.b64encode(b"j" * 32).decode())
    facts = {"trust": False, "silent": 0, "start": 946684800, "scope": SCOPE, "key": KEY}
    with device.start(FIRST, "wrong-key", cs="", limit=40, **facts) as process:
        process.wait_for("DPS refused (401002)", 20)
        for _ in range(3):
            process.wait_for("mqtt: stopped", 20)
    assert process.text.count("DPS refused") == 1

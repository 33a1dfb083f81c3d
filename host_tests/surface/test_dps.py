"""Provisioning through DPS: keys and certificates, polling, refusals, the kept assignment."""

import base64
import hashlib
import hmac

import pytest
from support.surface import HUBS, Device, free_port
from support.tls_peer import Relay
from taproot.emulator import EmulatorConfig, running
from taproot.pki import Authority

REGISTER = """
from azure_iot import ProvisioningDeviceClient, AzureIoTError, X509Certificate
async def main():
    read = lambda name: open(name, "rb").read()
    place = dict(roots=roots, port=F["port"], timeout_s=20)
    if "key" in F:
        dps = ProvisioningDeviceClient.from_symmetric_key(
            "localhost", F["device_id"], F["scope"], F["key"], **place)
    else:
        dps = ProvisioningDeviceClient.from_x509(
            "localhost", F["device_id"], F["scope"], X509Certificate(read("leaf"), read("key")),
            **place)
    dps.provisioning_payload = F.get("payload")
    try:
        found = await dps.register()
        out("assigned", found.hub, found.device_id, found.substatus, found.payload)
    except AzureIoTError as error:
        out(type(error).__name__, str(error))
asyncio.run(main())
"""


def registrations(emu, name):
    return [e for e in emu.events() if e["type"] == "dps_register" and e["identity"] == name]


SCOPE = "0ne00000001"
KEY = base64.b64encode(b"k" * 32).decode()


def test_symmetric_individual_with_payload_both_ways_and_polling(device, emu):
    emu.enroll("reg-1", primary_key=KEY, polls=3, payload={"site": "Ulm"})
    out = device.run(
        REGISTER, "reg-1", cs="", scope=SCOPE, key=KEY, payload={"modelId": "dtmi:x;1"}
    )
    assert out == [["assigned", "localhost", "reg-1", "initialAssignment", {"site": "Ulm"}]]
    assert [e["payload"] for e in registrations(emu, "reg-1")] == [{"modelId": "dtmi:x;1"}]


SHARED = """
from azure_iot import IoTHubDeviceClient, ProvisioningDeviceClient
from azure_iot.tls.context import default_profile
async def main():
    profile = default_profile()
    for _ in range(2):
        dps = ProvisioningDeviceClient.from_symmetric_key("localhost", F["device_id"], F["scope"],
            F["key"], roots=roots, port=F["port"], profile=profile)
        await dps.register()
    out(profile.mode, profile.host("localhost").wide, profile.host("localhost").acknowledged)
asyncio.run(main())
"""


def test_dps_is_offered_rsa_first_and_the_shared_profile_remembers_a_server_without(device, emu):
    emu.enroll("reg-rsa", primary_key=KEY)
    with Relay(emu.mqtt_port) as relay:
        found = device.run(SHARED, "reg-rsa", cs="", scope=SCOPE, key=KEY, port=relay.port)
        offered = [set(wire.hello("up").suites) - {0xFF} for wire in relay.wires]
    rsa = {0xC02F, 0xC027}
    assert offered[0] == rsa
    # This emulator has an ECDSA certificate: asked for at once, and the second time from the start.
    assert len(offered) == 3 and all(len(suites) == 8 and rsa < suites for suites in offered[1:])
    assert found == [["hub", True, 4096]]


def test_an_assignment_larger_than_the_input_buffer_arrives(device, emu):
    emu.enroll("reg-large", primary_key=KEY, payload={"site": "x" * 6000})
    out = device.run(REGISTER, "reg-large", cs="", scope=SCOPE, key=KEY, limit=40)
    assert out[0][:3] == ["assigned", "localhost", "reg-large"]
    assert out[0][4] == {"site": "x" * 6000}


def test_group_key_is_derived_by_the_operator_and_refused_on_a_device(device, emu):
    group = base64.b64encode(b"group key of thirty-two bytes...").decode()
    emu.enroll("line", group=True, primary_key=group)
    derived = base64.b64encode(
        hmac.digest(base64.b64decode(group), b"reg-2", hashlib.sha256)
    ).decode()
    assert device.run(REGISTER, "reg-2", cs="", scope=SCOPE, key=derived)[0][0] == "assigned"
    out = device.run(REGISTER, "reg-3", cs="", scope=SCOPE, key=group)
    assert out[0][0] == "CredentialError" and "taproot dps-key" in out[0][1]


@pytest.mark.parametrize(
    ("facts", "kind", "part"),
    [
        ({"enabled": False}, "CredentialError", ""),
        ({"outcome": "failed"}, "ServiceError", "refused"),
        ({"outcome": "unassigned"}, "ServiceError", "refused"),
        ({"connection_profile": "mqttV5"}, "ServiceError", "mqttV5"),
        ({"connection_profile": "classic"}, "assigned", "localhost"),
        ({"connection_profile": None}, "assigned", "localhost"),
    ],
)
def test_every_final_answer_has_its_words(device, emu, facts, kind, part):
    name = "final-" + "-".join(str(v).lower() for v in facts.values())
    emu.enroll(name, primary_key=KEY, **facts)
    out = device.run(REGISTER, name, cs="", scope=SCOPE, key=KEY)
    assert out[0][0] == kind and part in out[0][1]


def test_unknown_registration_and_scope(device, emu):
    out = device.run(REGISTER, "nobody", cs="", scope=SCOPE, key=KEY)
    assert out[0][0] == "CredentialError"
    emu.enroll("scoped", primary_key=KEY)
    out = device.run(REGISTER, "scoped", cs="", scope="0ne0000FFFF", key=KEY)
    assert out[0][0] == "CredentialError"


@pytest.fixture(scope="module")
def ca():
    return Authority.root("device root", key="p256")


@pytest.mark.parametrize("kind", ["group", "individual"])
def test_x509_registration_with_intermediates(device, emu, ca, kind):
    name = "x-" + kind
    leaf = ca.intermediate("line ca", key="p256").leaf(name, key="p256", client=True)
    (device.folder / "leaf").write_text(leaf.chain_pem)
    (device.folder / "key").write_text(leaf.key_pem)
    if kind == "group":
        emu.enroll("x509-line", group=True, roots=(ca.cert,))
    else:
        emu.enroll(name, thumbprints=(leaf.sha256,))
    assert device.run(REGISTER, name, cs="", scope=SCOPE)[0][:3] == ["assigned", "localhost", name]


AGENT = """
from azure_iot import QueueFullError
from azure_iot.agent import Agent
from azure_iot.unix.platform import Platform
async def main():
    agent = Agent(Platform({
        "dps": {"id_scope": F["scope"], "registration_id": F["device_id"], "key": F["key"],
                "host": "localhost", "port": F["port"]},
        "roots": ["root.der"],
        "client": {"port": F["port"], "https_port": F["https"], "fleet_size_hint": 1}}))
    client = await agent.start()
    client.on_event = lambda name, fact: out(name, str(fact))
    number = 0
    while True:
        try:
            await client.send_message("%d" % number, wait=False)
            number += 1
        except QueueFullError:
            pass
        await asyncio.sleep_ms(50)
asyncio.run(main())
"""


def test_the_assignment_is_kept_and_asked_for_again_when_the_device_is_gone(
    tmp_path, emu, hub_root
):
    name = "kept"
    emu.enroll(name, primary_key=KEY)
    device = Device(tmp_path, emu, hub_root)
    with device.start(AGENT, name, cs="", scope=SCOPE, key=KEY) as process:
        process.wait_for('"settled"', 20)
    assert len(registrations(emu, name)) == 1
    with device.start(AGENT, name, cs="", scope=SCOPE, key=KEY) as process:
        process.wait_for('"settled"', 20)
        assert len(registrations(emu, name)) == 1, "the kept assignment is used first"
        emu.remove_device(name)
        emu.drop(name)
        process.wait_for('"connect_failed"', 20)
        process.wait_for('"settled"', 40)
    assert len(registrations(emu, name)) == 2
    numbers = [int(m.body) for m in emu.messages(name)]
    assert sorted(set(numbers)) == list(range(max(numbers) + 1)), "nothing accepted is lost"


CLOUDS = """
from azure_iot import CredentialError
from azure_iot.assignment import provisioned_client
from azure_iot.unix.platform import FileKV
class Seen(Exception):
    pass
async def seen(self):
    raise Seen(self.host, self._place[:2])
async def main():
    for place, options in F["cases"]:
        from azure_iot import provisioning  # forgotten after each use
        provisioning.ProvisioningDeviceClient.register = seen
        place = dict(place, registration_id="d", key=F["key"])
        try:
            await provisioned_client(place, None, FileKV("."), dict(options, roots=roots))
        except (Seen, CredentialError) as error:
            out(*error.args)
asyncio.run(main())
"""


def test_the_cloud_decides_which_dps_is_asked_and_websocket_which_port(device):
    socket = {"websocket": True}
    cases = [
        ({"id_scope": SCOPE}, {}, "global.azure-devices-provisioning.net", [8883, False]),
        ({"id_scope": SCOPE}, socket, "global.azure-devices-provisioning.net", [443, True]),
        (
            {"id_scope": SCOPE, "port": 444}, {**socket, "port": 443},
            "global.azure-devices-provisioning.net", [444, True],
        ),
        (
            {"id_scope": SCOPE, "cloud": "us-government"}, {},
            "global.azure-devices-provisioning.us", [8883, False],
        ),
        (
            {"id_scope": SCOPE, "cloud": "china"}, {},
            "global.azure-devices-provisioning.cn", [8883, False],
        ),
        ({"id_scope": "0cn00000001"}, {}, "global.azure-devices-provisioning.cn", [8883, False]),
        (
            {"id_scope": "0cn00000001", "host": "own.example", "cloud": "nowhere"}, {},
            "own.example", [8883, False],
        ),
    ]  # fmt: skip
    wrong = ({"id_scope": SCOPE, "cloud": "germany"}, {})
    out = device.run(CLOUDS, "clouds", cs="", key=KEY, cases=[*[c[:2] for c in cases], wrong])
    assert out[:-1] == [list(c[2:]) for c in cases]
    assert 'no cloud is called "germany"' in out[-1][0]


FULL = """
from azure_iot.assignment import provisioned_client
class Full:
    def get(self, key):
        return None
    def set(self, key, value):
        raise OSError(28)
async def main():
    place = {"id_scope": F["scope"], "registration_id": F["device_id"], "key": F["key"],
             "host": "localhost", "port": F["port"]}
    client = await provisioned_client(place, None, Full(), {"roots": roots, "port": F["port"]})
    async with client:
        out("connected")
asyncio.run(main())
"""


def test_an_assignment_that_flash_does_not_take_is_used_all_the_same(device, emu):
    emu.enroll("full", primary_key=KEY)
    assert device.run(FULL, "full", cs="", scope=SCOPE, key=KEY) == [["connected"]]


MOVED = """
from azure_iot.assignment import provisioned_client
from azure_iot.unix.platform import FileKV
async def main():
    place = {"id_scope": F["scope"], "registration_id": F["device_id"], "key": F["key"],
             "host": "127.0.0.1", "port": F["port"]}
    client = await provisioned_client(place, None, FileKV("."),
        {"roots": roots, "port": F["port"], "https_port": F["https"], "fleet_size_hint": 1})
    await client.start()
    async for change in client.desired_properties():
        out("desired", change.patch)
asyncio.run(main())
"""


def test_the_twin_of_another_hub_counts_though_its_version_is_the_same(tmp_path, hub_root):
    leaf = hub_root.intermediate("hubs", key="p256").leaf(
        HUBS[0], dns=list(HUBS), ips=list(HUBS), key="p256"
    )
    ports = {"mqtt_port": free_port(), "https_port": free_port()}
    places = [EmulatorConfig(bind=at, host_names=[at], chain=leaf, **ports) for at in HUBS]
    with running(places[0]) as first, running(places[1]) as second:
        first.enroll("moved", primary_key=KEY, hubs=(HUBS[0],))
        for hub, name in ((first, "first"), (second, "second")):
            hub.add_device("moved", primary_key=KEY)
            hub.patch_desired("moved", {"hub": name})
        device = Device(tmp_path, first, hub_root)
        with device.start(MOVED, "moved", cs="", scope=SCOPE, key=KEY) as process:
            process.wait_for("first", 20)
            found = first.call(lambda: first.emulator.dps.registry.find("moved"))
            first.call(lambda: setattr(found, "hubs", (HUBS[1],)))
            first.set_enabled("moved", False)
            process.wait_for("second", 30)


FIRST = """
from azure_iot import assignment
from azure_iot.unix.platform import FileKV
assignment.randbelow = lambda limit: 0
async def main():
    place = {"id_scope": F["scope"], "registration_id": F["device_id"], "key": F["key"],
             "host": "localhost", "port": F["port"]}
    client = await assignment.provisioned_client(place, None, FileKV("."),
        {"roots": roots, "port": F["port"]})
    async with client:
        out("connected")
asyncio.run(main())
"""


def test_a_stranger_in_the_place_of_dps_does_not_end_the_first_start(tmp_path, hub_leaf, hub_root):
    stranger = Authority.root("portal", key="p256").leaf(
        "localhost", dns=["localhost"], key="p256"
    )
    with running(EmulatorConfig(chain=stranger)) as emu:
        emu.enroll("first", primary_key=KEY)
        device = Device(tmp_path, emu, hub_root)
        with device.start(FIRST, "first", cs="", scope=SCOPE, key=KEY) as process:
            process.wait_for("no assignment yet", 20)
            emu.switch_chain(hub_leaf)
            process.wait_for("connected", 20)


RENAMED = """
nap = asyncio.sleep_ms
asyncio.sleep_ms = lambda ms: nap(min(ms, 20))
from azure_iot.agent import Agent
from azure_iot.unix.platform import FileKV, Platform
class Full(FileKV):
    def set(self, key, value):
        raise OSError(28)
async def app(client):
    out("client", client.identity.device_id)
    while not client.connected.is_set() and not F["full"]:
        await nap(20)
    await nap(F["stay"] * 1000)
    out("stayed")
platform = Platform({"dps": {"id_scope": F["scope"], "registration_id": F["device_id"],
    "key": F["key"], "host": "localhost", "port": F["port"]}, "roots": ["root.der"],
    "client": {"port": F["port"], "https_port": F["https"], "fleet_size_hint": 1}})
if platform.kv.get("assignment") is None:
    platform.kv.set("assignment", json.dumps({"scope": F["scope"], "hub": "localhost",
        "registration": F["device_id"], "device": F["device_id"]}))
if F["full"]:
    platform.kv = Full(".")
asyncio.run(Agent(platform).run(app))
"""


@pytest.mark.parametrize("full", [False, True], ids=["kept", "not-kept"])
def test_a_device_that_dps_gives_another_name_starts_anew_once(device, emu, full):
    """Not where the new name could not be kept: the next start would come to the same."""
    name = "renamed-%d" % full
    emu.enroll(name, primary_key=KEY, device_id=name + "-b")
    facts = {"scope": SCOPE, "key": KEY, "full": full}
    with device.start(RENAMED, name, cs="", stay=15, limit=50, **facts) as process:
        assert process.wait(45) == (0 if full else 3), process.text
    assert "DPS now calls this device" in process.text
    assert ("starting anew" in process.text) != full
    if not full:
        out = device.run(RENAMED, name, cs="", stay=10, limit=40, **facts)
        assert out == [["client", name + "-b"], ["stayed"]]


LOOK_MS = 2500  # between two looks of the MQTT connection at its deadlines, no pause of DPS

THROTTLED = """
from azure_iot.backoff import Backoff
from azure_iot.assignment import provisioned_client
from azure_iot.unix.platform import FileKV
nap, waits, windows = asyncio.sleep_ms, [], []
def sleep_ms(ms):
    if ms >= 1000:
        waits.append(ms)
    return nap(min(ms, 20))
asyncio.sleep_ms = sleep_ms
make = Backoff.__init__
def noted(self, *args, window_ms=0):
    windows.append(window_ms)
    make(self, *args, window_ms=window_ms)
Backoff.__init__ = noted
async def main():
    place = {"id_scope": F["scope"], "registration_id": F["device_id"], "key": F["key"],
        "host": "localhost", "port": F["port"]}
    options = {"roots": roots, "port": F["port"]}
    if F["hint"]:
        options["fleet_size_hint"] = F["hint"]
    await provisioned_client(place, None, FileKV("."), options)
    out(waits, windows)
asyncio.run(main())
"""


@pytest.mark.parametrize(("hint", "window"), [(0, 10_000), (50_000, 500_000)])
def test_a_fleet_that_dps_throttles_comes_back_spread(device, emu, hint, window):
    """After a power cut all register at once; the service gives all of them the same seconds."""
    name = "throttled-%d" % hint
    emu.enroll(name, primary_key=KEY)
    facts = {"status": 429, "retry_after": 2, "on": "register", "count": 8}
    emu.dps_fail(name, **facts)
    ((waits, windows),) = device.run(THROTTLED, name, cs="", scope=SCOPE, key=KEY, hint=hint)
    throttled = [wait for wait in waits if wait >= 2000 and wait != LOOK_MS][:8]
    assert len(throttled) == 8 and throttled[0] < 2000 + window, waits
    assert max(throttled) < 2000 + max(window, 300_000), "ever later, within limits"
    assert max(throttled) > 2000 + window or window > 300_000, throttled
    assert max(throttled) - min(throttled) > window // 4, throttled
    assert windows == [window, window, window], "tries of a start, DPS's connection, the hub's"


IMPATIENT = """
from azure_iot import ProvisioningDeviceClient, ServiceError
nap, waits = asyncio.sleep_ms, []
def sleep_ms(ms):
    if ms >= 1000:
        waits.append(ms)
    return nap(min(ms, 5))
asyncio.sleep_ms = sleep_ms
async def main():
    dps = ProvisioningDeviceClient.from_symmetric_key("localhost", F["device_id"], F["scope"],
        F["key"], roots=roots, port=F["port"], fleet_size_hint=1)
    try:
        await dps.register()
    except ServiceError as error:
        out(str(error), error.status, error.retry_after, waits)
asyncio.run(main())
"""


@pytest.mark.parametrize(("status", "on"), [(429, "register"), (503, "query"), (202, "")])
def test_retry_after_zero_is_a_pause_and_the_last_status_is_named(device, emu, status, on):
    """Each registration is billed: sixty of them in a moment help nobody."""
    name = "zero-%d" % status
    emu.enroll(name, primary_key=KEY, retry_after=0, polls=99)
    if on:
        emu.dps_fail(name, status=status, retry_after=0, on=on, count=99)
    ((words, said, after, waits),) = device.run(IMPATIENT, name, cs="", scope=SCOPE, key=KEY)
    assert "60 requests" in words and "status is %d" % status in words
    assert [said, after] == [status, 1]
    waits = [wait for wait in waits if wait != LOOK_MS]
    assert len(waits) == 60 and min(waits) >= 1000
    assert (max(waits) > 60_000) == bool(on), "ever later, if it is no answer"


EARLY = """
nap = asyncio.sleep_ms
asyncio.sleep_ms = lambda ms: nap(min(ms, 200))
from azure_iot.agent import Agent
from azure_iot.unix.platform import Platform
from azure_iot import assignment
register, asked = assignment._register, 0
async def counted(*args):
    global asked
    asked += 1
    print("asked", asked, "times")
    return await register(*args)
assignment._register = counted
async def app(client):
    await client._mqtt.connected.wait()
    out("connected")
    await nap(60000)
asyncio.run(Agent(Platform({
    "dps": {"id_scope": F["scope"], "registration_id": F["device_id"], "key": F["key"],
            "host": "localhost", "port": F["port"]}, "roots": ["root.der"],
    "client": {"port": F["port"], "https_port": F["https"]}})).run(app))
"""


@pytest.mark.parametrize("kind", ["unknown", "unknown-connack", "disabled"])
def test_a_device_that_starts_before_it_is_enrolled_connects_once_it_is(
    tmp_path, hub_leaf, hub_root, kind
):
    with running(EmulatorConfig(chain=hub_leaf)) as emu:
        if kind == "disabled":
            emu.enroll("early", primary_key=KEY, enabled=False)
        if kind == "unknown-connack":
            emu.emulator.dps.bad_key = "connack"
        device = Device(tmp_path, emu, hub_root)
        with device.start(EARLY, "early", cs="", scope=SCOPE, key=KEY) as process:
            process.wait_for("no assignment yet", 20)
            process.wait_for("asked 4 times", 20)
            emu.enroll("early", primary_key=KEY)
            process.wait_for("connected", 20)
        assert process.text.count("no assignment yet") == 1, "once in the same words"


LEAF_OF_ANOTHER = """
from azure_iot import X509Certificate, CredentialError
from azure_iot.assignment import provisioned_client
from azure_iot.unix.platform import FileKV
async def main():
    read = lambda name: open(name, "rb").read()
    try:
        await provisioned_client({"id_scope": F["scope"], "registration_id": "mine",
            "host": "localhost", "port": F["port"]}, X509Certificate(read("leaf"), read("key")),
            FileKV("."), {"roots": roots})
    except CredentialError as error:
        out(str(error))
asyncio.run(main())
"""


def test_the_certificate_of_another_device_is_named_before_dps_is_asked(device, ca):
    leaf = ca.leaf("theirs", key="p256", client=True)
    (device.folder / "leaf").write_text(leaf.pem)
    (device.folder / "key").write_text(leaf.key_pem)
    ((words,),) = device.run(LEAF_OF_ANOTHER, "mine", cs="", scope=SCOPE, limit=8)
    assert 'is for "theirs", the device is "mine"' in words

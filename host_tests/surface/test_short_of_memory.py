"""A heap that no connection fits into any more: the agent says so and starts the device anew."""

import base64

import pytest

LEAVES = [6000] + [pytest.param(2000 + 300 * n, marks=pytest.mark.long) for n in range(24)]

PROGRAM = """
import gc, time
from azure_iot.agent import Agent
from azure_iot.backoff import Backoff
from azure_iot.deadlines import Deadlines
from azure_iot.unix.platform import Platform

async def app(client):
    while not client.connected.is_set():
        await asyncio.sleep_ms(20)
    out("up")
    hoard = []
    await client._mqtt.reconnect()
    end = time.ticks_add(time.ticks_ms(), F["seconds"] * 1000)
    while time.ticks_diff(end, time.ticks_ms()) > 0:
        # All the time: what the old connection gives back must not serve the new one.
        for size in F["sizes"]:
            try:
                while gc.mem_free() > F["leaves"]:
                    hoard.append(bytearray(size))
            except MemoryError:
                gc.collect()
        await asyncio.sleep_ms(1)
    out("still here")

# Where the shortage strikes is chance: a handshake that it leaves waiting ends at its deadline.
options = {"port": F["port"], "deadlines": Deadlines(tls_ms=1000), "mqtt": {"backoff": Backoff(20, 50, lambda n: n // 2)}}
agent = Agent(Platform({"connection_string": F["cs"], "roots": ["root.der"], "client": options}))
asyncio.run(agent.run(app))
"""


@pytest.mark.parametrize("leaves", LEAVES)
def test_a_device_without_memory_for_a_connection_starts_anew(device, leaves):
    sizes = (4096, 1024, 256, 64)
    with device.start(
        PROGRAM,
        "short-%d" % leaves,
        build="unix32",
        heap="400k",
        seconds=30,
        sizes=sizes,
        leaves=leaves,
    ) as process:
        process.wait_for('"up"', 20)
        assert process.wait(25) == 3, process.text
    # Before the handshake, in its middle, or before there was room to look.
    said = ("TLS needs", "not enough memory for TLS", "no connection: MemoryError")
    assert sum(process.text.count(words) for words in said) >= 8, process.text
    assert "starting anew: no memory for a connection, 8 times" in process.text


def test_a_device_with_memory_goes_on(device):
    with device.start(
        PROGRAM, "enough", build="unix32", heap="400k", sizes=(), leaves=0, seconds=2
    ) as process:
        assert process.wait(25) == 0, process.text
    assert "still here" in process.text and "starting anew" not in process.text


DPS = """
nap = asyncio.sleep_ms
asyncio.sleep_ms = lambda ms: nap(min(ms, 50))
from azure_iot import transport
from azure_iot.backoff import Backoff
later = Backoff.next
Backoff.next = lambda self: min(later(self), 50)
from azure_iot.agent import Agent
from azure_iot.unix.platform import Platform
real, tries = transport.open_tls, []
async def open_tls(host, port, context, *, deadlines=None):
    if port == F["port"] and len(tries) < F["short"]:  # of DPS: the hub's link has the real one
        tries.append(1)
        raise MemoryError
    return await real(host, port, context, deadlines=deadlines)
transport.open_tls = open_tls
async def app(client):
    client.on_event = lambda name, fact: out(name, str(fact))
    await client._mqtt.connected.wait()
    out("up", len(tries))
platform = Platform({"dps": {"id_scope": "0ne00000001", "registration_id": F["device_id"],
    "key": F["key"], "host": "localhost", "port": F["port"]}, "roots": ["root.der"],
    "client": {"port": F["port"], "https_port": F["https"]}})
if F["kept"]:
    platform.kv.set("assignment", json.dumps({"scope": "0ne00000001", "hub": "localhost",
        "registration": F["device_id"], "device": F["device_id"]}))
asyncio.run(Agent(platform).run(app))
"""
KEY = base64.b64encode(b"k" * 32).decode()


@pytest.mark.parametrize("kept", [False, True], ids=["first", "again"])
@pytest.mark.parametrize("short", [999, 3])
def test_a_device_without_memory_for_dps_starts_anew_too(device, emu, kept, short):
    name = "dps-short-%d-%d" % (kept, short)
    emu.enroll(name, primary_key=KEY)
    with device.start(DPS, name, cs="", key=KEY, kept=kept, short=short, limit=50) as process:
        status = process.wait(45)
    text = "starting anew: no memory for a connection, 8 times"
    assert (status, text in process.text) == ((3, True) if short > 8 else (0, False)), process.text


STRAY = """
nap, limited = asyncio.sleep_ms, asyncio.wait_for_ms
asyncio.sleep_ms = lambda ms: nap(min(ms, 100))
from azure_iot.agent import Agent
from azure_iot.deadlines import Deadlines
from azure_iot.unix.platform import Platform
strays = []
async def stray():
    raise asyncio.CancelledError
async def wait_for_ms(work, ms):
    if ms == 30000 and len(strays) < F["strays"]:  # DPS's answer
        strays.append(1)
        return await limited(stray(), ms)
    return await limited(work, ms)
asyncio.wait_for_ms = wait_for_ms
platform = Platform({"dps": {"id_scope": "0ne00000001", "registration_id": F["device_id"],
    "key": F["key"], "host": "localhost", "port": F["port"]}, "roots": ["root.der"],
    "client": {"port": F["port"], "https_port": F["https"], "deadlines": Deadlines(tls_ms=20000)}})
agent = Agent(platform)
async def app(client):
    await client._mqtt.connected.wait()
    out("up", len(strays))
async def cancelled():
    task = asyncio.create_task(agent.start())
    await nap(F["after"])
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        out("cancelled", len(strays) > 0)
asyncio.run(cancelled() if F["after"] else agent.run(app))
"""


def test_a_cancellation_that_nobody_asked_for_is_a_failed_try_at_dps(device, emu):
    emu.enroll("dps-stray", primary_key=KEY)
    out = device.run(STRAY, "dps-stray", cs="", key=KEY, strays=2, after=0, limit=40)
    assert out == [["up", 2]]


@pytest.mark.parametrize("strays", [0, 999])
def test_a_start_that_waits_for_dps_can_be_cancelled(device, emu, strays):
    """While DPS keeps silent about the assignment, and between tries."""
    name = "dps-cancelled-%d" % strays
    emu.enroll(name, primary_key=KEY, polls=9999)
    out = device.run(STRAY, name, cs="", key=KEY, strays=strays, after=1500, limit=40)
    assert out == [["cancelled", strays > 0]]

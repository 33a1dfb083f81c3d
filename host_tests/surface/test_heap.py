"""What the client costs in heap on a 32-bit device, module by module, and what a blackout keeps."""

import json

from taproot import interpreters

IMPORTS = """
import gc, sys, json
import asyncio, tls, hashlib, binascii, struct
gc.collect()
last = gc.mem_alloc()
found = []
for name in NAMES:
    __import__("azure_iot." + name)
    gc.collect()
    now = gc.mem_alloc()
    found.append((name, now - last))
    last = now
print(json.dumps(found))
"""
CORE = (
    "errors log clock deadlines backoff inbox bag sas identity hub transport tls.context link guard "
    "timekeeper mqtt.session mqtt.client core managed client twin methods report"
).split()
TRUST = "trust.store trust.update trust.manager trust.factory agent unix.platform upkeep".split()
REST = "https updater c2d provisioning x509 websocket upload module pnp".split()


def test_heap_after_import_per_module_on_32_bit(record_property):
    names = CORE + TRUST + REST
    result = interpreters.run(
        "unix32", "NAMES = %r\n%s" % (names, IMPORTS), heap="400k", frozen=True
    )
    assert result.returncode == 0, result.text
    found = dict(json.loads(result.stdout))
    for name, size in found.items():
        record_property("heap " + name, size)
        # A module counts what it is the first to load.
        assert size <= 8500, (name, size)
    assert sum(found[name] for name in CORE) <= 34_000, found
    assert sum(found.values()) <= 60_000, found


CONNECTED = """
import gc, sys
from azure_iot.agent import Agent
from azure_iot.unix.platform import Platform
async def main():
    agent = Agent(Platform({"connection_string": F["cs"], "roots": ["root.der"],
                            "client": {"port": F["port"], "https_port": F["https"]}}))
    client = await agent.start()
    settled = asyncio.Event()
    client.on_event = lambda name, fact: settled.set() if name == "settled" else None
    await settled.wait()
    await client.get_twin()
    client.on_method("reboot", None)
    await asyncio.sleep_ms(500)
    gc.collect()
    out("heap", gc.mem_alloc())
    out("modules", sorted([name[10:] for name in sys.modules if name.startswith("azure_iot.")]))
    await agent.stop()
asyncio.run(main())
"""


def test_heap_after_connect_per_module_on_32_bit(device, record_property):
    """What stays loaded beside a connection with twin and methods, and what each of it costs."""
    found = dict(
        device.run(
            CONNECTED, "heap-32", build="unix32-board", heap="400k", frozen=True, level="ERROR"
        )
    )
    modules = [name for name in found["modules"] if name != "trust"]
    result = interpreters.run(
        "unix32-board", "NAMES = %r\n%s" % (modules, IMPORTS), heap="400k", frozen=True
    )
    assert result.returncode == 0, result.text
    costs = dict(json.loads(result.stdout))
    for name, size in costs.items():
        record_property("heap connected " + name, size)
    record_property("heap connected, modules", sum(costs.values()))
    record_property("heap connected, all of it", found["heap"])
    for seldom in ("bringup", "arrivals", "tls.verdict", "tls.planner", "trust.jws", "x509"):
        assert seldom not in modules, modules
    assert sum(costs.values()) <= 32_000, costs
    assert found["heap"] <= 72_000, found


BLACKOUT = """
from azure_iot import IoTHubDeviceClient, QueueFullError
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    await client.connect(20)
    out("up")
    while client.connected.is_set():
        await asyncio.sleep_ms(10)
    kept, refused = [], 0
    for n in range(500):
        try:
            await client.send_message("%d" % n, wait=False)
            kept.append(n)
        except QueueFullError:
            refused += 1
    out("kept", len(kept), refused)
    while client.stats["pending"]:
        await asyncio.sleep_ms(20)
    await client.disconnect()
asyncio.run(main())
"""


def test_a_blackout_keeps_64_messages_and_counts_the_rest(device, emu):
    with device.start(BLACKOUT, "black") as process:
        process.wait_for('"up"', 20)
        emu.fault({"action": "blackout", "seconds": 2.0})
        process.wait_for('"kept", 64, 436', 20)
        assert process.wait(40) == 0, process.text
    assert [int(m.body) for m in emu.messages("black")] == list(range(64))

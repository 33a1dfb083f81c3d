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

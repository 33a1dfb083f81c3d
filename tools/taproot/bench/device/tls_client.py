# Runs on MicroPython: a whole client once: connect, twin, 60 KB of telemetry. Ends with exit status 1
# at the first failure, for want of heap or anything else. Facts come from asked.json in its folder.
import asyncio
import gc
import json
import sys

gc.threshold(8192)  # as azure_iot.agent does: what lives long stays together

# ruff: noqa: E402
import tlsopt
from azure_iot.client import IoTHubDeviceClient
from azure_iot.trust.manager import TrustManager
from azure_iot.trust.store import Store

gc.collect()
loaded = gc.mem_alloc()
with open("asked.json") as file:
    asked = json.load(file)


def factory():
    from azure_iot.trust.factory import Factory

    return Factory.from_folder("factory")


def event(name, fact):
    if name in ("connect_failed", "disconnected"):
        print("FAILED", name, fact)
        sys.exit(1)


async def main():
    from azure_iot import clock

    now = clock.default()
    manager = TrustManager(Store("trust", factory()), now)
    if asked["install"]:
        from azure_iot.trust.files import FileSource

        manager.install(FileSource("package"), "inbox")
    client = IoTHubDeviceClient.from_connection_string(
        asked["cs"], trust=manager, clock=now, port=asked["port"], mqtt=asked["mqtt"]
    )
    client.on_event = event
    await client.connect(asked["limit_s"])
    trust = client.trust.report()
    await client.get_twin()
    for _ in range(asked["messages"]):
        await client.send_message(b"m" * asked["size"])
    gc.collect()
    held, peak, block, _ = tlsopt.mem()
    print("RESULT", json.dumps({
        "loaded": loaded, "connected": gc.mem_alloc(), "tls_peak": peak, "tls_held": held,
        "tls_block": block, "bundle": trust["version"], "state": trust["state"],
        "source": trust["source"],
    }))  # fmt: skip
    await client.disconnect()


asyncio.run(main())

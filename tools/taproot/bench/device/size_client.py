# Runs on MicroPython: a client that does one job after the other. Which modules each job loads, what
# the whole program holds on the heap after it, and what each of the modules holds once imported.
import asyncio
import gc
import json
import sys

import tlsopt

_ = (asyncio.Event, asyncio.Lock, asyncio.wait_for)  # parts of asyncio load when they are named
jobs = {}  # module -> the first job that loaded it
held = {}  # job -> [bytes of the whole program after it, of that TLS]
job = "import"


def used():
    gc.collect()
    return gc.mem_alloc()


def note(*names):
    for name in names:
        if name.startswith("azure_iot") and name not in jobs:
            jobs[name] = job


def done(then):
    """End this job, begin the next."""
    global job
    held[job] = [used() - before, tlsopt.mem()[0]]
    note(*sys.modules)
    job = then


def modules(names):
    """Import one after the other, each after those that it imports itself."""
    own = {}
    for name in names:
        start = used()
        __import__(name)
        own[name] = used() - start
        came = [name for name in sys.modules if name.startswith("azure_iot") and name not in own]
        if came:
            raise AssertionError("%s came with %s" % (came, name))
        start = used()
    return own


async def ping(payload):
    called.set()
    return 200, payload


async def main():
    from azure_iot import transient

    forget = transient.forget

    def noted(*names):
        note(*[name for name in names if name in sys.modules])
        forget(*names)

    transient.forget = noted
    from azure_iot.client import IoTHubDeviceClient
    from azure_iot.trust.manager import TrustManager
    from azure_iot.trust.store import Store

    done("connect")
    from azure_iot import clock
    from azure_iot.trust.factory import Factory

    now = clock.default()
    client = IoTHubDeviceClient.from_connection_string(
        asked["cs"], trust=TrustManager(Store("trust", Factory.from_folder("factory")), now),
        clock=now, port=asked["port"], https_port=asked["https_port"], mqtt=asked["mqtt"],
    )  # fmt: skip
    await client.connect(asked["limit_s"])
    done("telemetry")
    from azure_iot import Message

    await client.send_message(Message(b"m" * 100, properties={"a": "b"}))
    done("twin")
    await client.patch_twin_reported_properties({"a": 1})
    await client.get_twin()
    done("method")
    client.on_method("ping", ping)
    print("READY method")
    await asyncio.wait_for(called.wait(), asked["limit_s"])
    done("trust")
    print("READY trust")
    report = client.trust.report()
    while (report["version"], report["state"]) != (2, "good"):
        await asyncio.sleep_ms(50)
        report = client.trust.report()
    await client.connected.wait()
    while client._settling is not None:  # what that loads is not this job's
        await asyncio.sleep_ms(20)
    done("")
    kept = [name for name in jobs if name in sys.modules]
    print("RESULT", json.dumps({"jobs": jobs, "kept": kept, "held": held}))
    await client.disconnect()


with open("asked.json") as file:
    asked = json.load(file)
if "modules" in asked:
    print("RESULT", json.dumps(modules(asked["modules"])))
else:
    called = asyncio.Event()
    before = used()
    asyncio.run(main())

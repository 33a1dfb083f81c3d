"""main.py of the emulated board in a root migration: the agent, and numbered messages all the time.

Prints one JSON list per event, `OUT ["event", fact, …]`.
"""

import asyncio
import gc
import json

import tlsopt
from azure_iot.agent import Agent
from azure_iot.errors import QueueFullError
from board_platform import Platform


def out(*facts):
    """Say what happened."""
    print("OUT", json.dumps(facts))


def heap():
    """Say how full the heap is, and what TLS took of it at most."""
    gc.collect()
    _, tls_peak, largest, _ = tlsopt.mem()
    out("heap", gc.mem_alloc(), gc.mem_free(), tls_peak, largest)


async def telemetry(client):
    """Send numbers; each counts as accepted when the queue took it."""
    number = 0
    while True:
        try:
            await client.send_message(b"%d" % number, wait=False)
            out("accepted", number)
            number += 1
        except QueueFullError:
            pass  # the same number again
        if number % 10 == 0:
            heap()
        await asyncio.sleep_ms(250)


async def main():
    """Connect, read the twin, send until the power goes."""
    agent = Agent(Platform("device.json"))
    client = await agent.start()
    client.on_event = lambda name, fact: out(name, str(fact), getattr(fact, "code", None))
    twin = await client.get_twin()
    out("twin", twin["desired"].get("interval"))
    await telemetry(client)


asyncio.run(main())

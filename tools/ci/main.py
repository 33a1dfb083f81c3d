"""A small device: reports what it is, sends its temperature, obeys the desired interval."""

import asyncio

from azure_iot.agent import Agent
from azure_iot.unix.platform import Platform

FIRMWARE = "1.2.0"


async def app(client):
    await client.patch_twin_reported_properties({"firmware": FIRMWARE})
    interval_s = 60
    twin = await client.get_twin()
    interval_s = twin["desired"].get("interval_s", interval_s)
    while True:
        await client.send_message({"temperature": 21.5}, properties={"kind": "climate"})
        print("sent")
        await asyncio.sleep(interval_s)


asyncio.run(Agent(Platform("device.json")).run(app))

# A device whose trusted roots follow the operator: the agent brings everything up.
# Deploy with "taproot device deploy": it lays out the factory trust of your fleet.
import asyncio

from azure_iot.agent import Agent
from azure_iot.unix.platform import Platform  # on a board: azure_iot.esp32.platform


async def app(client):
    await client.connected.wait()
    print("trust:", client.trust.report()["state"])
    await client.send_message({"hello": 1})


asyncio.run(Agent(Platform("device.json")).run(app))

import asyncio

from azure_iot.agent import Agent
from azure_iot.esp32.platform import Platform


async def app(client):
    while True:
        await client.send_message({"temperature": 21.5})
        await asyncio.sleep(60)


asyncio.run(Agent(Platform("device.json")).run(app))

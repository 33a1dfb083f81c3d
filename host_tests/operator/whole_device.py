"""A whole device for operator tests: MicroPython with the agent, until its stdin closes."""

import asyncio
import sys

from azure_iot import log
from azure_iot.agent import Agent
from azure_iot.unix.platform import Platform


async def main():
    """Connect and stay connected."""
    agent = Agent(Platform("device.json"))
    await agent.start()
    print("started")
    reader = asyncio.StreamReader(sys.stdin)
    while await reader.readline():
        pass
    await agent.stop()


log.set_level(log.INFO)
log.set_sink(lambda text: print(text, file=sys.stderr))
asyncio.run(main())

# Public, US Government, China: the hub's name says which cloud it is in and which DPS serves it;
# any name and host can be given instead. The roots of each cloud are in certs/.
import asyncio
import secrets

from azure_iot import IoTHubDeviceClient
from azure_iot.hub import cloud

for suffix in ("net", "us", "cn"):
    print("azure-devices." + suffix, *cloud("myhub.azure-devices." + suffix))


async def main():
    client = IoTHubDeviceClient.from_symmetric_key(
        secrets.DEVICE_KEY, secrets.HOST, secrets.DEVICE_ID, **secrets.options()
    )
    async with client:
        await client.send_message({"cloud": cloud(secrets.HOST)[0]})


asyncio.run(main())

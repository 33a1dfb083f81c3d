# A last will: the hub records it as telemetry when this device vanishes without DISCONNECT.
import asyncio
import secrets

from azure_iot import IoTHubDeviceClient, Message


async def main():
    client = IoTHubDeviceClient.from_connection_string(
        secrets.CONNECTION_STRING,
        will=Message(b"gone", {"why": "no word"}),
        **secrets.options(),
    )
    await client.connect(60)
    await client.send_message("here")
    print("cut my power now: the hub records the will")
    await asyncio.sleep(3600)
    await client.disconnect()  # says DISCONNECT: no will


asyncio.run(main())

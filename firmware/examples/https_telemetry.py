# Telemetry by POST, for devices that wake, send one message and sleep: no MQTT session at all.
import asyncio
import secrets

from azure_iot import IoTHubDeviceClient
from azure_iot.upload import Uploader


async def main():
    client = IoTHubDeviceClient.from_connection_string(
        secrets.CONNECTION_STRING, https_port=secrets.HTTPS_PORT, **secrets.options()
    )
    await Uploader(client).send_message({"temperature": 21.5}, {"alert": "no"})
    print("delivered")


asyncio.run(main())

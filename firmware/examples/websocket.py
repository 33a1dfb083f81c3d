# Port 8883 blocked? The same client over WebSocket on 443.
import asyncio
import secrets

from azure_iot import IoTHubDeviceClient


async def main():
    options = secrets.options()
    options["port"] = secrets.HTTPS_PORT  # 443
    client = IoTHubDeviceClient.from_connection_string(
        secrets.CONNECTION_STRING, websocket=True, **options
    )
    async with client:
        await client.send_message({"way": "websocket"})


asyncio.run(main())

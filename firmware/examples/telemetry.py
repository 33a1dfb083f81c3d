# Send telemetry: JSON, properties, and messages accepted while there is no connection.
import asyncio
import secrets

from azure_iot import IoTHubDeviceClient, Message


async def main():
    client = IoTHubDeviceClient.from_connection_string(
        secrets.CONNECTION_STRING, **secrets.options()
    )
    async with client:
        await client.send_message({"temperature": 21.5}, {"alert": "no"})
        await client.send_message(Message("plain text", message_id="1", content_type="text/plain"))
        for number in range(10):
            # Accepted at once; sent and acknowledged while the loop goes on.
            await client.send_message({"n": number}, wait=False)
        print("connection:", client.tls["version"], client.tls["suite"], client.stats)


asyncio.run(main())

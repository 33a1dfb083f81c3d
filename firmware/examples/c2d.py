# Cloud-to-device messages: the hub forgets a message only after this program has handled it.
import asyncio
import secrets

from azure_iot import IoTHubDeviceClient


async def main():
    client = IoTHubDeviceClient.from_connection_string(
        secrets.CONNECTION_STRING, **secrets.options()
    )
    async with client:
        messages = client.c2d_messages()
        print("waiting for messages")
        async for message in messages:
            print("message", message.data, message.properties, message.message_id)
            if message.data == b"stop":
                break
        messages.accept()  # the last one too
        await asyncio.sleep(1)


asyncio.run(main())

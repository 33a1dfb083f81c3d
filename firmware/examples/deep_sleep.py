# Wake, send, confirm, sleep. DISCONNECT keeps the will unsent; CleanSession 0 keeps the session,
# so what the cloud sent meanwhile comes with the next wake.
import asyncio
import secrets

from azure_iot import IoTHubDeviceClient

try:
    from machine import deepsleep
except ImportError:  # not on a board: just end

    def deepsleep(ms):
        print("would sleep", ms, "ms")


async def main():
    client = IoTHubDeviceClient.from_connection_string(
        secrets.CONNECTION_STRING, **secrets.options()
    )
    messages = client.c2d_messages()
    async with client:
        await client.send_message({"awake": True})  # returns when the hub has acknowledged it
        try:
            message = await asyncio.wait_for(messages.__anext__(), 2)
            print("message", message.data)
            messages.accept()
            await asyncio.sleep_ms(200)
        except asyncio.TimeoutError:
            print("no message")


asyncio.run(main())
deepsleep(60000)

# Wake, send, confirm, sleep. DISCONNECT keeps the will unsent; CleanSession 0 keeps the session,
# so what the cloud sent meanwhile comes with the next wake. RTC memory keeps the TLS session: the
# handshake after a wake is a short one.
import asyncio
import secrets

from azure_iot import IoTHubDeviceClient
from azure_iot.clock import default
from azure_iot.tls.sessions import Sessions

try:
    from azure_iot.esp32.rtc import RTCStore
    from machine import deepsleep

    memory = RTCStore()
except ImportError:  # not on a board: a file stands for RTC memory, and it just ends
    from azure_iot.unix.platform import FileKV

    memory = FileKV(".")

    def deepsleep(ms):
        print("would sleep", ms, "ms")


async def main():
    client = IoTHubDeviceClient.from_connection_string(
        secrets.CONNECTION_STRING,
        # The key that protects the session is a secret of this device.
        sessions=Sessions(default(), kv=memory, mac_key=secrets.CONNECTION_STRING.encode()),
        **secrets.options(),
    )
    messages = client.c2d_messages()
    async with client:
        print("resumed" if client.tls.get("resumed") else "full handshake")
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

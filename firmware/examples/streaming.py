# Streams: a file as telemetry, and a large message into a file, neither of them ever in memory.
import asyncio
import os
import secrets

from azure_iot import IoTHubDeviceClient

NAME = "log.txt"


class ToFile:
    def __init__(self, path):
        self.path = path
        self.file = open(path, "wb")
        self.write = self.file.write
        self.close = self.file.close

    def abort(self):  # the connection ended in the middle: the message comes again
        self.file.close()
        os.remove(self.path)


async def main():
    client = IoTHubDeviceClient.from_connection_string(
        secrets.CONNECTION_STRING, **secrets.options()
    )
    done = asyncio.Event()

    async def received(message):
        print("received", message.data.path, os.stat(message.data.path)[6], message.properties)
        done.set()

    client.on_c2d(received, sink=lambda message, size: ToFile("received.bin"))
    async with client:
        await client.send_message(lambda: open(NAME, "rb"), {"file": NAME}, size=os.stat(NAME)[6])
        print("sent", NAME)
        await done.wait()


with open(NAME, "w") as file:
    for number in range(2000):
        file.write("line %d\n" % number)
asyncio.run(main())

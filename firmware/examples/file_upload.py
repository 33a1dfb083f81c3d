# Upload a file in blocks; a block that fails is sent again, the file is never held in memory.
import asyncio
import os
import secrets

from azure_iot import IoTHubDeviceClient
from azure_iot.upload import Uploader


class FileSource:
    def __init__(self, path):
        self.size = os.stat(path)[6]
        self._file = open(path, "rb")
        self.readinto = self._file.readinto


async def main():
    client = IoTHubDeviceClient.from_connection_string(
        secrets.CONNECTION_STRING, https_port=secrets.HTTPS_PORT, **secrets.options()
    )
    async with client:
        print("uploaded", await Uploader(client).upload("log.txt", FileSource("log.txt")))


asyncio.run(main())

# A kept assignment: DPS is asked at the first start, and again when the hub refuses the device or
# stays away; the client then follows to the new hub by itself.
import asyncio
import secrets

from azure_iot.assignment import provisioned_client
from azure_iot.unix.platform import FileKV  # on a board: azure_iot.esp32.nvs.NVSStore


async def main():
    place = {
        "host": secrets.DPS_HOST, "port": secrets.PORT, "id_scope": secrets.ID_SCOPE,
        "registration_id": secrets.REGISTRATION_ID, "key": secrets.DEVICE_KEY,
    }  # fmt: skip
    options = secrets.options()
    options["https_port"] = secrets.HTTPS_PORT
    client = await provisioned_client(place, None, FileKV("."), options)
    hub = client.identity.host
    moved = asyncio.Event()
    client.on_event = lambda name, fact: client.identity.host != hub and moved.set()
    async with client:
        print("connected to", hub)
        await moved.wait()
        await client.send_message({"moved to": client.identity.host})
        print("moved to", client.identity.host)


asyncio.run(main())

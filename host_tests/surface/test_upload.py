"""File upload in blocks, and telemetry by POST, over verified HTTPS."""

UPLOAD = """
import os
from azure_iot import IoTHubDeviceClient
from azure_iot.upload import Uploader
async def main():
    client = IoTHubDeviceClient.from_connection_string(
        F["cs"], roots=roots, port=F["port"], https_port=F["https"])
    data = bytes([n % 251 for n in range(F["size"])])
    uploader = Uploader(client)
    async with client:
        name = await uploader.upload("logs/a b.bin", data)
        out(name, uploader.retries)
        await client.send_message("mqtt still works")
    await uploader.send_message({"t": 1}, {"alert": "no"})
asyncio.run(main())
"""


def test_upload_in_blocks_and_telemetry_by_post(device, emu):
    out = device.run(UPLOAD, "up", size=20000)
    assert out == [["up/logs/a b.bin", 0]]
    blobs = emu.emulator.front.blobs.blobs
    assert [bytes(b.body) for b in blobs.values()] == [bytes(n % 251 for n in range(20000))]
    bodies = [m.body for m in emu.messages("up")]
    assert bodies[0] == b"mqtt still works" and bodies[1] in (b'{"t": 1}', b'{"t":1}')
    assert emu.messages("up")[1].properties == {"alert": "no"}

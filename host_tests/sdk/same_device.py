"""The script of `test_same_events.py` for our device client; runs on unix MicroPython."""

import asyncio
import binascii
import json
import sys

from azure_iot.client import IoTHubDeviceClient
from azure_iot.hub import Message

with open(sys.argv[1]) as file:
    JOB = json.load(file)


async def main():
    client = IoTHubDeviceClient.from_connection_string(
        JOB["connection_string"],
        roots=[binascii.a2b_base64(JOB["root_der"])],
        port=JOB["mqtt_port"],
        keepalive_s=60,
        https_port=1,  # nobody there: what the device would report about its clock is not compared
    )
    got = {}
    done = asyncio.Event()

    def keep(name, value):
        got[name] = value
        if len(got) == 3:
            done.set()

    async def method(payload):
        keep("method", "go")
        return 201, {"got": payload}

    async def message(found):
        keep("message", [bytes(found.data).decode(), dict(found.properties)])

    async def desired():
        async for change in client.desired_properties():
            if not change.complete:
                keep("desired", change.patch)

    client.on_method("go", method)
    client.on_c2d(message)
    task = asyncio.create_task(desired())
    await client.connect()
    first = Message(
        '{"n": 1}',
        {"a": "b c&d=e"},
        message_id="m-1",
        content_type="application/json",
        content_encoding="utf-8",
    )
    await client.send_message(first)
    await client.get_twin()
    await client.patch_twin_reported_properties({"x": 1, "gone": None, "deep": {"y": [1, 2]}})
    await asyncio.wait_for(done.wait(), 20)
    await client.send_message("bye")
    await client.disconnect()
    task.cancel()
    print(json.dumps(got))


asyncio.run(main())

"""The script of `test_same_events.py` for azure-iot-device; runs in the SDK's own venv."""

import asyncio
import json
import logging
import socket
import sys

from azure.iot.device import Message, MethodResponse
from azure.iot.device.aio import IoTHubDeviceClient

JOB = json.load(sys.stdin)
RESOLVE = socket.getaddrinfo
socket.getaddrinfo = lambda host, port, *a, **k: RESOLVE(
    host, JOB["mqtt_port"] if port == 8883 else port, *a, **k
)
logging.disable(logging.CRITICAL)


async def main() -> None:
    client = IoTHubDeviceClient.create_from_connection_string(
        JOB["connection_string"], server_verification_cert=JOB["root_pem"], keep_alive=60
    )
    got = {}
    done, loop = asyncio.Event(), asyncio.get_running_loop()

    def keep(name, value):
        got[name] = value
        if len(got) == 3:
            loop.call_soon_threadsafe(done.set)  # handlers run in a loop of the SDK's own

    async def method(request):
        await client.send_method_response(
            MethodResponse(request.request_id, 201, {"got": request.payload})
        )
        keep("method", request.name)

    async def message(found):
        keep("message", [found.data.decode(), dict(found.custom_properties)])

    async def desired(patch):
        keep("desired", {k: v for k, v in patch.items() if k != "$version"})

    await client.connect()
    first = Message('{"n": 1}', message_id="m-1")
    first.content_type, first.content_encoding = "application/json", "utf-8"
    first.custom_properties["a"] = "b c&d=e"
    await client.send_message(first)
    await client.get_twin()
    await client.patch_twin_reported_properties({"x": 1, "gone": None, "deep": {"y": [1, 2]}})
    client.on_method_request_received = method
    client.on_message_received = message
    client.on_twin_desired_properties_patch_received = desired
    await asyncio.wait_for(done.wait(), 20)
    await client.send_message("bye")
    await client.shutdown()
    print(json.dumps(got, sort_keys=True))


asyncio.run(main())

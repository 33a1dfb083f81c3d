# Direct methods: handlers by name, and a queue for all others.
import asyncio
import secrets

from azure_iot import IoTHubDeviceClient


async def blink(payload):
    print("blink", payload)
    return 200, {"blinked": payload["times"]}


async def main():
    client = IoTHubDeviceClient.from_connection_string(
        secrets.CONNECTION_STRING, **secrets.options()
    )
    client.on_method("blink", blink)
    async with client:
        print("waiting for calls")
        async for request in client.method_requests():
            print("called", request.name, request.payload)
            await request.respond(200, {"unknown": request.name})
            if request.name == "stop":
                break
        await asyncio.sleep(1)  # let the answer go out


asyncio.run(main())

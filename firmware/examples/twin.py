# The device twin: read it, report, follow desired changes.
import asyncio
import secrets

from azure_iot import IoTHubDeviceClient


async def main():
    client = IoTHubDeviceClient.from_connection_string(
        secrets.CONNECTION_STRING, **secrets.options()
    )
    async with client:
        twin = await client.get_twin()
        print("desired version", twin["desired"]["$version"])
        version = await client.patch_twin_reported_properties({"firmware": "1.2", "old": None})
        print("reported version", version)
        async for change in client.desired_properties():
            # The first change is complete; later ones are differences.
            print("desired", change.version, change.patch)
            if "interval" in change.patch:
                interval = change.patch["interval"]
                await client.patch_twin_reported_properties({"interval": interval})
                break


asyncio.run(main())

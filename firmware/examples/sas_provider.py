# The key never touches the device: a token service is asked for short-lived tokens.
import asyncio
import secrets

from azure_iot import IoTHubDeviceClient, SasProvider


async def provide(resource, expiry):
    # Ask your service here, over https.Fetcher for instance. It signs `resource` until `expiry`.
    return await secrets.token_service(resource, expiry)


async def main():
    client = IoTHubDeviceClient.from_credential(
        SasProvider(provide, deadline_s=20), secrets.HOST, secrets.DEVICE_ID, **secrets.options()
    )
    async with client:
        await client.send_message({"proof": "token service"})


asyncio.run(main())

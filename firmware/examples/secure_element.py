# The key never leaves its chip: HMAC-SHA256 is all the client asks of it.
import asyncio
import secrets

from azure_iot import IoTHubDeviceClient, SignerKey


class Chip:
    """What a driver of an ATECC608 or a TPM gives you; `sign` may be a coroutine function."""

    async def sign(self, message):
        return await secrets.chip_hmac_sha256(message)


async def main():
    client = IoTHubDeviceClient.from_credential(
        SignerKey(Chip()), secrets.HOST, secrets.DEVICE_ID, **secrets.options()
    )
    async with client:
        await client.send_message({"proof": "secure element"})


asyncio.run(main())

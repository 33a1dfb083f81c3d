# A token made elsewhere, by the caller or with the Azure CLI: it ends when its `se` says so and
# cannot be renewed here. Its printed form says until when, never the token.
import asyncio
import secrets

from azure_iot import IoTHubDeviceClient, StaticToken


async def main():
    credential = StaticToken(secrets.TOKEN)
    print(credential)
    client = IoTHubDeviceClient.from_credential(
        credential, secrets.HOST, secrets.DEVICE_ID, **secrets.options()
    )
    async with client:
        await client.send_message({"proof": "token"})
    # The same as a connection string.
    text = "HostName=%s;DeviceId=%s;SharedAccessSignature=%s"
    client = IoTHubDeviceClient.from_connection_string(
        text % (secrets.HOST, secrets.DEVICE_ID, secrets.TOKEN), **secrets.options()
    )
    async with client:
        await client.send_message({"proof": "connection string"})


asyncio.run(main())

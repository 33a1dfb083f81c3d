# A module, behind an Edge gateway if the connection string has GatewayHostName.
import asyncio
import secrets

from azure_iot import IoTHubModuleClient


async def main():
    module = IoTHubModuleClient.from_connection_string(
        secrets.MODULE_CONNECTION_STRING, **secrets.options()
    )
    async with module:
        await module.send_message_to_output({"temperature": 21.5}, "alerts")
        print("reported version", await module.patch_twin_reported_properties({"on": True}))


asyncio.run(main())

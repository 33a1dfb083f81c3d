# Plug and Play: model id, a component, and the answer to a writable property.
import asyncio
import secrets

from azure_iot import IoTHubDeviceClient, pnp


async def main():
    client = IoTHubDeviceClient.from_connection_string(
        secrets.CONNECTION_STRING,
        model_id="dtmi:com:example:TemperatureController;1",
        **secrets.options(),
    )
    async with client:
        await client.patch_twin_reported_properties(
            pnp.component("thermostat1", {"maxTempSinceLastReboot": 30})
        )
        print("waiting for a writable property")
        async for change in client.desired_properties():
            for name, value, component in pnp.writable(change):
                if component != "thermostat1":
                    continue
                answer = pnp.response(name, value, 200, change.version, component=component)
                await client.patch_twin_reported_properties(answer)
                print("accepted", name, value)
                return


asyncio.run(main())

# DPS: find out which hub is mine, then connect to it with the same key.
import asyncio
import secrets

from azure_iot import IoTHubDeviceClient, ProvisioningDeviceClient


async def main():
    options = secrets.options()
    place = {name: options[name] for name in ("roots", "trust", "port") if name in options}
    dps = ProvisioningDeviceClient.from_symmetric_key(
        secrets.DPS_HOST, secrets.REGISTRATION_ID, secrets.ID_SCOPE, secrets.DEVICE_KEY, **place
    )
    dps.provisioning_payload = {"modelId": "dtmi:com:example:Thermostat;1"}
    found = await dps.register()
    print("assigned to", found.hub, "as", found.device_id, "payload", found.payload)
    client = IoTHubDeviceClient.from_symmetric_key(
        secrets.DEVICE_KEY, found.hub, found.device_id, **options
    )
    async with client:
        await client.send_message({"hello": found.device_id})


asyncio.run(main())

# DPS with a certificate, of an individual enrollment or of a group whose CA signed it; the same
# certificate then opens the assigned hub.
import asyncio
import secrets

from azure_iot import IoTHubDeviceClient, ProvisioningDeviceClient, X509Certificate


def read(path):
    with open(path, "rb") as file:
        return file.read()


async def main():
    certificate = X509Certificate(read("device.pem"), read("device.key"))
    options = secrets.options()
    dps = ProvisioningDeviceClient.from_x509(
        secrets.DPS_HOST, certificate.common_name, secrets.ID_SCOPE, certificate, **options
    )
    found = await dps.register()
    print("assigned to", found.hub, "as", found.device_id)
    client = IoTHubDeviceClient.from_x509(certificate, found.hub, found.device_id, **options)
    async with client:
        await client.send_message({"hello": found.device_id})


asyncio.run(main())

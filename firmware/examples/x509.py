# X.509: certificate chain and key in PEM or DER; they are checked before anything connects.
import asyncio
import secrets

from azure_iot import IoTHubDeviceClient, X509Certificate


def read(path):
    with open(path, "rb") as file:
        return file.read()


async def main():
    certificate = X509Certificate(read("device.pem"), read("device.key"))
    print(certificate)
    client = IoTHubDeviceClient.from_x509(
        certificate, secrets.HOST, certificate.common_name, **secrets.options()
    )
    async with client:
        await client.send_message({"proof": "certificate"})


asyncio.run(main())

# X.509: certificate chain and key in PEM or DER; they are checked before anything connects.
import asyncio
import secrets

from azure_iot import IoTHubDeviceClient, X509Certificate


async def main():
    with open("device.pem", "rb") as cert, open("device.key", "rb") as key:
        certificate = X509Certificate(cert.read(), key.read())
    print(certificate)
    client = IoTHubDeviceClient.from_x509(
        certificate, secrets.HOST, certificate.common_name, **secrets.options()
    )
    async with client:
        await client.send_message({"proof": "certificate"})


asyncio.run(main())

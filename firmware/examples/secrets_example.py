# Copy to secrets.py (never committed) and fill in what your examples use.

# The device's own: az iot hub device-identity connection-string show -d DEVICE -n HUB
CONNECTION_STRING = "HostName=myhub.azure-devices.net;DeviceId=mydevice;SharedAccessKey=…"
HOST = "myhub.azure-devices.net"  # the hub, for credentials that are no connection string
DEVICE_ID = "mydevice"
DEVICE_KEY = "…"  # base64; for DPS the derived one: taproot dps-key --registration-id mydevice
# A token made elsewhere: az iot hub generate-sas-token -d DEVICE -n HUB
TOKEN = "SharedAccessSignature sr=…&sig=…&se=…"
# The module's own: az iot hub module-identity connection-string show -d DEVICE -m MODULE -n HUB
MODULE_CONNECTION_STRING = (
    "HostName=myhub.azure-devices.net;DeviceId=mydevice;ModuleId=mymodule;SharedAccessKey=…"
)
ID_SCOPE = "0ne00A1B2C3"  # of the DPS instance: az iot dps show -n DPS
REGISTRATION_ID = "mydevice"  # of the enrollment; for X.509 the certificate's common name
DPS_HOST = "global.azure-devices-provisioning.net"  # clouds.py prints the other clouds' hosts
URL = "https://example.com/file"  # what fetch.py downloads
PORT = 8883  # MQTT over TLS; only an emulator has another one
HTTPS_PORT = 443  # WebSocket, file upload, telemetry by POST, the hub's Date


def options():
    """Whom to trust: fixed roots here; devices in the field use a trust store (trust_update.py)."""
    with open("root.der", "rb") as file:
        return {"roots": [file.read()], "port": PORT}


async def token_service(resource, expiry):
    """Ask your token service; this stand-in signs with DEVICE_KEY."""
    from azure_iot import SymmetricKey

    return await SymmetricKey(DEVICE_KEY).token(resource, expiry)


async def chip_hmac_sha256(message):
    """Ask your secure element; this stand-in signs with DEVICE_KEY."""
    from azure_iot import SymmetricKey

    return SymmetricKey(DEVICE_KEY).sign(message)

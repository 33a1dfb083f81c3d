# Copy to secrets.py (never committed) and fill in. The examples import what is here.
#
# CONNECTION_STRING: the device's own, from
#   az iot hub device-identity connection-string show -d DEVICE -n HUB
CONNECTION_STRING = "HostName=myhub.azure-devices.net;DeviceId=mydevice;SharedAccessKey=…"

# For DPS (provision.py): id scope, registration id and the device's own derived key
# (operator: taproot dps-key --registration-id mydevice).
ID_SCOPE = "0ne00A1B2C3"
REGISTRATION_ID = "mydevice"
DEVICE_KEY = "…"
DPS_HOST = "global.azure-devices-provisioning.net"

# Wi-Fi, for boards.
SSID = "…"
WIFI_KEY = "…"


def options():
    """Whom to trust: fixed roots here; devices in the field use a trust store (trust_update.py)."""
    with open("root.der", "rb") as file:
        return {"roots": [file.read()]}

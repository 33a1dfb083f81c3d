"""Azure IoT Hub for MicroPython, with roots that can be replaced for as long as a device lives.

Names load their module at first use, so a device pays only for what it needs:

    from azure_iot import IoTHubDeviceClient, SymmetricKey
"""

__version__ = "0.1.0"

_NAMES = {
    "IoTHubDeviceClient": "client",
    "IoTHubModuleClient": "module",
    "ProvisioningDeviceClient": "provisioning",
    "Agent": "agent",
    "Message": "hub",
    "SymmetricKey": "identity",
    "StaticToken": "identity",
    "SasProvider": "identity",
    "SignerKey": "identity",
    "X509Certificate": "x509",
    "TrustManager": "trust.manager",
    "AzureIoTError": "errors",
    "ClockError": "errors",
    "CredentialError": "errors",
    "TrustError": "errors",
    "ConnectionFailedError": "errors",
    "ConnectionDroppedError": "errors",
    "ProtocolError": "errors",
    "ServiceError": "errors",
    "QueueFullError": "errors",
}


def __getattr__(name: str) -> object:
    if name not in _NAMES:
        return _submodule(name)
    found = getattr(__import__(_NAMES[name], globals(), None, (name,), 1), name)
    globals()[name] = found
    return found


def _submodule(name: str) -> object:
    # MicroPython asks here for `from . import name` before it looks for the file.
    path = "azure_iot." + name
    try:
        return __import__(path, None, None, (name,))
    except ImportError as error:
        if path not in str(error):
            raise
    raise AttributeError(name)

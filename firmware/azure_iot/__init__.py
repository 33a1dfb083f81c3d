"""Azure IoT Hub for MicroPython, with roots that can be replaced for as long as a device lives.

Names load their module at first use, so a device pays only for what it needs:

    from azure_iot import IoTHubDeviceClient, SymmetricKey
"""

__version__ = "0.1.0"

# A tuple of constants lies in flash, a dict would lie on the heap.
_NAMES = (
    ("client", "IoTHubDeviceClient"),
    ("module", "IoTHubModuleClient"),
    ("provisioning", "ProvisioningDeviceClient"),
    ("agent", "Agent"),
    ("hub", "Message"),
    ("credentials", "SymmetricKey"),
    ("external", "StaticToken SasProvider SignerKey"),
    ("x509", "X509Certificate"),
    ("trust.manager", "TrustManager"),
    (
        "errors",
        "AzureIoTError ClockError CredentialError TrustError ConnectionFailedError "
        "ConnectionDroppedError ProtocolError ServiceError QueueFullError",
    ),
)


def __getattr__(name: str) -> object:
    for module, names in _NAMES:
        if name in names.split():
            found = getattr(__import__(module, globals(), None, (name,), 1), name)
            globals()[name] = found
            return found
    return _submodule(name)


def _submodule(name: str) -> object:
    # MicroPython asks here for `from . import name` before it looks for the file.
    path = "azure_iot." + name
    try:
        return __import__(path, None, None, (name,))
    except ImportError as error:
        if path not in str(error):
            raise
    raise AttributeError(name)

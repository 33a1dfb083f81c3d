"""What an operator pastes: a device's or module's connection string.

Responsible for: reading and judging it before anything connects. Loaded for that, and forgotten.
Source: Azure documentation "IoT Hub connection strings".

    identity, credential = parse("HostName=h.azure-devices.net;DeviceId=d;SharedAccessKey=…")

No error text carries a secret.
"""

from .errors import CredentialError
from .identity import Identity

_KNOWN = (
    "HostName",
    "DeviceId",
    "ModuleId",
    "SharedAccessKey",
    "SharedAccessSignature",
    "GatewayHostName",
    "x509",
)


def fields(text: str) -> dict:
    """Split `A=1;B=2==` into a dict; no value is ever in an error text.

    Raises CredentialError.
    """
    found = {}
    for part in text.strip().split(";"):
        name, equals, value = part.partition("=")
        if not part:
            continue
        if not equals or not value or name in found:
            raise CredentialError(
                "the connection string is broken near its field %d: it must read "
                "HostName=…;DeviceId=…;SharedAccessKey=…" % (len(found) + 1)
            )
        found[name] = value
    return found


def parse(text: str) -> tuple:
    """Read a device or module connection string: `(Identity, credential or None)`.

    None stands for `x509=true`: the certificate comes from elsewhere. A connection string of a
    hub policy (`iothubowner`, …) is refused and never kept. Raises CredentialError.
    """
    found = fields(text)
    if "SharedAccessKeyName" in found:
        raise CredentialError(
            'this is a connection string of the hub policy "%s", it opens the whole hub: never put '
            "it on a device. Take the device's own: az iot hub device-identity connection-string "
            "show -d DEVICE -n HUB" % found["SharedAccessKeyName"]
        )
    for name in found:
        if name not in _KNOWN:
            raise CredentialError('the connection string has an unknown field "%s"' % name[:24])
    for name in ("HostName", "DeviceId"):
        if name not in found:
            raise CredentialError("the connection string has no %s" % name)
    identity = Identity(
        found["HostName"],
        found["DeviceId"],
        found.get("ModuleId"),
        found.get("GatewayHostName", ""),
    )
    return identity, _credential(found)


def _credential(found: dict) -> "object | None":
    proofs = [n for n in ("SharedAccessKey", "SharedAccessSignature", "x509") if n in found]
    if len(proofs) != 1:
        raise CredentialError(
            "the connection string needs exactly one of SharedAccessKey, SharedAccessSignature, "
            "x509=true; it has %d" % len(proofs)
        )
    if proofs[0] == "SharedAccessKey":
        from .credentials import SymmetricKey

        return SymmetricKey(found["SharedAccessKey"])
    if proofs[0] == "SharedAccessSignature":
        from .external import StaticToken

        return StaticToken(found["SharedAccessSignature"])
    if found["x509"].lower() != "true":
        raise CredentialError("x509 must be true in the connection string")
    return None

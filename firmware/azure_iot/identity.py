"""Who the device is and how it proves it: connection strings, keys, tokens, signers.

Responsible for: reading and judging what an operator pasted, before anything connects.
Not for: tokens (sas.py), certificates (x509.py), DPS (dps.py).
Source: Azure documentation "IoT Hub connection strings", "DPS symmetric key attestation".

    identity, credential = parse("HostName=h.azure-devices.net;DeviceId=d;SharedAccessKey=…")

No object here shows a secret in `repr`, and no error text carries one.
"""

import binascii

from micropython import const

from .bag import quote
from .errors import CredentialError
from .sas import hmac_sha256, to_sign, token, token_expiry

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

_MIN_KEY = const(16)
_MAX_KEY = const(64)
_MAX_ID = const(128)
_ID_EXTRAS = "-.%_*?!(),:=@$'"
_SCOPES = ("0ne", "0cn")
_KNOWN = (
    "HostName",
    "DeviceId",
    "ModuleId",
    "SharedAccessKey",
    "SharedAccessSignature",
    "GatewayHostName",
    "x509",
)


class Identity:
    """One device, or one module of it, at one hub.

    `host` is the hub's name as it appears in user name and token; `gateway` is where TCP and
    the host name check go (an Edge gateway, else the hub itself).
    """

    def __init__(
        self, host: str, device_id: str, module_id: "str | None" = None, gateway: str = ""
    ) -> None:
        self.host = check_host(host)
        self.device_id = check_id(device_id, "device id")
        self.module_id = check_id(module_id, "module id") if module_id else None
        self.gateway = check_host(gateway) if gateway else self.host

    def move(self, host: str) -> None:
        """Follow a new assignment by DPS to another hub."""
        if self.gateway == self.host:
            self.gateway = check_host(host)
        self.host = check_host(host)

    @property
    def client_id(self) -> str:
        """Shape: `{device}`, a module `{device}/{module}`."""
        if self.module_id:
            return "%s/%s" % (self.device_id, self.module_id)
        return self.device_id

    @property
    def resource(self) -> str:
        """Percent-encoded resource of a token: `{host}%2Fdevices%2F{device}[%2Fmodules%2F…]`."""
        resource = "%s/devices/%s" % (self.host, self.device_id)
        if self.module_id:
            resource = "%s/modules/%s" % (resource, self.module_id)
        return quote(resource)

    def __repr__(self) -> str:
        return "<Identity %s at %s>" % (self.client_id, self.host)


class SymmetricKey:
    """A base64 device key; `sign` is HMAC-SHA256 with it.

    Raises CredentialError when the text is not the base64 of 16 to 64 bytes.
    """

    def __init__(self, key: str) -> None:
        self._key = decode_key(key)

    def sign(self, message: bytes) -> bytes:
        """Sign `message`."""
        return hmac_sha256(self._key, message)

    async def token(self, resource: str, expiry: int, policy: str = "") -> str:
        """Make a token valid until `expiry`."""
        return token(resource, expiry, self.sign, policy)

    def __repr__(self) -> str:
        return "<SymmetricKey of %d bytes>" % len(self._key)


class SignerKey(SymmetricKey):
    """A key that never leaves its chip: `signer.sign(bytes)` returns HMAC-SHA256.

    The result may be a coroutine, for chips that take their time.
    """

    def __init__(self, signer: object) -> None:
        self._signer = signer

    async def token(self, resource: str, expiry: int, policy: str = "") -> str:
        """Make a token valid until `expiry`, signed by the chip."""

        async def ask(message: bytes) -> bytes:
            signed = self._signer.sign(message)
            return await signed if hasattr(signed, "send") else signed

        signature = await ask(to_sign(resource, expiry))
        return token(resource, expiry, lambda message: signature, policy)

    def __repr__(self) -> str:
        return "<SignerKey>"


class StaticToken:
    """A token made elsewhere; it cannot be renewed here and ends when its `se` says so."""

    def __init__(self, text: str) -> None:
        if not text.startswith("SharedAccessSignature ") or not token_expiry(text):
            raise CredentialError(
                'the token is not a SAS token: it must begin with "SharedAccessSignature " '
                "and carry sr, sig and se"
            )
        self._text = text
        self.expiry = token_expiry(text)

    async def token(self, resource: str, expiry: int, policy: str = "") -> str:
        """Return the token as it was given."""
        return self._text

    def __repr__(self) -> str:
        return "<StaticToken until %d>" % self.expiry


class SasProvider:
    """Asks an async callable for each token: `await provide(resource, expiry) -> str`.

    The token-service pattern: the key lives in a service, the device asks for short-lived
    tokens. `deadline_s` bounds one call; a failed call is a CredentialError only when the
    provider raises one, anything else counts as a network failure and is tried again.
    """

    def __init__(self, provide: "Callable", deadline_s: int = 20) -> None:
        self._provide = provide
        self.deadline_s = deadline_s

    async def token(self, resource: str, expiry: int, policy: str = "") -> str:
        """Ask the provider for a token."""
        text = await self._provide(resource, expiry)
        if not token_expiry(text):
            raise CredentialError("the SAS provider returned something that is no SAS token")
        return text

    def __repr__(self) -> str:
        return "<SasProvider, %d s>" % self.deadline_s


def decode_key(text: str) -> bytes:
    """Decode a base64 key strictly; MicroPython's own decoder skips what it does not know.

    Raises CredentialError.
    """
    try:
        key = binascii.a2b_base64(text)
        canonical = binascii.b2a_base64(key).decode()[:-1] == text
    except (ValueError, UnicodeError, TypeError):
        canonical = False
    if not canonical:
        raise CredentialError(
            "the key is not base64: copy it whole, with the = at its end, and nothing around it"
        )
    if not _MIN_KEY <= len(key) <= _MAX_KEY:
        raise CredentialError(
            "the key has %d bytes, a device key has %d to %d: it was cut or is no device key"
            % (len(key), _MIN_KEY, _MAX_KEY)
        )
    return key


def check_host(host: str) -> str:
    """Accept a host name; say what was pasted when it is none. Raises CredentialError."""
    if host.startswith(_SCOPES):
        raise CredentialError(
            '"%s" is a DPS id scope, not a host name: give it to ProvisioningDeviceClient, the '
            "host comes back from DPS" % host
        )
    if "://" in host or "/" in host or ":" in host:
        raise CredentialError('"%s" is not a bare host name: leave out scheme, port, path' % host)
    for letter in host:
        if not (letter.isdigit() or letter in "-." or _is_letter(letter)):
            raise CredentialError('"%s" is not a host name' % host)
    if not host or host[0] in "-." or host.endswith("-") or ".." in host:
        raise CredentialError('"%s" is not a host name' % host)
    if ".service." in host:
        raise CredentialError('"%s" is for services: use the hub name devices use' % host)
    return host


def check_id(text: str, what: str) -> str:
    """Accept a device or module id: 1 to 128 ASCII letters, digits and `-.%_*?!(),:=@$'`."""
    if not 1 <= len(text) <= _MAX_ID:
        raise CredentialError("the %s has %d characters, allowed are 1 to 128" % (what, len(text)))
    for letter in text:
        if not (_is_letter(letter) or letter.isdigit() or letter in _ID_EXTRAS):
            raise CredentialError('the %s has the character "%s", not allowed' % (what, letter))
    return text


def _is_letter(letter: str) -> bool:
    return "a" <= letter <= "z" or "A" <= letter <= "Z"


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


def _credential(found: dict) -> "SymmetricKey | StaticToken | None":
    proofs = [n for n in ("SharedAccessKey", "SharedAccessSignature", "x509") if n in found]
    if len(proofs) != 1:
        raise CredentialError(
            "the connection string needs exactly one of SharedAccessKey, SharedAccessSignature, "
            "x509=true; it has %d" % len(proofs)
        )
    if proofs[0] == "SharedAccessKey":
        return SymmetricKey(found["SharedAccessKey"])
    if proofs[0] == "SharedAccessSignature":
        return StaticToken(found["SharedAccessSignature"])
    if found["x509"].lower() != "true":
        raise CredentialError("x509 must be true in the connection string")
    return None

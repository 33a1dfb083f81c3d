"""Who the device is: hub, device, module, gateway.

Responsible for: names as they appear in topics and tokens, and judging what was given as one.
Not for: how the device proves it (credentials.py, external.py, x509.py), connection strings
(connection_string.py), DPS (dps.py).
"""

from micropython import const

from .bag import quote
from .errors import CredentialError

_MAX_ID = const(128)
_ID_EXTRAS = const("-.%_*?!(),:=@$'")
_SCOPES = const(("0ne", "0cn"))


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


def shown(text: str) -> str:
    """Quote what was given as a name, but not what looks like a key or has one in it."""
    return "that (it may hold a key)" if "=" in text else '"%s"' % text[:64]


def check_host(host: str) -> str:
    """Accept a host name; say what was pasted when it is none. Raises CredentialError."""
    if host.startswith(_SCOPES):
        raise CredentialError(
            '"%s" is a DPS id scope, not a host name: give it to ProvisioningDeviceClient, the '
            "host comes back from DPS" % host
        )
    if "://" in host or "/" in host or ":" in host:
        raise CredentialError(
            "%s is no bare host name: leave out scheme, port, path" % shown(host)
        )
    for letter in host:
        if not (letter.isdigit() or letter in "-." or _is_letter(letter)):
            raise CredentialError("%s is not a host name" % shown(host))
    if not host or host[0] in "-." or host.endswith("-") or ".." in host:
        raise CredentialError("%s is not a host name" % shown(host))
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

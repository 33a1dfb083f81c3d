"""What an agent does once, at start: the trust store and the client of a configuration.

Responsible for: making both from `device.json` (agent.py says what it holds). Not for: order and
upkeep of the parts (agent.py), which forgets this module when they stand.
"""

from micropython import const

from . import log
from .client import IoTHubDeviceClient
from .errors import CredentialError
from .identity import shown
from .tls.context import load_root

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from .trust.manager import TrustManager


_LIST = (list, tuple)
_FIELDS = (
    ("connection_string", str),
    ("dps", dict),
    ("certificate", str),
    ("key", str),
    ("trust_folder", str),
    ("factory_folder", str),
    ("roots", _LIST),
    ("channels", _LIST),
    ("client", dict),
    ("trust", dict),
)


def check(config: dict) -> None:
    """Look for what is missing, or a text where an object belongs. Raises CredentialError."""
    for name, kind in _FIELDS:
        if name in config:
            _need(config, name, kind)
    if "certificate" in config:
        _need(config, "key")
    if "connection_string" in config:
        return
    if "dps" not in config:
        raise CredentialError("the configuration has neither connection_string nor dps")
    for name in ("id_scope", "registration_id", "key"):
        if name != "key" or "certificate" not in config:
            _need(config["dps"], name, within="dps.")


def _need(config: dict, name: str, kind: object = str, within: str = "") -> None:
    value = config.get(name)
    if not value and kind is str or not isinstance(value, kind):
        wanted = "a text" if kind is str else "an object {…}" if kind is dict else "a list […]"
        raise CredentialError(
            'the configuration needs "%s%s" as %s; %s'
            % (within, name, wanted, "it is another kind of value" if value else "there is none")
        )


def open_trust(config: dict, clock: object, mirror: object = None) -> "TrustManager":
    """Load the trust store over its factory state. Raises CredentialError without roots.

    mirror: where the platform keeps a copy of the floors outside the file system, if it does.
    """
    from .trust.factory import Factory
    from .trust.manager import TrustManager
    from .trust.store import Store

    if "factory_folder" in config:
        factory = Factory.from_folder(config["factory_folder"])
    else:
        try:
            factory = Factory.from_module()
        except ImportError:
            raise CredentialError(
                "this firmware carries no roots: deploy it with `taproot device deploy`, or "
                "set roots or factory_folder in the configuration"
            )
    store = Store(config.get("trust_folder", "/trust"), factory, mirror=mirror)
    uses = ("hub", "dps") if "dps" in config else ("hub",)
    options = {"uses": uses, "loader": load_root}
    options.update(config.get("trust", {}))
    trust = TrustManager(store, clock, config=options)
    log.info("%r", trust)
    return trust


async def make_client(
    config: dict, options: dict, kv: object, failed: "Callable"
) -> IoTHubDeviceClient:
    """Make the client, after asking DPS where the configuration names it (assignment.py)."""
    certificate = None
    if "certificate" in config:
        from .x509 import X509Certificate

        certificate = X509Certificate(read_file(config["certificate"]), read_file(config["key"]))
    try:
        if "connection_string" in config:
            return IoTHubDeviceClient.from_connection_string(
                config["connection_string"], certificate=certificate, **options
            )
        from .assignment import provisioned_client

        return await provisioned_client(config["dps"], certificate, kv, options, failed)
    except (AttributeError, TypeError) as error:
        raise CredentialError(
            'the configuration has an unknown name or another kind of value in "client" or "dps": '
            "%s" % error,
            error,
        )


def read_file(path: str) -> bytes:
    """Read a small file of the configuration. Raises CredentialError."""
    path = str(path)  # a number would be an open file
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise CredentialError("cannot read %s" % shown(path), error)

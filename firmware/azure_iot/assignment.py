"""A device whose hub DPS assigns: the assignment kept for the next start, a client that asks again.

Responsible for: asking DPS only when nothing is kept or the ladder says so, with the modules for
it loaded meanwhile. Not for: the registration (provisioning.py), when to register anew (ladder.py).
"""

import asyncio
import json

from micropython import const

from . import log
from .backoff import Backoff, first_window
from .client import IoTHubDeviceClient
from .clock import default
from .core import randbelow
from .errors import AzureIoTError, CredentialError, ServiceError
from .hub import cloud
from .identity import check_host
from .timekeeper import TimeKeeper
from .tls.context import TLSContext
from .transient import forget

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .dps import Assignment
    from .provisioning import ProvisioningDeviceClient

_NOT_SPOKEN = const(501)  # dps.py: the hub speaks what this firmware does not
_WAIT_MS = const(10000)
_LOOK_MS = const(100)
_LONGEST_MS = const(300000)  # each registration is billed
_KEY = "assignment"
_SHARED = ("trust", "roots", "clock", "profile", "deadlines", "websocket", "fleet_size_hint")


async def provisioned_client(
    config: dict,
    certificate: "object | None",
    kv: object,
    options: dict,
    failed: "Callable | None" = None,
) -> IoTHubDeviceClient:
    """Make a client for the assigned hub: the kept assignment first, DPS when there is none.

    `config`: id_scope, registration_id, key (or a certificate), cloud, host, port, payload. The client
    registers anew by itself when the ladder says so. `failed(error)` hears of each attempt to connect to DPS
    that failed. What DPS refuses is logged, once in the same words, and asked again: the device may
    be enrolled later. Raises CredentialError for a configuration that cannot work, ServiceError for
    a hub that speaks what this firmware does not.
    """
    credential = certificate
    if credential is None:
        from .credentials import SymmetricKey

        credential = SymmetricKey(config["key"])
    shared = {name: options[name] for name in _SHARED if name in options}

    async def register() -> "Assignment":
        return await _register(config, credential, kv, shared, failed)

    place = load_assignment(kv, config["id_scope"], config["registration_id"])
    clock = options.get("clock") or default()
    sync = options.get("sync_time")
    checked = blamed = repaired = False
    said = ""

    async def attempt() -> "Assignment":
        if blamed:
            await _repair(config, options, clock)
        return await register()

    window = max(_WAIT_MS, first_window(options.get("fleet_size_hint", 1000)))
    backoff = Backoff(_WAIT_MS, _LONGEST_MS, randbelow, window_ms=window)
    while place is None:
        try:
            if not checked:
                _dps(config, credential, shared)
                checked = True
            found = await _apart(attempt())
            place = found.hub, found.device_id
        except (AzureIoTError, MemoryError) as error:
            if failed is not None and isinstance(error, MemoryError):
                failed(error)
            refused = isinstance(error, CredentialError)
            if refused and not checked or _is_final(error):
                raise
            from .guard import is_about_time

            wait_ms = backoff.next()
            if str(error) != said:
                said = str(error)
                log.warning("no assignment yet, again in %d ms: %s", wait_ms, said)
            known = repaired and (clock.synchronised or sync is None)
            blamed = refused and not known or is_about_time(error)
            repaired = repaired or blamed
            await asyncio.sleep_ms(wait_ms)
    return IoTHubDeviceClient.from_credential(credential, *place, reprovision=register, **options)


def _is_final(error: Exception) -> bool:
    # With a time to ask again it is DPS itself that answered so.
    return isinstance(error, ServiceError) and (
        error.status == _NOT_SPOKEN and error.retry_after is None
    )


async def _apart(work: "Awaitable") -> object:
    """Await `work` in a task of its own, so that a CancelledError is ours or becomes MemoryError.

    In ours it could be either: asyncio's wait_for had no memory for its result.
    """
    found = []

    async def run() -> None:
        try:
            found.append(await work)
        except asyncio.CancelledError:
            found.append(MemoryError("no memory to wait"))
        except Exception as error:
            found.append(error)

    task = asyncio.create_task(run())
    try:
        while not found:
            await asyncio.sleep_ms(_LOOK_MS)
    finally:
        task.cancel()
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


async def _repair(config: dict, options: dict, clock: object) -> None:
    """Put the clock right before DPS is asked again."""
    trust = options.get("trust")
    host = _host(config)
    roots = trust.attempt("dps", host).roots if trust is not None else options["roots"]
    port = options.get("https_port", 443)
    keeper = TimeKeeper(clock, sync=options.get("sync_time"), trust=trust, port=port)
    await keeper.repair(host, TLSContext(roots))


def _host(config: dict) -> str:
    """Give the DPS host: as configured, or of the cloud that is named or that the id scope shows."""
    if config.get("host"):
        return config["host"]
    wanted = config.get("cloud") or ("china" if config["id_scope"][:3] == "0cn" else "public")
    name, host = cloud("." + wanted)
    if name != wanted:
        raise CredentialError(
            'no cloud is called "%s": say public, us-government or china' % wanted
        )
    return host


def _dps(config: dict, credential: object, shared: dict) -> "ProvisioningDeviceClient":
    from .provisioning import ProvisioningDeviceClient

    name = config["registration_id"]
    if not hasattr(credential, "token"):
        credential.check(credential.not_before, name)  # the name alone: the time may be wrong yet
    return ProvisioningDeviceClient(
        _host(config), name, config["id_scope"], credential, port=config.get("port", 0), **shared
    )


async def _register(
    config: dict, credential: object, kv: object, shared: dict, failed: "Callable | None"
) -> "Assignment":
    dps = _dps(config, credential, shared)
    dps.provisioning_payload = config.get("payload")
    dps.on_connect_failed = failed
    try:
        found = await dps.register()
    finally:
        forget("azure_iot.provisioning", "azure_iot.dps")
    try:
        save_assignment(kv, config["id_scope"], config["registration_id"], found)
        found.kept = True
    except (OSError, ValueError) as error:
        log.error("the assignment is not kept for the next start: %s", error)
    return found


def load_assignment(kv: object, id_scope: str, registration_id: str) -> "tuple | None":
    """Give (hub, device id) kept for this registration; None when there is none."""
    raw = kv.get(_KEY)
    if raw is None:
        return None
    try:
        kept = json.loads(raw)
        if kept["scope"] != id_scope or kept["registration"] != registration_id:
            return None
        return check_host(kept["hub"]), kept["device"]
    except (ValueError, KeyError, TypeError, CredentialError):
        log.warning("the kept assignment cannot be read: asking DPS")
        return None


def save_assignment(kv: object, id_scope: str, registration_id: str, found: "Assignment") -> None:
    """Keep an assignment for the next start; no secret is part of it."""
    kept = {
        "scope": id_scope,
        "registration": registration_id,
        "hub": found.hub,
        "device": found.device_id,
    }
    kv.set(_KEY, json.dumps(kept).encode())

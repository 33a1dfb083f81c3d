"""The identities of a hub: devices and modules with their credentials, twin and state.

Responsible for: the records, their rules (names, authentication kinds), connection strings, the
shared access policies of the hub. Not for: connections and topics (`hub.py`), REST
(`service.py`).
"""

from __future__ import annotations

import base64
import os
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from taproot.emulator import credentials
from taproot.emulator.c2d import Queue
from taproot.emulator.credentials import new_key
from taproot.emulator.methods import Calls
from taproot.emulator.twin import Twin, stamp

if TYPE_CHECKING:
    from taproot.emulator.session import Session

SAS, THUMBPRINT, CA = "sas", "x509_thumbprint", "x509_ca"
AUTH_KINDS = (SAS, THUMBPRINT, CA)
_ID = re.compile(r"[A-Za-z0-9\-:.+%_#*?!(),=@;$']{1,128}")

# policy -> what it may do
POLICIES = {
    "iothubowner": {"RegistryRead", "RegistryWrite", "ServiceConnect", "DeviceConnect"},
    "service": {"ServiceConnect"},
    "device": {"DeviceConnect"},
    "registryRead": {"RegistryRead"},
    "registryReadWrite": {"RegistryRead", "RegistryWrite"},
}


class RegistryError(Exception):
    """The registry refuses; `status` is what REST answers."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def new_etag() -> str:
    """Make an etag."""
    return base64.b64encode(os.urandom(6)).decode()


@dataclass
class Policy:
    """A shared access policy of the hub."""

    name: str
    rights: set[str]
    primary_key: str = field(default_factory=new_key, repr=False)
    secondary_key: str = field(default_factory=new_key, repr=False)

    @property
    def keys(self) -> tuple[str, str]:
        """Both keys."""
        return self.primary_key, self.secondary_key


@dataclass
class Identity:
    """A device, or a module of one."""

    device_id: str
    module_id: str | None
    now: Callable[[], float]
    host: Callable[[], str]
    auth: str = SAS
    primary_key: str = field(default="", repr=False)
    secondary_key: str = field(default="", repr=False)
    thumbprints: tuple[str, ...] = ()  # primary, secondary; SHA-1 or SHA-256
    enabled: bool = True
    status_reason: str | None = None
    managed_by: str | None = None
    edge: bool = False
    etag: str = field(default_factory=new_etag)
    generation_id: str = field(default_factory=lambda: str(uuid.uuid4().int)[:18])
    twin: Twin = field(init=False)
    queue: Queue = field(init=False)
    calls: Calls = field(default_factory=Calls, repr=False)
    modules: dict[str, Identity] = field(default_factory=dict)
    filters: dict[str, int] | None = None  # subscriptions of a kept session; None: no session
    session: Session | None = field(default=None, repr=False)  # the live connection's
    ever_connected: bool = False
    connects: int = 0
    state_changed: float = 0.0
    last_activity: float = 0.0
    created: float = 0.0

    def __post_init__(self) -> None:
        self.twin = Twin(self.now)
        self.queue = Queue(self.id, self.now)
        self.created = self.now()

    @property
    def id(self) -> str:
        """`device` or `device/module`: also the MQTT client id."""
        return f"{self.device_id}/{self.module_id}" if self.module_id else self.device_id

    @property
    def topic_root(self) -> str:
        """What every topic of this identity begins with."""
        if self.module_id:
            return f"devices/{self.device_id}/modules/{self.module_id}/"
        return f"devices/{self.device_id}/"

    @property
    def resource(self) -> str:
        """What a token must be for, without the host."""
        return self.topic_root.rstrip("/")

    @property
    def connected(self) -> bool:
        """True while a connection is open."""
        return self.session is not None

    @property
    def connection_string(self) -> str:
        """What an owner gives to the device."""
        parts = [f"HostName={self.host()}", f"DeviceId={self.device_id}"]
        if self.module_id:
            parts.append(f"ModuleId={self.module_id}")
        parts.append(f"SharedAccessKey={self.primary_key}" if self.auth == SAS else "x509=true")
        return ";".join(parts)

    def summary(self) -> dict[str, Any]:
        """What `status` shows; no key."""
        return {
            "id": self.id,
            "auth": self.auth,
            "enabled": self.enabled,
            "connected": self.connected,
            "connects": self.connects,
            "pending_c2d": len(self.queue.letters),
            "last_activity": stamp(self.last_activity) if self.last_activity else None,
        }


class Registry:
    """All identities of one hub."""

    def __init__(self, now: Callable[[], float], host: Callable[[], str]) -> None:
        self._now, self._host = now, host
        self.devices: dict[str, Identity] = {}
        self.policies = {name: Policy(name, set(rights)) for name, rights in POLICIES.items()}
        self.roots: list[Any] = []  # verified CA certificates (cryptography)
        self.revoked: set[str] = set()  # SHA-256 thumbprints of client certificates

    def find(self, identity: str) -> Identity | None:
        """Return a device (`d`) or module (`d/m`)."""
        device, slash, module = identity.partition("/")
        found = self.devices.get(device)
        return found.modules.get(module) if found and slash else found

    def get(self, identity: str) -> Identity:
        """Return an identity or raise RegistryError."""
        found = self.find(identity)
        if found is None:
            raise RegistryError(f"device '{identity}' is not registered", 404)
        return found

    def all(self) -> list[Identity]:
        """Return devices, each followed by its modules."""
        return [x for device in self.devices.values() for x in (device, *device.modules.values())]

    def add(
        self,
        identity: str,
        *,
        auth: str = SAS,
        primary_key: str | None = None,
        secondary_key: str | None = None,
        thumbprints: tuple[str, ...] | list[str] = (),
        enabled: bool = True,
        **more: Any,
    ) -> Identity:
        """Register a device (`d`) or module (`d/m`)."""
        device_id, slash, module_id = identity.partition("/")
        if auth not in AUTH_KINDS:
            raise RegistryError(f"auth is one of {', '.join(AUTH_KINDS)}", 400)
        if not _ID.fullmatch(device_id) or (slash and not _ID.fullmatch(module_id)):
            raise RegistryError(
                "an id has 1 to 128 letters, digits or - : . + % _ # * ? ! ( ) , = @ ; $ '", 400
            )
        if self.find(identity) is not None:
            raise RegistryError(f"device '{identity}' exists already", 409)
        try:
            prints = tuple(credentials.normal_thumbprint(t) for t in thumbprints if t)
        except ValueError as error:
            raise RegistryError(str(error), 400) from None
        for key in (primary_key, secondary_key):
            if key is not None:
                check_key(key)
        if auth == THUMBPRINT and not prints:
            raise RegistryError("x509_thumbprint needs a thumbprint", 400)
        record = Identity(
            device_id,
            module_id if slash else None,
            self._now,
            self._host,
            auth=auth,
            primary_key=primary_key or (new_key() if auth == SAS else ""),
            secondary_key=secondary_key or (new_key() if auth == SAS else ""),
            thumbprints=prints,
            enabled=enabled,
            **more,
        )
        if slash:
            owner = self.get(device_id)
            if len(owner.modules) >= 50:
                raise RegistryError("a device has at most 50 modules", 403)
            owner.modules[module_id] = record
        else:
            self.devices[device_id] = record
        return record

    def remove(self, identity: str) -> Identity:
        """Remove a device with its modules, or a module."""
        found = self.get(identity)
        if found.module_id:
            del self.devices[found.device_id].modules[found.module_id]
        else:
            del self.devices[found.device_id]
        return found


def check_key(key: str) -> None:
    """Raise RegistryError unless `key` is base64 of 16 to 64 bytes."""
    try:
        credentials.check_key(key)
    except ValueError as error:
        raise RegistryError(str(error), 400) from None

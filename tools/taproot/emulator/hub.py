"""The hub itself: who may connect, and what operators do to devices.

Responsible for: judging a CONNECT for the hub, one connection per identity, messages to
devices, desired properties, method calls, the record of telemetry, throttling. Not for: what a
device's topics mean (`session.py`), packets (`connection.py`), records (`registry.py`), DPS.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from taproot.emulator import credentials, methods
from taproot.emulator.c2d import Letter
from taproot.emulator.codec import Connect
from taproot.emulator.connection import Engine, Link, Refusal
from taproot.emulator.credentials import Refused
from taproot.emulator.methods import MethodResult
from taproot.emulator.registry import CA, SAS, Identity, Registry
from taproot.emulator.rules import PREVIEW_VERSIONS, STABLE_VERSIONS, Limits, Reactions
from taproot.emulator.session import METHODS, Session
from taproot.emulator.telemetry import Message, Messages, split_bag
from taproot.emulator.throttle import Bucket

__all__ = ["Hub", "Limits", "Reactions", "Renewal", "Session"]

# An answer to a certificate request: (session, request id, payload) -> replies are sent by it.
Renewal = Callable[[Session, str, bytes], None]


@dataclass
class Hub:
    """One IoT hub. `hosts` are the names it answers to; the first is in connection strings."""

    engine: Engine
    hosts: list[str] = field(default_factory=lambda: ["localhost"])
    limits: Limits = field(default_factory=Limits)
    reactions: Reactions = field(default_factory=Reactions)
    preview: bool = False
    renewal: Renewal | None = None
    name: str = "hub"
    skew: float = 0.0

    def __post_init__(self) -> None:
        self.now = self.engine.now
        self.log = self.engine.recorder.emit
        self.registry = Registry(self.now, lambda: self.hosts[0])
        self.messages = Messages(self.limits.messages_kept)
        self._connects = Bucket(self.limits.connects_per_second, self.now)
        self._d2c = Bucket(self.limits.d2c_per_second, self.now)
        self._twins = Bucket(self.limits.twin_per_second, self.now)
        self._connected: list[asyncio.Event] = []

    # -- CONNECT ----------------------------------------------------------------------------

    def handles(self, username: str) -> bool:
        """The hub takes every user name that DPS has left."""
        return True

    def accept(self, connect: Connect, chain: Sequence[bytes], link: Link) -> Session | Refusal:
        """Judge a CONNECT."""
        try:
            host, client_id, query = _split_username(connect.username or "")
        except ValueError as error:
            return Refusal(5, str(error))
        found = self.registry.find(client_id)
        identity = found.id if found else None
        if host.lower() not in (name.lower() for name in self.hosts):
            return Refusal(self.reactions.unknown_host, f"this hub is not '{host}'", identity)
        if connect.client_id != client_id:
            text = "the client id is not that of the user name"
            return Refusal(self.reactions.client_id_mismatch, text, identity)
        refusal = self._check_version(query, identity)
        if refusal is not None:
            return refusal
        if found is None:
            return Refusal(5, "the device is not registered")
        if not found.enabled or not self.registry.devices[found.device_id].enabled:
            return Refusal(5, "the device is disabled", identity)
        try:
            expiry = self.authenticate(found, host, connect.password, chain)
        except Refused as refused:
            return Refusal(5, str(refused), identity)
        if self._connects.take():
            text = "more connects per second than the hub allows"
            return Refusal(self.reactions.throttled_connect, text, identity)
        return self._begin(found, connect, query, expiry)

    def _check_version(self, query: dict[str, str], identity: str | None) -> Refusal | None:
        version = query.get("api-version")
        if not version:
            reaction = self.reactions.missing_api_version
            if reaction == "refuse":
                return Refusal(5, "no api-version in the user name", identity)
            if reaction == "report":
                self.log("strictness", rule="hub-api-version", closed=False, identity=identity,
                         text="no api-version in the user name")  # fmt: skip
            return None
        # A hub takes preview versions, too; what they add is behind the switch (Session.preview).
        if version in (*STABLE_VERSIONS, *PREVIEW_VERSIONS):
            return None
        text = f"unknown api-version '{version[:40]}'"
        return Refusal(self.reactions.unknown_api_version, text, identity)

    def authenticate(
        self, found: Identity, host: str, password: bytes | None, chain: Sequence[bytes]
    ) -> float | None:
        """Raise Refused, or return when the credential ends (None: a certificate)."""
        if password:
            return self._check_token(found, host, password)
        if found.auth == SAS:
            raise Refused("no password: the device authenticates with a token")
        if not chain:
            raise Refused("neither a token nor a client certificate")
        self._check_certificate(found, chain)
        return None

    def _check_token(self, found: Identity, host: str, password: bytes) -> float:
        try:
            text = password.decode()
        except UnicodeDecodeError:
            raise Refused("the password is not text") from None
        return self.check_token(found, host, text)

    def check_token(self, found: Identity, host: str, text: str) -> float:
        """Verify a token for an identity: its own keys, or those of a policy that may connect."""
        policy = credentials.parse_token(text).policy
        if policy is not None:
            known = self.registry.policies.get(policy)
            if known is None or "DeviceConnect" not in known.rights:
                raise Refused(f"policy '{policy[:40]}' may not connect devices")
            keys: tuple[str, ...] = known.keys
        elif found.auth != SAS:
            raise Refused("the device authenticates with a certificate")
        else:
            keys = (found.primary_key, found.secondary_key)
        resource = f"{host}/{found.resource}"
        return float(credentials.check_token(text, resource, keys, self.now(), self.skew).expiry)

    def _check_certificate(self, found: Identity, chain: Sequence[bytes]) -> None:
        sha1, sha256 = credentials.thumbprints(chain[0])
        if sha256 in self.registry.revoked:
            raise Refused("the certificate is revoked")
        credentials.check_dates(chain[0], self.now())
        if found.auth != CA:
            if sha1 not in found.thumbprints and sha256 not in found.thumbprints:
                raise Refused("the certificate's thumbprint is not registered")
            return
        name = credentials.common_name(chain[0])
        if name != found.id:
            raise Refused("the certificate's common name is not the device id")
        credentials.check_chain(chain, self.registry.roots, self.now())

    def _begin(
        self, found: Identity, connect: Connect, query: dict[str, str], expiry: float | None
    ) -> Session:
        old = found.session
        if old is not None and old.connection is not None:
            self.log("log", code=400027, identity=found.id,
                     text="ConnectionForcefullyClosedOnNewConnection")  # fmt: skip
            old.connection.drop("a newer connection of the same identity")
        if connect.clean_session:
            present = False
            if self.reactions.clean_session_drops_c2d:
                found.queue.purge()
            filters: dict[str, int] = {}
            found.filters = None
        else:
            present = found.filters is not None
            filters = found.filters if found.filters is not None else {}
            found.filters = filters
        found.ever_connected = True
        return Session(self, found, connect, query, expiry, present, filters)

    # -- what operators do ------------------------------------------------------------------

    def sessions(self) -> list[Session]:
        """Return the live sessions."""
        return [found.session for found in self.registry.all() if found.session is not None]

    def drop(
        self, identity: str | None = None, reason: str = "dropped", reset: bool = True
    ) -> int:
        """Drop the connection of one identity, or of all; return how many."""
        count = 0
        for session in self.sessions():
            if identity in (None, session.identity) and session.connection is not None:
                session.connection.drop(reason, reset=reset)
                count += 1
        return count

    def set_enabled(self, identity: str, enabled: bool, reason: str | None = None) -> None:
        """Enable or disable a device; a disabled one is disconnected."""
        found = self.registry.get(identity)
        found.enabled, found.status_reason = enabled, reason
        if not enabled:
            self._drop_family(found, "the device was disabled")

    def remove(self, identity: str) -> None:
        """Remove an identity and disconnect it."""
        self._drop_family(self.registry.remove(identity), "the device was removed")

    def _drop_family(self, found: Identity, reason: str) -> None:
        for one in (found, *found.modules.values()):
            if one.session is not None and one.session.connection is not None:
                one.session.connection.drop(reason)

    def send_c2d(
        self,
        identity: str,
        body: bytes,
        properties: dict[str, str | None] | None = None,
        **how: Any,
    ) -> Letter:
        """Queue a cloud-to-device message and send it if the device listens."""
        found = self.registry.get(identity)
        self._apply_limits(found)
        letter = found.queue.put(body, properties, **how)
        self.log("c2d", identity=found.id, message_id=letter.id, size=len(body))
        if found.session is not None:
            found.session.pump()
        elif not found.ever_connected:
            found.queue.letters.remove(letter)
            self.log("c2d_dropped", identity=found.id, message_id=letter.id,
                     text="nothing is queued before the first connection")  # fmt: skip
        return letter

    def _apply_limits(self, found: Identity) -> None:
        queue, limits = found.queue, self.limits
        queue.limit, queue.max_bytes = limits.c2d_pending, limits.c2d_bytes
        queue.max_deliveries, queue.ttl = limits.c2d_deliveries, limits.c2d_ttl

    def send_input(
        self,
        identity: str,
        name: str,
        body: bytes,
        properties: dict[str, str | None] | None = None,
    ) -> bool:
        """Send a message to an input of a module; False when it does not listen."""
        found = self.registry.get(identity)
        return found.session is not None and found.session.send_input(name, body, properties or {})

    def patch_desired(self, identity: str, patch: Any) -> int:
        """Merge desired properties, tell the device, return the new version."""
        found = self.registry.get(identity)
        found.twin.desired.limit = self.limits.twin_bytes
        change = found.twin.desired.patch(patch)
        self._push_desired(found, change)
        return found.twin.desired.version

    def replace_desired(self, identity: str, values: Any) -> int:
        """Replace desired properties, tell the device, return the new version."""
        found = self.registry.get(identity)
        found.twin.desired.limit = self.limits.twin_bytes
        gone = dict.fromkeys(found.twin.desired.values)
        change = {**gone, **found.twin.desired.replace(values)}
        self._push_desired(found, change)
        return found.twin.desired.version

    def _push_desired(self, found: Identity, change: dict[str, Any]) -> None:
        version = found.twin.desired.version
        told = found.session is not None and found.session.push_desired(change, version)
        self.log("desired", identity=found.id, version=version, delivered=told)

    async def invoke_method(
        self,
        identity: str,
        name: str,
        payload: Any = None,
        response_timeout: float = 30.0,
        connect_timeout: float = 0.0,
    ) -> MethodResult:
        """Call a direct method and wait for the answer; ValueError for a name that no topic takes."""
        methods.check_name(name)
        found = self.registry.get(identity)
        body = b"" if payload is None else json.dumps(payload, separators=(",", ":")).encode()
        if len(body) > methods.PAYLOAD_LIMIT:
            return methods.too_large()
        rid, future = found.calls.begin()
        try:
            if not await self._listening(found, connect_timeout):
                return methods.not_connected()
            assert found.session is not None
            self.log("method", identity=found.id, method=name, rid=rid)
            found.session.send_method(name, rid, body)
            result = await asyncio.wait_for(future, response_timeout)
        except asyncio.TimeoutError:
            result = methods.timed_out()
        finally:
            found.calls.end(rid)
        self.log("method_result", identity=found.id, method=name, rid=rid,
                 hub_status=result.hub_status, status=result.status)  # fmt: skip
        return result

    async def _listening(self, found: Identity, timeout: float) -> bool:
        def ready() -> bool:
            return found.session is not None and METHODS in found.session.filters

        if ready() or timeout <= 0:
            return ready()
        event = asyncio.Event()
        self._connected.append(event)
        try:
            async with asyncio.timeout(timeout):
                while not ready():
                    event.clear()
                    await event.wait()
        except TimeoutError:
            return False
        finally:
            self._connected.remove(event)
        return True

    def wake(self) -> None:
        """Tell waiting method calls that a subscription has changed."""
        for event in self._connected:
            event.set()

    def record(self, found: Identity, bag: dict[str, Any], body: bytes, **how: Any) -> Message:
        """Record telemetry, from whatever transport."""
        system, properties = split_bag(bag)
        system["iothub-connection-device-id"] = found.device_id
        if found.module_id:
            system["iothub-connection-module-id"] = found.module_id
        found.last_activity = self.now()
        return self.messages.add(
            device=found.device_id, module=found.module_id, body=body, properties=properties,
            system=system, enqueued=found.last_activity, **how,
        )  # fmt: skip

    def take_d2c(self) -> float:
        """Take a telemetry token; the seconds to wait when there is none."""
        return self._d2c.take(queue=True)

    def take_twin(self) -> float:
        """Take a twin token."""
        return self._twins.take()


def _split_username(username: str) -> tuple[str, str, dict[str, str]]:
    """Take `{host}/{client id}/?query` apart."""
    path, mark, query = username.partition("?")
    host, slash, rest = path.partition("/")
    client_id = rest.removesuffix("/") if mark else rest.rstrip("/")
    if not (host and slash and client_id):
        raise ValueError("the user name is not {host}/{client id}/?api-version=…")
    fields = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        fields[name] = value
    return host, client_id, fields

"""The emulator as one object in one event loop: hub, DPS, listeners, faults, control.

Responsible for: making the parts from a configuration, starting and stopping them, the
operations that the control API, the CLI and `running()` all offer. Not for: the parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509

from taproot.console import UsageFailed
from taproot.emulator import anycert, badchains, faults, templates
from taproot.emulator.chains import (
    PROFILES,
    Certificate,
    Chains,
    PemChain,
    TLSOptions,
    bare_context,
)
from taproot.emulator.clock import Clock
from taproot.emulator.config import DeviceConfig, EmulatorConfig
from taproot.emulator.connection import Connection, Engine
from taproot.emulator.downloads import Download
from taproot.emulator.dps import Failure, Provisioning
from taproot.emulator.dps_handler import DPSService
from taproot.emulator.enrollments import Enrollment, Registration
from taproot.emulator.events import Recorder
from taproot.emulator.faults import Fault, Faults
from taproot.emulator.https import HTTPSFront
from taproot.emulator.hub import Hub
from taproot.emulator.issuance import Issuer
from taproot.emulator.listener import MqttProtocol
from taproot.emulator.methods import MethodResult
from taproot.emulator.recovery import RecoveryServer
from taproot.emulator.registry import Identity
from taproot.emulator.renewal import Renewal
from taproot.emulator.state import State
from taproot.emulator.templates import TLSPolicy
from taproot.emulator.tls import Listener
from taproot.emulator.twin import stamp
from taproot.pki import Authority, Leaf

_RANDOM_WAITING = 20


class Emulator:
    """Make it, `await start()`, use it, `await stop()`."""

    def __init__(self, config: EmulatorConfig | None = None) -> None:
        self.config = config or EmulatorConfig()
        self.clock = Clock()
        self.recorder = Recorder(self.clock.now, self.config.events_kept)
        self.faults = Faults(self.config.seed)
        self.engine = Engine(
            self.recorder,
            self.clock.now,
            self.faults,
            packet_limit=self.config.packet_limit,
            record_packets=self.config.record_packets,
        )
        self.hub = Hub(
            self.engine,
            list(self.config.host_names),
            self.config.limits,
            self.config.reactions,
            preview=self.config.preview,
        )
        self.dps = Provisioning(
            self.config.id_scope,
            own_hub=lambda: self.hub.hosts[0],
            now=self.clock.now,
            preview=self.config.preview,
            assigned=self._assigned,
            log=self.recorder.emit,
        )
        if self.config.preview:
            self.dps.issuer = Issuer()
            self.hub.registry.roots.append(self.dps.issuer.root.cert)
            self.hub.renewal = Renewal(self.dps.issuer, self.clock.now, self.recorder.emit)
        self.engine.services = [DPSService(self.dps), self.hub]
        self.chains = Chains()
        self.root_pem: str | None = None
        self.good_chain: Leaf | None = None  # its authority makes wrong chains
        self._shown: tuple[Certificate, ...] = ()
        self.policy: TLSPolicy | None = None
        self.state: State | None = None
        self.listeners: list[Listener] = []
        self.recovery = RecoveryServer(now=self.clock.now)
        self.control_token = self.config.control_token or secrets.token_urlsafe(24)
        self.front = HTTPSFront(self.engine, self.hub, self.config.blob_host)
        self.https_port: int | None = None
        self.plain_port: int | None = None
        self._plain: asyncio.Server | None = None
        self._plan: asyncio.Task[None] | None = None
        self._stopping: list[Any] = []
        self.internal_errors: list[str] = []

    # -- life -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open every listener."""
        from taproot.emulator.control import Control  # imports this module

        asyncio.get_running_loop().set_exception_handler(self._internal)
        self._apply_templates()
        if self.config.state_dir is not None:
            self.state = State(self.config.state_dir)
            self.state.restore(self.hub)
        self._load_chain()
        for path in self.config.client_roots:
            self.trust_client_root(_read(path))
        for device in self.config.devices:
            self._register(device)
        for enrollment in self.config.enrollments:
            self.dps.registry.add(enrollment.make())
        for spec in self.config.faults:
            self.fault(spec)
        mqtt = Listener(
            "mqtt", lambda: MqttProtocol(self.engine), self.chains, self.config.tls,
            self.recorder, self.faults, self.policy,
        )  # fmt: skip
        self.mqtt = mqtt
        self.listeners.append(mqtt)
        await self._open("MQTT", mqtt.start(self.config.bind, self.config.mqtt_port))
        if self.config.https_port is not None:
            await self._start_https(self.config.https_port)
        if self.config.plain_port is not None:
            await self._open("plain MQTT", self._start_plain(self.config.plain_port))
        self.control = Control(self)
        await self._open("control API", self.control.start(self.config.control_port))
        self._stopping.append(self.control.stop)
        if not anycert.usable():
            self.recorder.emit(
                "warning",
                text="client certificates of unknown issuers fail in the handshake here: this "
                "Python does not let OpenSSL's verify callback be set",
            )
        if self.config.random_faults:
            self._plan = asyncio.create_task(self._random_faults())

    def _internal(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A fault of the emulator itself: recorded, and told on stderr as asyncio does."""
        error = context.get("exception")
        text = f"{context.get('message')}: {type(error).__name__ if error else ''} {error or ''}"
        self.internal_errors.append(text)
        self.recorder.emit("internal_error", text=text)
        loop.default_exception_handler(context)

    async def _start_https(self, port: int) -> None:
        await self.front.start()
        self._stopping.append(self.front.stop)
        listener = Listener(
            "https", self.front.factory, self.chains, self.config.tls, self.recorder,
            self.faults, self.policy,
        )  # fmt: skip
        self.listeners.append(listener)
        await self._open("HTTPS", listener.start(self.config.bind, port))
        self.front.port = self.https_port = listener.port

    async def _start_plain(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._plain = await loop.create_server(
            lambda: MqttProtocol(self.engine), "127.0.0.1", port
        )
        self.plain_port = self._plain.sockets[0].getsockname()[1]

    @property
    def control_url(self) -> str:
        """Where the control API is."""
        return self.control.url

    async def _open(self, name: str, starting: Any) -> None:
        try:
            await starting
        except PermissionError:
            raise UsageFailed(
                f"{name}: this port needs privileges; choose one from 1024 on"
            ) from None
        except OSError as error:
            raise UsageFailed(f"{name}: {error.strerror or error}; choose another port") from None

    async def stop(self) -> None:
        """Close everything; takes far less than a second."""
        if self._plan is not None:
            self._plan.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._plan
        for connection in list(self.engine.connections):
            connection.drop("the emulator ends", reset=True)
        for listener in self.listeners:
            await listener.stop()
        if self._plain is not None:
            self._plain.close()
        for stop in reversed(self._stopping):
            await stop()
        if self.state is not None:
            self.state.save(self.hub)

    def _load_chain(self) -> None:
        config = self.config
        if config.chain is not None:
            many = config.chain if isinstance(config.chain, (list, tuple)) else [config.chain]
            self.chains.set(*many)
            self._remember_good(many)
            root = getattr(many[0], "root", None)
            self.root_pem = root.pem if root is not None else None
        elif config.chain_file and config.key_file:
            self.chains.set(PemChain(_read(config.chain_file), _read(config.key_file)))
        else:
            leaf = self._own_leaf()
            self.chains.set(leaf)
            self._remember_good([leaf])
            self.root_pem = leaf.root.pem

    def _remember_good(self, chains: Sequence[Certificate]) -> None:
        """Keep what wrong chains are variations of."""
        self._shown = tuple(chains)
        leaf = next((one for one in chains if isinstance(one, Leaf)), None)
        self.good_chain = leaf or self.good_chain

    def _own_leaf(self) -> Leaf:
        names = sorted({*self.hub.hosts, *self.config.tls.profiles, "localhost"})
        if self.config.blob_host is not None:
            names.append(self.config.blob_host)
        addresses = sorted({"127.0.0.1", self.config.bind} - {"0.0.0.0", "::"})
        if self.state is not None:
            return self.state.leaf(names, addresses)
        return (
            Authority.root(f"Taproot emulator root {int(time.time())}")
            .intermediate("Taproot emulator issuing CA")
            .leaf(names[0], dns=names, ips=addresses)
        )

    def _apply_templates(self) -> None:
        """Enforce what the ARM templates of hub and DPS say."""
        try:
            found = [one for path in self.config.templates for one in templates.load(path)]
            if self.config.state_dir is not None:
                templates.hold(self.config.state_dir, found)
        except templates.TemplateError as error:
            raise UsageFailed(str(error)) from None
        for resource in found:
            name = f"{resource.name}.azure-devices.net"
            if resource.kind == "hub" and name not in self.hub.hosts:
                self.hub.hosts.append(name)
            if self.policy is None or resource.kind == "hub":
                self.policy = resource.policy
        if self.policy is not None and not self.policy.strict:
            self.config.tls.profile = "unrestricted"

    def _register(self, device: DeviceConfig) -> Identity:
        known = self.hub.registry.find(device.id)
        if known is not None and self.state is not None:
            return known  # from an earlier run; what is configured does not undo what was done
        found = self.hub.registry.add(
            device.id,
            auth=device.auth,
            primary_key=device.primary_key,
            secondary_key=device.secondary_key,
            thumbprints=device.thumbprints,
            enabled=device.enabled,
        )
        if device.desired:
            found.twin.desired.patch(device.desired)
        if device.tags:
            found.twin.patch_tags(device.tags)
        return found

    def _assigned(self, record: Registration, enrollment: Enrollment, how: dict[str, Any]) -> None:
        """DPS has assigned a device: register it here if it goes to this hub."""
        device = record.device_id
        if record.hub not in self.hub.hosts or device is None:
            return
        found = self.hub.registry.find(device)
        keys = [*how.get("keys", ()), None, None]
        if found is None:
            found = self.hub.registry.add(
                device, auth=how["auth"], primary_key=keys[0], secondary_key=keys[1],
                thumbprints=how.get("thumbprints", ()),
            )  # fmt: skip
        else:  # a rolled key or certificate: registering again tells the hub
            found.auth = how["auth"]
            found.primary_key, found.secondary_key = keys[0] or "", keys[1] or ""
            found.thumbprints = tuple(how.get("thumbprints", ()))
        twin = enrollment.initial_twin or {}
        if twin and not found.ever_connected:
            found.twin.patch_tags(twin.get("tags", {}))
            found.twin.desired.patch(twin.get("properties", {}).get("desired", {}))

    # -- operations -------------------------------------------------------------------------

    def add_device(self, identity: str, **facts: Any) -> Identity:
        """Register a device (`d`) or module (`d/m`)."""
        return self.hub.registry.add(identity, **facts)

    def remove_device(self, identity: str) -> None:
        """Remove a device or module."""
        self.hub.remove(identity)

    def twin(self, identity: str) -> dict[str, Any]:
        """Return a twin as a service reads it."""
        found = self.hub.registry.get(identity)
        return {
            "deviceId": found.device_id,
            **({"moduleId": found.module_id} if found.module_id else {}),
            "etag": found.twin.etag,
            "version": found.twin.version,
            "tags": found.twin.tags,
            "properties": {
                "desired": found.twin.desired.for_service(),
                "reported": found.twin.reported.for_service(),
            },
        }

    def patch_desired(self, identity: str, patch: Any) -> int:
        """Merge desired properties."""
        return self.hub.patch_desired(identity, patch)

    def patch_tags(self, identity: str, patch: Any) -> None:
        """Merge tags."""
        self.hub.registry.get(identity).twin.patch_tags(patch)

    def send_c2d(
        self,
        identity: str,
        body: bytes | str,
        properties: dict[str, Any] | None = None,
        **how: Any,
    ) -> str:
        """Queue a cloud-to-device message; return its id."""
        data = body.encode() if isinstance(body, str) else body
        return self.hub.send_c2d(identity, data, properties, **how).id

    def send_input(
        self, identity: str, name: str, body: bytes | str, properties: dict[str, Any] | None = None
    ) -> bool:
        """Send a message to an input of a module; False when it does not listen."""
        data = body.encode() if isinstance(body, str) else body
        return self.hub.send_input(identity, name, data, properties)

    async def invoke_method(
        self, identity: str, name: str, payload: Any = None, timeout_s: float = 30.0,
        connect_timeout_s: float = 0.0,
    ) -> MethodResult:  # fmt: skip
        """Call a direct method."""
        return await self.hub.invoke_method(identity, name, payload, timeout_s, connect_timeout_s)

    def switch_chain(
        self, *chains: Certificate, drop: bool = True, name: str | None = None
    ) -> int:
        """Show other chains from the next handshake on; return how many were dropped."""
        for chain in chains:
            check_chain(chain)
        self.chains.set(*chains, name=name)
        if name is None:
            self._remember_good(chains)
        self.recorder.emit("switch_chain", name=name, generation=self.chains.generation, drop=drop)
        return self.hub.drop(reason="the chain was switched", reset=False) if drop else 0

    def rotate_tickets(self) -> None:
        """Forget the ticket keys: no session handed out so far can be resumed."""
        for listener in self.listeners:
            listener.contexts.forget_tickets()

    def bad_chain(self, kind: str, drop: bool = True, name: str | None = None) -> int:
        """Show a wrong chain (`badchains.KINDS`); "none" shows the last good one again."""
        if self.good_chain is None or self.good_chain.issuer is None:
            raise UsageFailed("wrong chains need the hub's authority: start without --chain")
        if kind == "none":
            if name is not None:
                self.chains.forget(name)
                return 0
            return self.switch_chain(*self._shown, drop=drop)
        host = name or self.hub.hosts[0]
        leaf = badchains.make(kind, self.good_chain.issuer, host)
        self.chains.set(leaf, name=name)
        self.recorder.emit("switch_chain", name=name, kind=kind, drop=drop)
        return self.hub.drop(reason="the chain was switched", reset=False) if drop else 0

    async def add_listener(
        self, *chains: Certificate, port: int = 0, profile: str | None = None
    ) -> int:
        """Open another MQTT port with chains of its own in front of the same hub; return it.

        For probes of a root not yet in use, and for an attacker who holds an old root's key.
        """
        options = self.config.tls if profile is None else TLSOptions(profile)
        own = Chains()
        for chain in chains:
            check_chain(chain)
        own.set(*chains)
        listener = Listener(
            f"mqtt-{len(self.listeners)}", lambda: MqttProtocol(self.engine), own, options,
            self.recorder, self.faults, self.policy,
        )  # fmt: skip
        await self._open("MQTT", listener.start(self.config.bind, port))
        self.listeners.append(listener)
        return listener.port

    async def remove_listener(self, port: int) -> None:
        """Close a port opened by `add_listener`, and its connections."""
        for listener in [one for one in self.listeners if one.port == port]:
            await listener.stop()
            self.listeners.remove(listener)

    def drop(self, identity: str | None = None, reset: bool = True) -> int:
        """Drop a device's connection, or all."""
        return self.hub.drop(identity, reset=reset)

    def set_enabled(self, identity: str, enabled: bool) -> None:
        """Enable or disable a device."""
        self.hub.set_enabled(identity, enabled)

    def trust_client_root(self, pem: str) -> None:
        """Register a CA whose client certificates the hub accepts."""
        try:
            self.hub.registry.roots.extend(x509.load_pem_x509_certificates(pem.encode()))
        except ValueError:
            raise UsageFailed("a client root is a PEM certificate") from None

    def revoke(self, sha256: str) -> None:
        """Refuse a client certificate from now on."""
        self.hub.registry.revoked.add(sha256.upper().replace(":", ""))

    def enroll(self, identity: str, **facts: Any) -> Enrollment:
        """Add a DPS enrolment."""
        enrollment = Enrollment(identity, **facts)
        self.dps.registry.add(enrollment)
        return enrollment

    def dps_fail(self, identity: str | None = None, **facts: Any) -> None:
        """Let DPS answer the next requests with an error (`dps.Failure`), of one enrolment or all."""
        failure = Failure(**facts)
        if identity is None:
            self.dps.failures.append(failure)
            return
        found = self.dps.registry.find(identity)
        if found is None:
            raise UsageFailed(f"there is no enrolment '{identity}'")
        found.errors.append(failure)

    def service_connection_string(self, policy: str = "iothubowner") -> str:
        """Return what a service connects with, for one of the hub's shared access policies."""
        found = self.hub.registry.policies.get(policy)
        if found is None:
            known = ", ".join(sorted(self.hub.registry.policies))
            raise UsageFailed(f"there is no policy '{policy}'; known are {known}")
        host = self.hub.hosts[0]
        return f"HostName={host};SharedAccessKeyName={policy};SharedAccessKey={found.primary_key}"

    def fault(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Set a fault, or do at once what it says."""
        fault = faults.parse(spec)
        if fault.where == "now":
            for connection in self._connections(fault.device):
                self._now(connection, fault)
        elif fault.where == "all":
            self.recorder.emit("fault", fault=fault.text)
            for connection in list(self.engine.connections):
                connection.drop("blackout", reset=True)
            for listener in self.listeners:
                listener.blackout(fault.seconds)
        else:
            self.faults.add(fault)
        return fault.as_dict()

    def clear_faults(self, identity: str | None = None) -> int:
        """Forget faults that still wait."""
        return self.faults.clear(identity)

    def _connections(self, identity: str | None) -> list[Connection]:
        return [c for c in self.engine.connections if identity is None or c.identity == identity]

    def _now(self, connection: Connection, fault: Fault) -> None:
        self.recorder.emit("fault", fault=fault.text, identity=connection.identity)
        if fault.action == "reset":
            connection.drop("fault: reset", reset=True)
        elif fault.action == "kick":
            connection.close("fault: kick")
        elif fault.action == "expire":
            if connection.handler is not None and connection.handler.expiry is not None:
                connection.handler.expiry = self.clock.now()
                connection.watch_expiry()
        elif fault.action == "garbage":
            connection.inject(fault.data)
        elif fault.action == "oversize":
            connection.deliver("oversize", bytes(fault.bytes))
        elif fault.action == "half_open_now":
            connection.deafen()

    async def _random_faults(self) -> None:
        interval = self.config.fault_interval
        for wait, spec in faults.random_plan(self.config.seed, interval=interval):
            await asyncio.sleep(wait)
            self.faults.keep(_RANDOM_WAITING)
            self.fault(spec)

    def advance_clock(self, seconds: float) -> None:
        """Move the emulator's clock; tokens that end by it end now."""
        self.clock.advance(seconds)
        for connection in list(self.engine.connections):
            connection.watch_expiry()
        for found in self.hub.registry.all():
            found.queue.expire()

    async def recovery_over_tls(self, chain: Certificate) -> RecoveryServer:
        """Start an https server beside the recovery listener: the one that must not be used."""
        context = bare_context(chain, PROFILES["classic"])
        server = RecoveryServer(now=self.clock.now, context=context)
        await server.start()
        self._stopping.append(server.stop)
        return server

    async def publish_file(
        self, name: str, data: bytes, *, https: bool = False, **how: Any
    ) -> str:
        """Serve a file over plain HTTP, or by the HTTPS listener; return its URL.

        `how` are options of `downloads.Download`, and over plain HTTP those of a recovery route.
        """
        if https:
            if self.https_port is None:
                raise UsageFailed("there is no HTTPS listener: https_port is not set")
            self.front.downloads[f"/{name.lstrip('/')}"] = Download(data, **how)
            return f"https://{self.hub.hosts[0]}:{self.https_port}/{name.lstrip('/')}"
        if not getattr(self.recovery, "port", 0):
            await self.recovery.start()
            self._stopping.append(self.recovery.stop)
        path = f"/{name.lstrip('/')}"
        known = {f.name for f in dataclasses.fields(Download)}
        download = Download(data, **{k: v for k, v in how.items() if k in known})
        self.recovery.serve(path, download, **{k: v for k, v in how.items() if k not in known})
        return self.recovery.url(path)

    def set_date_offset(self, seconds: float) -> None:
        """Let every HTTP answer carry a wrong Date: `seconds` beside the emulator's clock."""
        self.front.date_offset = self.recovery.date_offset = float(seconds)

    def recovery_requests(self) -> list[dict[str, Any]]:
        """Return what the plain HTTP listener was asked, byte for byte."""
        return [
            {
                "time": request.time,
                "peer": request.peer,
                "raw": request.raw.decode("latin-1"),
                "path": request.path,
                "only_host": request.only_host,
                "sent": request.sent,
            }
            for request in self.recovery.requests
        ]

    def status(self) -> dict[str, Any]:
        """Return what `taproot emulator status` shows; no key, no token."""
        return {
            "time": stamp(self.clock.now()),
            "host_names": self.hub.hosts,
            "mqtt_port": self.mqtt.port,
            "https_port": self.https_port,
            "connections": len(self.engine.connections),
            "messages": self.hub.messages.total,
            "events": self.recorder.seq,
            "strictness": self.recorder.counts["strictness"],
            "chain_generation": self.chains.generation,
            "devices": [found.summary() for found in self.hub.registry.all()],
            "faults": [fault.as_dict() for fault in self.faults.waiting],
        }


def check_chain(chain: Certificate) -> None:
    """Refuse a chain that no handshake could use; a wrong one may well be on purpose."""
    try:
        bare_context(chain)
    except (ssl.SSLError, ValueError) as error:
        text = getattr(error, "reason", None) or error
        raise UsageFailed(f"chain and key do not work together: {text}") from None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageFailed(
            f"{path}: {getattr(error, 'strerror', None) or 'not a PEM file'}"
        ) from None

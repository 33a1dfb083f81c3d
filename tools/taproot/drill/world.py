"""Everything one run needs: certificates, operator keys, bundles, the hub and the devices.

Nothing here outlives the run unless `--keep DIR` names a folder; no key is shipped or reused.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from taproot.drill.chains import LARGEST, SMALLEST, Hierarchy
from taproot.drill.device import Device, StepFailed
from taproot.emulator import EmulatorConfig, running
from taproot.pki import Authority
from taproot.trust import keys, signing
from taproot.trust import package as packages
from taproot.trust.fleet import Fleet
from taproot.trust.roots import cloud_roots

# -X heapsize for a device with SAS, and for one with X.509 that also carries the DPS client.
HEAPS = {"unix64": ("192k", "192k"), "unix32": ("96k", "112k")}
# The drill runs with the settings of the shipped boards.
_INTERPRETERS = {"unix64": "unix64-board", "unix32": "unix32-board"}
_TELEMETRY_MS = 50
_PART = 2000
_METHOD_S = 8  # a device that closes its connection to make room does not answer
# Enough for what the story demands of a device without a connection, little enough for 96 KiB.
_MQTT = {"fleet_size_hint": 2, "max_pending": 30, "buffer_in": 2048, "buffer_out": 1024}


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    devices: int = 1
    keep: Path | None = None
    seed: int = 1
    build: str = "unix64"
    chain: str = "rsa"
    keep_floor: bool = False
    kills: int = 4


class World:
    """The run's things; a context manager that ends every process it started."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.random = random.Random(options.seed)
        self.started = time.monotonic()
        self._temporary = None if options.keep else tempfile.mkdtemp(prefix="taproot-drill-")
        self.folder = Path(options.keep or self._temporary or ".")
        self.devices: list[Device] = []
        self.secrets: list[str] = []
        self.timers: list[threading.Timer] = []
        self._stack = contextlib.ExitStack()
        self.emu: Any = None

    # Step 1 and 2: certificates, keys, bundles

    def make_chains(self) -> str:
        """Make old and new root, each with an issuing CA and a leaf; say their sizes."""
        self.old = Hierarchy("old", self.options.chain)
        self.new = Hierarchy("new", self.options.chain)
        sizes = [h.leaf.certificate_message_size for h in (self.old, self.new)]
        if not all(SMALLEST <= size <= LARGEST for size in sizes):
            raise StepFailed(f"Certificate messages of {sizes} B, not {SMALLEST} to {LARGEST} B")
        return f"two roots, Certificate messages of {sizes[0]} and {sizes[1]} B"

    def make_bundles(self) -> str:
        """Make the operator's keys and the factory bundle: old root and the public Azure roots."""
        self.fleet = Fleet.create(f"demo-{self.options.seed}", root=(2, 3), bundle=(2, 3))
        self.azure = cloud_roots("public")
        self.old_root = ("old root", self.old.root.der, ["hub", "dps"])
        self.new_root = ("new root", self.new.root.der, ["hub", "dps"])
        self.factory = self.fleet.bundle_jws(version=1, roots=[self.old_root, *self.azure])
        return (
            f"fleet {self.fleet.name}, bundle role 2-of-3; bundle 1: old root and "
            f"{len(self.azure)} public Azure roots, {len(self.factory)} B"
        )

    def package(
        self, version: int, roots: list[Any], signatures: int | None = None, **more: Any
    ) -> bytes:
        """A signed package; `signatures` below the threshold makes one to be refused."""
        signers = self.fleet.bundle_keys[: signatures or self.fleet.bundle_threshold]
        bundle = self.fleet.bundle_jws(version=version, roots=roots, signers=signers, **more)
        return self.fleet.package(bundle, self.fleet.keysets[1:])

    def foreign_package(self, version: int, roots: list[Any]) -> bytes:
        """A package of the right fleet name, signed by keys that nobody knows."""
        stranger = Fleet.create(self.fleet.name)
        return stranger.package(stranger.bundle_jws(version=version, roots=roots))

    def rotate_bundle_keys(self) -> None:
        """Replace the keys of the bundle role; key-set N+1, signed by the root role."""
        self.revoked_keys = self.fleet.bundle_keys
        self.fleet.rotate(bundle_keys=[keys.generate(f"bundle-{n}") for n in (4, 5, 6)])

    def revoked_package(self, version: int, roots: list[Any]) -> bytes:
        """A package of the present key version, signed by the keys that were rotated out."""
        signers = self.revoked_keys[: self.fleet.bundle_threshold]
        envelope = signing.Envelope(self.fleet.bundle_payload(version=version, roots=roots))
        for key in signers:
            envelope.sign(key, signing.BUNDLE)
        return self.fleet.package(envelope.to_bytes(), self.fleet.keysets[1:])

    def flipped(self, package: bytes) -> bytes:
        """The package with one character of its payload changed."""
        start = package.index(b'"payload":"', package.index(b'"bundle"')) + 11
        place = start + self.random.randrange(400)
        other = b"A" if package[place : place + 1] != b"A" else b"B"
        return package[:place] + other + package[place + 1 :]

    # Step 3: hub and devices

    def start_hub(self) -> str:
        """Start the emulator on the old chain, and the server that devices recover from."""
        self.operator_ca = Authority.root("device makers' CA")
        self.emu = self._enter(EmulatorConfig(chain=self.old.leaf))
        self.emu.call(self.emu.emulator.trust_client_root, self.operator_ca.pem)
        self.recovery_url = self.emu.publish_file("recovery.json", b"")
        return f"hub on {self.emu.host}:{self.emu.mqtt_port}, TLS 1.2, chain of the old root"

    def _enter(self, config: EmulatorConfig) -> Any:
        return self._stack.enter_context(running(config))

    def start_preview(self) -> int:
        """Start a second hub that already serves the new chain; return its port."""
        return self._enter(EmulatorConfig(chain=self.new.leaf, https_port=None)).mqtt_port

    def add_device(self, name: str, **more: Any) -> Device:
        """Register a device that connects with SAS, and start it."""
        record = self.emu.add_device(name)
        self.secrets.append(record.primary_key)
        return self._start(name, {"connection_string": record.connection_string, **more})

    def add_x509_device(self, name: str, **more: Any) -> Device:
        """Enrol a device with DPS by the CA of its certificate, and start it."""
        issuing = self.operator_ca.intermediate("device makers' line 1", "p256")
        leaf = issuing.leaf(name, "p256", client=True)
        self.emu.enroll("line-1", group=True, roots=(self.operator_ca.cert,))
        folder = self._folder_of(name)
        leaf.write(folder, "device")
        dps = {
            "id_scope": EmulatorConfig().id_scope,
            "registration_id": name,
            "host": self.emu.host,
            "port": self.emu.mqtt_port,
        }
        files = {"certificate": "device.pem", "key": "device.key"}
        return self._start(name, {"dps": dps, **files, **more})

    def _folder_of(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _start(self, name: str, config: dict[str, Any]) -> Device:
        build = self.options.build
        heap = HEAPS[build]["dps" in config]
        folder = self._folder_of(name)
        for left in ("trust", "factory"):
            shutil.rmtree(folder / left, ignore_errors=True)
        for value in folder.glob("*.kv"):
            value.unlink()
        (folder / "confirmed").unlink(missing_ok=True)
        self.fleet.write_factory(folder / "factory", self.factory)
        config = {
            "factory_folder": "factory",
            "trust_folder": "trust",
            "client": {
                "port": self.emu.mqtt_port,
                "https_port": self.emu.https_port,
                "mqtt": _MQTT,
            },
            "telemetry_ms": _TELEMETRY_MS,
            **config,
        }
        device = Device(name, config, folder, _INTERPRETERS[build], heap, limit=400)
        self.devices.append(device.start())
        return device

    # What the hub saw

    def recorded(self, device: Device) -> list[int]:
        """Numbers of a device's messages in the order in which the hub recorded them."""
        return [message.json()["n"] for message in self.emu.messages(device.name)]

    def reported(self, device: Device) -> dict[str, Any]:
        """The device's reported properties."""
        return self.emu.twin(device.name)["properties"]["reported"]

    def publish(self, device: Device, version: int, package: bytes, name: str) -> None:
        """Do what an operator does: put the package on a server, point the twin at it."""
        url = self.emu.publish_file(name, package)
        self._wish(device, packages.desired_url(version, package, url))

    def publish_in_twin(self, device: Device, version: int, package: bytes) -> None:
        """Put the package itself into the twin, in chunks: no second server is needed."""
        self._wish(device, packages.desired_twin(version, package))

    def _wish(self, device: Device, wish: dict[str, Any]) -> None:
        """Replace the wish: what an earlier one named must not stay beside it."""
        wish = wish.get("trust", wish)
        old = self.emu.twin(device.name)["properties"]["desired"].get("trust", {})
        gone = {name: None for name in old if name not in wish}
        self.emu.patch_desired(device.name, {"trust": {**gone, **wish}})

    def send_in_parts(self, device: Device, package: bytes) -> int:
        """Send the package as C2D messages of at most 2 KB; return how many."""
        parts = [package[at : at + _PART] for at in range(0, len(package), _PART)]
        digest = packages.sha256(package)
        for index, part in enumerate(parts):
            properties = {
                "trust": "part",
                "index": str(index),
                "count": str(len(parts)),
                "sha256": digest,
            }
            self.emu.send_c2d(device.name, part, properties)
        return len(parts)

    def call(self, device: Device, method: str, payload: Any) -> tuple[int, Any]:
        """Call a direct method; return status and answer."""
        answer = self.emu.invoke_method(device.name, method, payload, timeout_s=_METHOD_S)
        return answer.status, answer.payload

    def is_connected(self, device: Device) -> bool:
        """True while the hub has a connection of this device."""
        kinds = [
            event["type"]
            for event in self.emu.events()
            if event["type"] in ("connect", "disconnect") and event.get("identity") == device.name
        ]
        return bool(kinds) and kinds[-1] == "connect"

    @staticmethod
    def poll(test: Callable[[], bool], limit: float) -> bool:
        """Wait until `test` holds, at most `limit` seconds; return whether it does."""
        end = time.monotonic() + limit
        while not test():
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

    def connects(self, device: Device) -> list[dict[str, Any]]:
        """The hub's `connect` events of a device."""
        return [
            event
            for event in self.emu.events()
            if event["type"] == "connect" and event.get("identity") == device.name
        ]

    def __enter__(self) -> World:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for timer in self.timers:
            timer.cancel()
            timer.join(5)
        for device in self.devices:
            device.close()
            if not self._temporary:
                device.write_log()
        self._stack.close()
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

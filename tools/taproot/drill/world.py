"""Everything one run needs: certificates, operator keys, bundles, the hub and the devices.

Nothing here outlives the run unless `--keep DIR` names a folder; no key is shipped or reused.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from taproot.drill.chains import LARGEST, SMALLEST, Hierarchy
from taproot.drill.device import Device, StepFailed
from taproot.emulator import EmulatorConfig, running
from taproot.trust import package as packages
from taproot.trust.fleet import Fleet
from taproot.trust.roots import cloud_roots

HEAPS = {"unix64": "192k", "unix32": "96k"}
_TELEMETRY_MS = 50
# Enough for what the story demands of a device without a connection, little enough for 96 KiB.
_MQTT = {"max_pending": 30, "buffer_in": 2048, "buffer_out": 1024}


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    devices: int = 1
    keep: Path | None = None
    seed: int = 1
    build: str = "unix64"
    chain: str = "rsa"


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
        self._emulator: Any = None
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

    def package(self, version: int, roots: list[Any], signatures: int | None = None) -> bytes:
        """A signed package; `signatures` below the threshold makes one to be refused."""
        signers = self.fleet.bundle_keys[: signatures or self.fleet.bundle_threshold]
        bundle = self.fleet.bundle_jws(version=version, roots=roots, signers=signers)
        return self.fleet.package(bundle)

    def flipped(self, package: bytes) -> bytes:
        """The package with one character of its payload changed."""
        start = package.index(b'"payload":"', package.index(b'"bundle"')) + 11
        place = start + self.random.randrange(400)
        other = b"A" if package[place : place + 1] != b"A" else b"B"
        return package[:place] + other + package[place + 1 :]

    # Step 3: hub and devices

    def start_hub(self) -> str:
        """Start the emulator on the old chain."""
        self._emulator = running(EmulatorConfig(chain=self.old.leaf, mqtt_port=0, https_port=0))
        self.emu = self._emulator.__enter__()
        return f"hub on {self.emu.host}:{self.emu.mqtt_port}, TLS 1.2, chain of the old root"

    def add_device(self, name: str, *, update_agent: bool) -> Device:
        """Register a device, lay out its folder and start its program."""
        record = self.emu.add_device(name)
        self.secrets.append(record.primary_key)
        folder = self.folder / name
        if folder.exists():
            shutil.rmtree(folder)
        factory = folder / "factory"
        factory.mkdir(parents=True)
        (factory / "keyset.jws").write_bytes(self.fleet.keyset_jws())
        (factory / "bundle.jws").write_bytes(self.factory)
        (factory / "build_date").write_text(str(self.fleet.issued))
        (folder / "trust").mkdir()
        config = {
            "connection_string": record.connection_string,
            "factory_folder": "factory",
            "trust_folder": "trust",
            "update_agent": update_agent,
            "client": {"port": self.emu.mqtt_port, "mqtt": _MQTT},
            "telemetry_ms": _TELEMETRY_MS,
        }
        device = Device(
            name, config, folder, self.options.build, HEAPS[self.options.build], limit=240
        )
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
        wish = packages.desired_url(version, package, url)
        self.emu.patch_desired(device.name, {"trust": wish})

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
        for device in self.devices:
            device.close()
            if not self._temporary:
                device.write_log()
        if self._emulator is not None:
            self._emulator.__exit__(None, None, None)
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

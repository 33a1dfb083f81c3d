"""A local IoT Hub and Device Provisioning Service for tests. Not a Microsoft product.

    from taproot.emulator import EmulatorConfig, running

    with running(EmulatorConfig()) as emu:
        device = emu.add_device("dev1")
        print(device.connection_string, emu.mqtt_port)

What each module does: README.md in this folder.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Emulator", "EmulatorConfig", "Running", "running"]


def __getattr__(name: str) -> Any:
    """Load the engine when it is asked for: its parts are usable without aiohttp and zmqtt."""
    if name == "EmulatorConfig":
        from taproot.emulator.config import EmulatorConfig

        return EmulatorConfig
    if name == "Emulator":
        from taproot.emulator.server import Emulator

        return Emulator
    if name in ("Running", "running"):
        from taproot.emulator import run

        return getattr(run, name)
    raise AttributeError(f"module 'taproot.emulator' has no attribute '{name}'")

"""What every step of the drill leans on: the world, the devices, waiting for what the hub sees."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from taproot.console import Report
from taproot.drill.device import Device, StepFailed
from taproot.drill.world import World

CONNECT_S = 30.0
INSTALL_S = 60.0
RECONNECT_S = 60.0
MESSAGES, OFFLINE = 200, 20

Outcome = tuple[str, dict[str, Any]]
Trust = dict[str, Any]


class Stage:
    """One run: `followers` follow the operator, `control` has its update agent off."""

    def __init__(self, world: World, report: Report) -> None:
        self.world, self.report = world, report
        self.followers: list[Device] = []
        self.control: Device
        self.cuts = 0

    @property
    def all(self) -> list[Device]:
        """Every device of the run."""
        return [*self.followers, self.control]

    def marks(self) -> dict[str, int]:
        """A place in each device's events, for waits that must see something new."""
        return {device.name: device.mark() for device in self.all}

    def trust(self, device: Device) -> Trust:
        """What the device last reported about its trust store."""
        return self.world.reported(device).get("trust", {})

    def wait_trust(
        self, device: Device, wanted: Callable[[Trust], bool], timeout: float = INSTALL_S
    ) -> Trust:
        """Wait until the device reports what is wanted."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            trust = self.trust(device)
            if trust and wanted(trust):
                return trust
            time.sleep(0.05)
        raise StepFailed(
            f"{device.name}: after {timeout:g} s the twin reports {self.trust(device)}; "
            f"its last words: {device.last_words()}"
        )

    def wait_version(self, device: Device, version: int, timeout: float = INSTALL_S) -> Trust:
        """Wait until the device reports this bundle as confirmed."""
        return self.wait_trust(
            device,
            lambda trust: trust.get("version") == version and trust.get("state") == "good",
            timeout,
        )

    def wait_refused(self, device: Device, before: Trust, timeout: float = INSTALL_S) -> str:
        """Wait for a new `last_error`; everything else must be as it was. Return its code.

        Probes are no packages: the one that the twin names is made again after a reboot.
        """
        old = before.get("last_error")
        after = self.wait_trust(
            device, lambda trust: trust.get("last_error") not in (None, old), timeout
        )
        free = ("last_error", "probes")
        kept = {key: value for key, value in before.items() if key not in free}
        changed = [key for key, value in kept.items() if after.get(key) != value]
        if changed:
            raise StepFailed(f"{device.name}: a refused package changed {changed}")
        return after["last_error"]["code"]

    def wait_back(self, devices: list[Device], marks: dict[str, int]) -> dict[str, int]:
        """Wait until these are connected again; milliseconds since now for each."""
        began = time.monotonic()
        found = {}
        for device in devices:
            event = device.wait("connected", RECONNECT_S, since=marks[device.name])
            found[device.name] = max(0, round((event["time"] - began) * 1000))
        return found

    def cut_power(self, device: Device) -> None:
        """Cut a device's power at a random moment of the next second, then let it boot again."""
        if self.cuts >= self.world.options.kills:
            return
        self.cuts += 1

        def cut() -> None:
            device.kill()
            device.start()

        timer = threading.Timer(0.2 + self.world.random.random(), cut)
        timer.daemon = True
        self.world.timers.append(timer)
        timer.start()

    @staticmethod
    def names(devices: list[Device]) -> str:
        """Names for a line of the report."""
        return ", ".join(device.name for device in devices)

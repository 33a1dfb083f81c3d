"""The platform object of the emulated board: what agent.py needs from the machine.

Responsible for: ending the emulator on reset, saying what the device is. All else is as on unix:
network and clock belong to the host, values are files.
"""

import os

import machine
from azure_iot.unix import platform as unix


class Platform(unix.Platform):
    """`config` is a dict, or the path of a JSON file with one."""

    def reset(self) -> None:
        """End the emulator: the host starts it anew with the same flash."""
        machine.reset()

    def info(self) -> dict:
        """Say what the device is, for its reported properties."""
        return {"platform": "qemu", "system": os.uname().machine}

"""The platform object of the unix port: what agent.py needs from the machine.

Responsible for: configuration from a JSON file, key-value files, time, a watchdog that counts.
Not for: connecting. The operating system owns network and clock; `sync_time` trusts it unless
the configuration says otherwise. Source: contracts.md section 5.

    platform = Platform("device.json")
"""

import os

from micropython import const

from azure_iot.clock import Clock, default
from azure_iot.transient import Transient

_MAX_VALUE = const(4096)


class FileKV:
    """Small values in one folder, a file per key; `get(key) -> bytes | None`."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def _path(self, key: str) -> str:
        for letter in key:
            if not (letter.isalpha() or letter.isdigit() or letter in "-_"):
                raise ValueError("a key is made of letters, digits, - and _")
        return "%s/%s.kv" % (self._folder, key)

    def get(self, key: str) -> "bytes | None":
        """Read a value; None when there is none."""
        try:
            with open(self._path(key), "rb") as file:
                return file.read(_MAX_VALUE)
        except OSError:
            return None

    def set(self, key: str, value: bytes) -> None:
        """Write a value of at most 4,096 bytes: complete or not at all."""
        if len(value) > _MAX_VALUE:
            raise ValueError("a value has at most %d bytes" % _MAX_VALUE)
        path = self._path(key)
        with open(path + ".new", "wb") as file:
            file.write(value)
        os.rename(path + ".new", path)

    def delete(self, key: str) -> None:
        """Forget a value."""
        try:
            os.remove(self._path(key))
        except OSError:  # it was not there
            return


class Platform:
    """`config` is a dict, or the path of a JSON file with one."""

    def __init__(self, config: "dict | str", folder: str = ".") -> None:
        self.config = _read(config) if isinstance(config, str) else config
        self.kv = FileKV(folder)
        self.clock = default()
        self.feeds = 0
        if "clock_start" in self.config:
            # What a board's clock shows after a power cut.
            self.clock.set_time(self.config["clock_start"])

    async def network_up(self) -> None:
        """Wait until there is a network: the operating system has one."""

    async def sync_time(self) -> "int | None":
        """Give the time of the operating system; None when `time_synchronised` is false.

        `time_offset` adds seconds: a time server that lies, for drills.
        """
        if not self.config.get("time_synchronised", True):
            return None
        return Clock().unix_time() + self.config.get("time_offset", 0)

    def feed(self) -> None:
        """Feed the watchdog; here it only counts."""
        self.feeds += 1

    def reset(self) -> None:
        """Start the device anew."""
        raise SystemExit(3)

    def info(self) -> dict:
        """Say what the device is, for its reported properties."""
        version = os.uname() if hasattr(os, "uname") else ("unix",)
        return {"platform": "unix", "system": version[0]}


def _read(path: str) -> dict:
    with Transient():
        from azure_iot.configuration import read

        return read(path)

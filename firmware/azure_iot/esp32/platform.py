"""The platform object of an ESP32: Wi-Fi, time, key-value store, watchdog, identity.

Responsible for: what agent.py needs. Not for: connecting to the hub.
Source: contracts.md section 5. Not yet run on hardware.

    Agent(Platform("device.json")).run(app)

`device.json` has, beside what agent.py names: ssid, wifi_key, time_servers (list), hostname,
watchdog_s (0 = off, the default: a watchdog cannot be stopped and would end a REPL session).
"""

import json

import machine
from esp32 import NVS
from micropython import const

from azure_iot.clock import Clock
from azure_iot.errors import CredentialError

from . import sntp, wlan

_SERVERS = ("pool.ntp.org", "time.windows.com", "time.google.com")
_MAX_VALUE = const(1024)


class NVSStore:
    """Small values in NVS, atomic per key; keys of at most 15 characters."""

    def __init__(self, namespace: str = "azure_iot") -> None:
        self._nvs = NVS(namespace)

    def get(self, key: str) -> "bytes | None":
        """Read a value; None when there is none."""
        buffer = bytearray(_MAX_VALUE)
        try:
            size = self._nvs.get_blob(key, buffer)
        except OSError:
            return None
        return bytes(buffer[:size])

    def set(self, key: str, value: bytes) -> None:
        """Write a value of at most 1,024 bytes."""
        if len(value) > _MAX_VALUE:
            raise ValueError("a value has at most %d bytes" % _MAX_VALUE)
        self._nvs.set_blob(key, value)
        self._nvs.commit()

    def delete(self, key: str) -> None:
        """Forget a value."""
        try:
            self._nvs.erase_key(key)
            self._nvs.commit()
        except OSError:  # it was not there
            return


class Platform:
    """`config` is a dict, or the path of a JSON file with one."""

    def __init__(self, config: "dict | str") -> None:
        self.config = _read(config) if isinstance(config, str) else config
        self.kv = NVSStore()
        self.clock = Clock(_set_rtc)
        self._watchdog = None

    async def network_up(self) -> None:
        """Associate with the Wi-Fi. Raises ConnectionFailedError in words."""
        config = self.config
        if "ssid" in config:
            await wlan.connect(
                config["ssid"], config.get("wifi_key", ""), hostname=config.get("hostname", "")
            )

    async def sync_time(self) -> "int | None":
        """Give the time of the first time server that answers."""
        return await sntp.ask(self.config.get("time_servers") or _SERVERS)

    def feed(self) -> None:
        """Feed the watchdog, if one is wanted; it begins with the first feed."""
        seconds = self.config.get("watchdog_s", 0)
        if seconds:
            if self._watchdog is None:
                self._watchdog = machine.WDT(timeout=seconds * 1000)
            self._watchdog.feed()

    def reset(self) -> None:
        """Start the device anew."""
        machine.reset()

    def info(self) -> dict:
        """Say what the device is, for its reported properties."""
        return {"platform": "esp32", "reset_cause": machine.reset_cause()}


def _set_rtc(unix_seconds: int) -> None:
    import time

    from azure_iot.clock import epoch_offset

    year, month, day, hour, minute, second, weekday, _ = time.gmtime(unix_seconds - epoch_offset())
    machine.RTC().datetime((year, month, day, weekday, hour, minute, second, 0))


def _read(path: str) -> dict:
    try:
        with open(path) as file:
            config = json.load(file)
    except (OSError, ValueError) as error:
        raise CredentialError("the configuration file %s cannot be read" % path, error)
    if not isinstance(config, dict):
        raise CredentialError("the configuration file %s holds no JSON object" % path)
    return config

"""The platform object of an ESP32: Wi-Fi, time, key-value store, watchdog, identity.

Responsible for: what agent.py needs. Not for: connecting to the hub.
Source: contracts.md section 5. Not yet run on hardware.

    Agent(Platform("device.json")).run(app)

`device.json` has, beside what agent.py names: ssid, wifi_key, time_servers (list), hostname,
watchdog_s (0 = off, the default: a watchdog cannot be stopped and would end a REPL session).
"""

import machine

from azure_iot.clock import Clock
from azure_iot.transient import Transient

from . import sntp, wlan
from .nvs import NVSMirror, NVSStore

_SERVERS = ("pool.ntp.org", "time.windows.com", "time.google.com")


class Platform:
    """`config` is a dict, or the path of a JSON file with one."""

    def __init__(self, config: "dict | str") -> None:
        self.config = _read(config) if isinstance(config, str) else config
        self.kv = NVSStore()
        self.mirror = NVSMirror()  # of the trust store's floors
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
    with Transient():
        from azure_iot.configuration import read

        return read(path)

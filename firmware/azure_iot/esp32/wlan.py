"""Wi-Fi, with a time limit and words for what went wrong.

Responsible for: associating. Not for: MQTT, which only needs a network that works.
Source: MicroPython documentation, network.WLAN.

    await connect("ssid", "key", timeout_s=20)
"""

import asyncio

import network
from micropython import const

from azure_iot.errors import ConnectionFailedError

_POLL_MS = const(200)
# Status of ESP-IDF (esp_wifi_types.h), as network.WLAN.status() gives it.
_WORDS = (
    (201, "no access point has this name: wrong name, out of reach, or 5 GHz only (an ESP32 "
          "hears 2.4 GHz)"),
    (202, "the access point refuses the key"),
    (203, "the access point refused the association"),
    (204, "the handshake timed out: usually a wrong key, or WPA3 only (choose WPA2/WPA3 mixed)"),
    (205, "the connection failed"),
    (210, "no access point offers a security mode this firmware speaks (WPA3 only?)"),
    (211, "the access point's security is below the threshold"),
    (15, "the key exchange timed out: usually a wrong key"),
)  # fmt: skip


async def connect(ssid: str, key: str, timeout_s: int = 20, hostname: str = "") -> object:
    """Associate and wait for an address; raises ConnectionFailedError in words."""
    if hostname:
        network.hostname(hostname)
    wlan = network.WLAN(network.STA_IF)
    wlan.active(True)
    if wlan.isconnected():
        return wlan
    wlan.connect(ssid, key)
    left = timeout_s * 1000
    while not wlan.isconnected():
        if left <= 0:
            status = wlan.status()
            wlan.disconnect()
            raise ConnectionFailedError(
                'no Wi-Fi "%s" within %d s: %s' % (ssid, timeout_s, words(status)), "wifi"
            )
        await asyncio.sleep_ms(_POLL_MS)
        left -= _POLL_MS
    return wlan


def words(status: int) -> str:
    """Say what a status of network.WLAN means."""
    for number, text in _WORDS:
        if number == status:
            return text
    return "status %d" % status

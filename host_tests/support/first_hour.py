"""Mistakes of the first hour: how each is made, the words it ends in, and the remedy.

Run as a program it writes firmware/docs/first-hour.md; a test compares that page with this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "firmware" / "docs" / "first-hour.md"
HEAP = "1m"


def _nothing(emu: Any, device: str) -> None:
    """Leave the hub as it is."""


@dataclass(frozen=True)
class Case:
    """One mistake."""

    name: str
    mistake: str
    config: Callable[[dict[str, Any]], dict[str, Any]]
    error: str
    words: tuple[str, ...]
    remedy: str
    prepare: Callable[[Any, str], None] = _nothing
    heap: str = HEAP
    build: str = "unix64"
    patience: int = 6
    frozen: bool = False


def _cs(facts: dict[str, Any], old: str = "", new: str = "", **client: Any) -> dict[str, Any]:
    text = facts["cs"].replace(old, new) if old else facts["cs"]
    return {"connection_string": text, "client": {"port": facts["port"], **client}}


def _dps(facts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "dps": {
            "id_scope": "0ne00000001", "registration_id": "r1", "key": facts["key"],
            "host": "localhost", "port": facts["port"], **more,
        },
        "client": {"port": facts["port"]},
    }  # fmt: skip


CLOSED, SILENT = "127.0.0.3", "127.0.0.4"  # nobody listens on 8883; somebody who never answers
BLOCKED = ("refuses connections", "is port 8883 blocked? websocket=True uses 443")
REFUSED = ("CONNACK 5", "unknown to the server, disabled, or a wrong key")
TELL = (
    "ask the hub which it is: `az iot hub device-identity show -d DEVICE -n HUB` says disabled, "
    "not found (not registered), or shows keys that differ from the device's (rotated)"
)

CASES = (
    Case(
        "service-string", "the hub's service string (`iothubowner`) pasted",
        lambda f: _cs(f, "DeviceId=first-service-string", "SharedAccessKeyName=iothubowner"),
        "CredentialError", ("opens the whole hub", "never put it on a device"),
        "take the device's own connection string; the service one was not stored",
    ),
    Case(
        "scope-as-host", "a DPS id scope in the host field",
        lambda f: _cs(f, "HostName=localhost", "HostName=0ne00A1B2C3"),
        "CredentialError", ("DPS id scope, not a host name",),
        "give the scope to `dps`, the host comes back from DPS",
    ),
    Case(
        "group-key", "the DPS group key used as device key",
        lambda f: _dps(f), "log", ("no assignment yet", "group's own key", "taproot dps-key"),
        "derive a key per device with `taproot dps-key`, on the operator's side",
        prepare=lambda emu, device: emu.enroll(
            "first-line", group=True, primary_key="Z3JvdXAga2V5IG9mIHRoaXJ0eS10d28gYnl0ZXMuLi4="
        ),
    ),
    Case(
        "not-enrolled", "the device is not enrolled at DPS yet",
        lambda f: _dps(f, registration_id="first-nobody"),
        "log", ("no assignment yet", "does not fit the enrollment"),
        "enroll it: the device asks again by itself, within five minutes at most",
    ),
    Case(
        "scope-as-word", "something else in the place of the id scope",
        lambda f: _dps(f, id_scope="my-dps.azure-devices-provisioning.net"),
        "CredentialError", ("is not an id scope", "it reads like 0ne00A1B2C3"),
        "take the id scope from the overview of the DPS instance",
    ),
    Case(
        "cut-key", "a key that was cut",
        lambda f: _cs(f, f["key"], f["key"][:-2]), "CredentialError", ("not base64", "whole"),
        "copy the whole key, with the `=` at its end",
    ),
    Case(
        "leaf-as-root", "the server's own certificate given as root",
        lambda f: {**_cs(f), "roots": ["leaf.der"]}, "CredentialError",
        ("'localhost' is no root", "give the root"),
        "give the root certificate (certs/ has Azure's), not what the server presents",
    ),
    Case(
        "intermediate-as-root", "the server's issuing CA given as root",
        lambda f: {**_cs(f), "roots": ["intermediate.der"]}, "CredentialError",
        ("is no root", "issued it and may replace it any day"),
        "give the root certificate: an issuing CA works only until the hub changes it",
    ),
    Case(
        "pem-as-root", "a root in PEM form where DER is meant",
        lambda f: {**_cs(f), "roots": ["device.pem"]}, "CredentialError",
        ("not a certificate in DER form", "openssl x509 -in root.pem -outform der"),
        "convert it: `openssl x509 -in root.pem -outform der -out root.der`",
    ),
    Case(
        "other-root", "a root that does not sign this hub's chain",
        lambda f: {**_cs(f), "roots": ["other.der"]}, "TrustError",
        ("no trusted root signs", "surface root"),
        "the message names who signed the chain: add that root",
    ),
    Case(
        "clock-2000", "clock at 2000-01-01 and NTP blocked",
        lambda f: {**_cs(f), "clock_start": 946684800, "time_synchronised": False},
        "ClockError", ("before 2025", "set the time first"),
        "let UDP port 123 through, or set the clock; certificates and tokens depend on it",
    ),
    Case(
        "port-blocked", "port 8883 blocked, 443 answers",
        lambda f: {"connection_string": f["cs"].replace("localhost", CLOSED)},
        "ConnectionFailedError", BLOCKED, "use `websocket=True`",
    ),
    Case(
        "port-silent", "port 8883 a black hole, 443 answers",
        lambda f: {"connection_string": f["cs"].replace("localhost", SILENT)},
        "ConnectionFailedError", ("did not answer within", *BLOCKED[1:]), "use `websocket=True`",
        patience=20,
    ),
    Case(
        "captive-portal", "a captive portal in between",
        lambda f: {"connection_string": f["cs"], "client": {"port": f["portal"]}},
        "ProtocolError", ("does not speak TLS", "captive portal"),
        "log in at the portal, or use another network",
    ),
    Case(
        "small-heap", "a heap too small for a TLS connection beside the rest", _cs,
        "ConnectionFailedError", ("not enough memory for", "says nothing about the server"),
        "free memory before connecting, or use a board build with smaller TLS buffers (`boards/`)",
        heap="56k", build="unix32-board", frozen=True,
    ),
    Case(
        "disabled", "the device is disabled at the hub", _cs, "CredentialError", REFUSED, TELL,
        prepare=lambda emu, device: emu.set_enabled(device, False),
    ),
    Case(
        "not-registered", "the device is not registered", _cs, "CredentialError", REFUSED, TELL,
        prepare=lambda emu, device: emu.remove_device(device),
    ),
    Case(
        "key-rotated", "the key was rotated at the hub",
        lambda f: _cs(f, f["key"], "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
        "CredentialError", REFUSED, TELL,
    ),
    Case(
        "wrong-key-file", "certificate and key do not belong together",
        lambda f: {
            **_cs(f, "SharedAccessKey=" + f["key"], "x509=true"),
            "certificate": "device.pem", "key": "wrong.key",
        },
        "CredentialError", ("does not belong to the certificate",),
        "use the key the certificate was requested with",
    ),
    Case(
        "cut-key-file", "a private key file that was cut",
        lambda f: {
            **_cs(f, "SharedAccessKey=" + f["key"], "x509=true"),
            "certificate": "device.pem", "key": "cut.key",
        },
        "CredentialError", ("cut",), "copy the file whole",
    ),
    Case(
        "no-file", "a certificate file that is not there",
        lambda f: {
            **_cs(f, "SharedAccessKey=" + f["key"], "x509=true"),
            "certificate": "nowhere.pem", "key": "device.key",
        },
        "CredentialError", ('cannot read "nowhere.pem"',), "put the file on the device",
    ),
    Case(
        "profile", "DPS assigns a hub that speaks another protocol",
        lambda f: _dps(f, registration_id="first-profile"), "ServiceError",
        ("mqttV5", "classic MQTT 3.1.1 only"), "have DPS assign a classic hub",
        prepare=lambda emu, device: emu.enroll(
            device, connection_profile="mqttV5", primary_key=_key(emu, device)
        ),
    ),
    Case(
        "mqtt-5", "a hub that speaks MQTT 5 only at its `.device.` host", _cs, "ProtocolError",
        ("CONNACK 1", "protocol version refused"),
        "this firmware speaks MQTT 3.1.1: use a classic hub, have DPS assign one",
        prepare=lambda emu, device: emu.fault(
            {"action": "refuse", "code": 1, "device": device, "count": None}
        ),
    ),
)  # fmt: skip


def _key(emu: Any, device: str) -> str:
    return emu.call(lambda: emu.emulator.hub.registry.get(device).primary_key)


@dataclass(frozen=True)
class WiFi:
    """A mistake that ends at the access point: the status of network.WLAN that it shows as."""

    mistake: str
    status: int
    words: tuple[str, ...]
    remedy: str


WIFI = (
    WiFi("Wi-Fi: wrong name, or an access point on 5 GHz only", 201,
         ("no access point has this name", "5 GHz only"),
         "check the name; let the access point send on 2.4 GHz too"),
    WiFi("Wi-Fi: wrong key", 202, ("the access point refuses the key",),
         "correct `wifi_key`"),
    WiFi("Wi-Fi: wrong key, as most access points let it show", 204,
         ("the handshake timed out", "wrong key", "WPA3 only"),
         "correct `wifi_key`, or choose WPA2/WPA3 mixed"),
    WiFi("Wi-Fi: WPA3 only", 210, ("no access point offers a security mode", "WPA3 only"),
         "choose WPA2/WPA3 mixed at the access point"),
)  # fmt: skip
SECOND = (
    "a second device with the same id", ("another client seems to use the id",),
    "give each device an id and a key of its own; the hub drops one for the other",
)  # fmt: skip


def page() -> str:
    """The text of first-hour.md."""
    lines = [
        "# The first hour",
        "",
        "Made from the tests in `host_tests/surface/test_first_hour.py`: each row is one of them,",
        "the words are what the device says within a minute of power-on, as the error's text and as a line",
        "on the console. Do not edit by hand:",
        "`.venv/bin/python host_tests/support/first_hour.py` writes this page.",
        "",
        "| mistake | error | words | what to do |",
        "|---|---|---|---|",
    ]
    for case in CASES:
        words = " … ".join(case.words)
        lines.append(f"| {case.mistake} | `{case.error}` | {words} | {case.remedy} |")
    mistake, parts, remedy = SECOND
    lines.append(f"| {mistake} | log | {' … '.join(parts)} | {remedy} |")
    for wifi in WIFI:
        words = " … ".join(wifi.words)
        lines.append(f"| {wifi.mistake} | `ConnectionFailedError` | {words} | {wifi.remedy} |")
    lines += [
        "",
        "The Wi-Fi rows are shown through an object with the interface and the status codes that",
        "MicroPython documents for network.WLAN; they have not met a board.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())

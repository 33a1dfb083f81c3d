"""The mistakes of the first hour: each ends in one sentence with its remedy, within a minute.

firmware/docs/first-hour.md is made from the same cases (host_tests/support/first_hour.py).
"""

import json
import socket
import threading
import time
from pathlib import Path

import pytest
from support.first_hour import CASES, PAGE, SECOND, SILENT, WIFI, page
from support.surface import Device, outputs
from taproot.emulator import EmulatorConfig, running
from taproot.pki import Authority

PROGRAM = """
from azure_iot.agent import Agent
from azure_iot.unix.platform import Platform
from azure_iot import AzureIoTError
async def main():
    try:
        agent = Agent(Platform(F["config"]))
        client = await agent.start()
        await client.connect(F["patience"])
        out("connected")
    except AzureIoTError as error:
        out(type(error).__name__, str(error))
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def world(hub_leaf, tmp_path_factory):
    with running(EmulatorConfig(chain=hub_leaf)) as emu:
        yield emu


def listener(answer: bytes):
    """A server that says `answer` to whatever comes: a captive portal, or silence."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(3)
                try:
                    connection.recv(4096)
                    connection.sendall(answer)
                except OSError:
                    continue

    threading.Thread(target=serve, daemon=True).start()
    return server


def black_hole():
    """A port 8883 whose queue is full: the kernel drops what else wants to connect."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((SILENT, 8883))
    server.listen(0)
    queued = [socket.socket() for _ in range(4)]
    for each in queued:
        each.setblocking(False)
        each.connect_ex((SILENT, 8883))
    return [server, *queued]


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_a_first_hour_mistake_ends_in_its_sentence(tmp_path, world, hub_root, hub_leaf, case):
    record = world.add_device("first-" + case.name)
    facts = {
        "cs": record.connection_string,
        "port": world.mqtt_port,
        "https": world.https_port,
        "key": record.primary_key,
    }
    portal = listener(b"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n")
    facts["portal"] = portal.getsockname()[1]
    waiting = black_hole() if case.name == "port-silent" else []
    device = Device(tmp_path, world, hub_root)
    other = Authority.root("some other root", key="p256")
    (tmp_path / "other.der").write_bytes(other.der)
    (tmp_path / "leaf.der").write_bytes(hub_leaf.der)
    (tmp_path / "intermediate.der").write_bytes(hub_leaf.chain[1].der)
    leaf = other.leaf("first-" + case.name, key="p256", client=True)
    (tmp_path / "device.pem").write_text(leaf.pem)
    (tmp_path / "device.key").write_text(leaf.key_pem)
    (tmp_path / "wrong.key").write_text(other.leaf("x", key="p256", client=True).key_pem)
    (tmp_path / "cut.key").write_text(leaf.key_pem[:120])
    case.prepare(world, "first-" + case.name)
    config = case.config(facts)
    config.setdefault("roots", ["root.der"])
    started = time.monotonic()
    try:
        result = device.start(
            PROGRAM,
            case.name,
            cs="",
            config=config,
            patience=case.patience,
            limit=60,
            level="WARNING",
            heap=case.heap,
            build=case.build,
            frozen=case.frozen,
        )
        with result as process:
            if case.error == "log":  # it goes on
                process.wait_for(case.words[-1], 58)
                words = ["log", process.text]
            else:
                assert process.wait(58) == 0, process.text
                words = outputs(process.output)[-1]
    finally:
        portal.close()
        for each in waiting:
            each.close()
    assert time.monotonic() - started < 60
    assert words[0] == case.error, words
    for part in case.words:
        assert part in words[1], words
    assert facts["key"] not in json.dumps(words), "no secret in an error"


WLAN = """
import sys
class WLAN:
    # network.WLAN as MicroPython documents it: active, connect, isconnected, status, disconnect
    def __init__(self, interface):
        self.asked = None
    def active(self, on):
        return on
    def isconnected(self):
        return False
    def connect(self, ssid, key):
        self.asked = ssid, key
    def status(self):
        return F["status"] if self.asked else 1000
    def disconnect(self):
        self.asked = None
class network:
    STA_IF = 0
network.WLAN = WLAN
sys.modules["network"] = network
from azure_iot import ConnectionFailedError
from azure_iot.esp32 import wlan
async def main():
    try:
        await wlan.connect("home", "not the key", timeout_s=1)
    except ConnectionFailedError as error:
        out(error.reason, str(error))
asyncio.run(main())
"""


@pytest.mark.parametrize("case", WIFI, ids=[str(c.status) for c in WIFI])
def test_a_wifi_mistake_ends_in_its_sentence(device, case):
    ((reason, words),) = device.run(WLAN, "wifi", cs="", status=case.status)
    assert reason == "wifi" and '"home"' in words and "not the key" not in words
    for part in case.words:
        assert part in words


TWIN = """
from azure_iot import IoTHubDeviceClient
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    await client.start()
    await asyncio.sleep(50)
asyncio.run(main())
"""


def test_a_second_device_with_the_same_id_is_named(device, emu):
    text = emu.add_device("same").connection_string
    with device.start(TWIN, "same", cs=text), device.start(TWIN, "same", cs=text) as second:
        second.wait_for(SECOND[1][0], 50)


def test_the_page_says_what_the_tests_show():
    assert Path(PAGE).read_text() == page(), (
        "firmware/docs/first-hour.md is old: run  .venv/bin/python host_tests/support/first_hour.py"
    )

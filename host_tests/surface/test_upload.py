"""File upload in blocks, and telemetry by POST, over verified HTTPS."""

import contextlib

import pytest
from taproot.emulator.rest import Response

UPLOAD = """
import os
from azure_iot import IoTHubDeviceClient
from azure_iot.upload import Uploader
async def main():
    client = IoTHubDeviceClient.from_connection_string(
        F["cs"], roots=roots, port=F["port"], https_port=F["https"])
    data = bytes([n % 251 for n in range(F["size"])])
    uploader = Uploader(client)
    async with client:
        name = await uploader.upload("logs/a b.bin", data)
        out(name, uploader.retries)
        await client.send_message("mqtt still works")
    await uploader.send_message({"t": 1}, {"alert": "no"})
asyncio.run(main())
"""


def test_upload_in_blocks_and_telemetry_by_post(device, emu):
    out = device.run(UPLOAD, "up", size=20000)
    assert out == [["up/logs/a b.bin", 0]]
    blobs = emu.emulator.front.blobs.blobs
    assert [bytes(b.body) for b in blobs.values()] == [bytes(n % 251 for n in range(20000))]
    bodies = [m.body for m in emu.messages("up")]
    assert bodies[0] == b"mqtt still works" and bodies[1] in (b'{"t": 1}', b'{"t":1}')
    assert emu.messages("up")[1].properties == {"alert": "no"}


@contextlib.contextmanager
def storage_answers(emu, statuses):
    """Let the storage account answer the next requests with these statuses."""
    blobs = emu.emulator.front.blobs
    handle = blobs.handle
    left = list(statuses)
    blobs.handle = lambda request: Response(left.pop(0)) if left else handle(request)
    try:
        yield left
    finally:
        blobs.handle = handle


BLOCKS = """
from azure_iot import AzureIoTError, IoTHubDeviceClient
from azure_iot.upload import Uploader
async def main():
    client = IoTHubDeviceClient.from_connection_string(
        F["cs"], roots=roots, port=F["port"], https_port=F["https"])
    uploader = Uploader(client)
    try:
        out(await uploader.upload("x.bin", bytes(5000)), uploader.retries)
    except AzureIoTError as error:
        out(type(error).__name__, getattr(error, "status", 0), uploader.retries)
asyncio.run(main())
"""


def told(emu, name):
    """What the hub was told of the uploads of a device."""
    return [
        (e["success"], e["status"])
        for e in emu.events()
        if e["type"] == "upload_done" and e["identity"] == name
    ]


def test_a_block_is_tried_four_times(device, emu):
    with storage_answers(emu, [502, 504, 500]) as left:
        assert device.run(BLOCKS, "up-again") == [["up-again/x.bin", 3]]
        assert not left and told(emu, "up-again") == [(True, 200)]
    with storage_answers(emu, [503, 429, 504, 502]) as left:
        assert device.run(BLOCKS, "up-never") == [["ServiceError", 502, 3]]
        assert not left and told(emu, "up-never") == [(False, 502)]


@pytest.mark.parametrize(("status", "kind"), [(400, "ServiceError"), (403, "CredentialError")])
def test_the_hub_is_told_of_a_refused_upload_which_is_not_tried_again(device, emu, status, kind):
    name = f"up-{status}"
    with storage_answers(emu, [status]):
        out = device.run(BLOCKS, name)
    assert out == [[kind, status if status == 400 else 0, 0]]
    assert told(emu, name) == [(False, status if status == 400 else 500)]


SAME = """
from azure_iot import IoTHubDeviceClient
from azure_iot.upload import Uploader
async def main():
    client = IoTHubDeviceClient.from_connection_string(
        F["cs"], roots=roots, port=F["port"], https_port=F["https"])
    properties = {"yes": True, "no": False, "n": 7, "text": "a b", "empty": "", "none": None}
    async with client:
        await client.send_message("mqtt", properties)
    await Uploader(client).send_message("https", properties)
asyncio.run(main())
"""


def test_properties_read_the_same_whichever_way_they_came(device, emu):
    device.run(SAME, "same-bag")
    mqtt, https = emu.messages("same-bag")
    assert mqtt.properties == {
        "yes": "true", "no": "false", "n": "7", "text": "a b", "empty": "", "none": None
    }  # fmt: skip
    assert https.properties == {**mqtt.properties, "none": ""}, "a header has no null"


FAILS = """
from azure_iot import IoTHubDeviceClient
from azure_iot.upload import Uploader
class Broken:
    size = 9000
    def readinto(self, view):
        raise OSError(5)
async def main():
    client = IoTHubDeviceClient.from_connection_string(
        F["cs"], roots=roots, port=F["port"], https_port=F["https"])
    uploader = Uploader(client)
    try:
        await uploader.upload("broken.bin", Broken())
    except OSError as error:
        out("OSError", error.errno)
    task = asyncio.create_task(uploader.upload("cut.bin", bytes(300000)))
    while not uploader.retries:
        await asyncio.sleep_ms(10)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        out("cancelled")
asyncio.run(main())
"""


def test_the_hub_is_told_when_the_source_fails_or_the_task_is_cancelled(device, emu):
    with storage_answers(emu, [503] * 4):
        assert device.run(FAILS, "up-fails") == [["OSError", 5], ["cancelled"]]
    assert told(emu, "up-fails") == [(False, 500), (False, 500)]
    words = [e["description"] for e in emu.events() if e.get("identity") == "up-fails"
             and e["type"] == "upload_done"]  # fmt: skip
    assert "EIO" in words[0] and words[1] == "cancelled"
    assert not [u for u in emu.emulator.front.devices.uploads.values() if u.device == "up-fails"]


def test_a_notification_is_tried_again_while_the_hub_throttles(device, emu):
    devices = emu.emulator.front.devices
    notify, left = devices._notify, [429, 503]
    devices._notify = lambda *args: Response(left.pop(0)) if left else notify(*args)
    try:
        assert device.run(BLOCKS, "up-told") == [["up-told/x.bin", 2]]
    finally:
        devices._notify = notify
    assert not left and told(emu, "up-told") == [(True, 200)]


def test_too_many_uploads_in_progress_are_no_matter_of_credentials(device, emu):
    devices = emu.emulator.front.devices
    begin = devices._begin
    devices._begin = lambda *args: Response(403)
    program = BLOCKS.replace('getattr(error, "status", 0)', "error.status, str(error)")
    try:
        ((kind, status, text, _),) = device.run(program, "up-many")
    finally:
        devices._begin = begin
    assert (kind, status) == ("ServiceError", 403) and "10 of this device in progress" in text


REFUSED = """
from azure_iot import AzureIoTError, IoTHubDeviceClient, Message
from azure_iot.https import Fetcher
from azure_iot.upload import Uploader
async def main():
    client = IoTHubDeviceClient.from_connection_string(
        F["cs"], roots=roots, port=F["port"], https_port=F["https"])
    uploader = Uploader(client)
    for message in (
        Message("x", {"a:b": "1"}), Message("x", {"a b": "1"}), Message("x", {"\xe9": "1"}),
        Message("x", {"x\\r\\nEvil": "1"}), Message("x", {"": "1"}), Message("x", {"p": " 1"}),
        Message("x", {"p": "1\\r\\nEvil: 1"}), Message("x", component_name="thermo"),
        Message("x", creation_time_utc="2026-01-01T00:00:00Z"), bytes(300000),
    ):
        try:
            out(await uploader.send_message(message))
        except (AzureIoTError, ValueError) as error:
            out(type(error).__name__, str(error), getattr(error, "status", 0))
    await uploader.send_message(Message("ok", {"!#$%&'*+-.^_`|~9z": "a  b"}, to="/t"))
    try:
        url = "https://localhost:%d/" % F["https"]
        await Fetcher().request("GET", url, headers=[("a\\r\\nb", "1")],
                                context=client._link.context())
    except AzureIoTError as error:
        out(error.rule, str(error))
asyncio.run(main())
"""


def test_telemetry_by_post_refuses_what_no_header_carries(device, emu):
    *out, header = device.run(REFUSED, "no-header")
    assert [kind for kind, _, _ in out] == ["ValueError"] * 9 + ["ServiceError"]
    assert "'a:b': '1'" in out[0][1] and "component_name" in out[7][1]
    assert out[9][2] == 413 and "the hub takes 262144" in out[9][1]
    (message,) = emu.messages("no-header")
    assert message.properties == {"!#$%&'*+-.^_`|~9z": "a  b"} and "/t" in message.system.values()
    assert header[0] == "HTTP" and "no token" in header[1]

"""MQTT over WebSocket: framing by RFC 6455, and the same client object over port 443."""

import base64
import hashlib
import os

import pytest
from azure_iot import websocket as ws
from azure_iot.errors import ProtocolError, ServiceError
from taproot.pki import Authority


def frame(opcode: int, payload: bytes, final: bool = True) -> bytes:
    head = bytes([opcode | (0x80 if final else 0)])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) < 65536:
        return head + b"\x7e" + len(payload).to_bytes(2, "big") + payload
    return head + b"\x7f" + len(payload).to_bytes(8, "big") + payload


def read(data: bytes, step: int) -> tuple[bytes, list]:
    frames, got, controls = ws.Frames(), b"", []
    for at in range(0, len(data), step):
        part = memoryview(bytearray(data[at : at + step]))
        while len(part):
            used, count = frames.feed(part)
            got += bytes(part[used - count : used])
            part = part[used:]
            if frames.control is not None:
                controls.append(frames.control)
                frames.control = None
    return got, controls


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 1 << 20])
def test_frames_come_out_whole_at_every_split(step):
    big = os.urandom(70000) if step > 7 else os.urandom(300)
    data = (
        frame(2, b"abc")
        + frame(9, b"ping")
        + frame(2, b"first,", final=False)
        + frame(10, b"")
        + frame(0, b"second", final=True)
        + frame(2, b"")
        + frame(2, big)
        + frame(8, b"\x03\xe8bye")
    )
    got, controls = read(data, step)
    assert got == b"abcfirst,second" + big
    assert controls == [(9, b"ping"), (10, b""), (8, b"\x03\xe8bye")]


@pytest.mark.parametrize(
    "data",
    [
        bytes([0xC2, 0]),  # reserved bit
        bytes([0x82, 0x80, 0, 0, 0, 0]),  # masked by the server
        frame(1, b"text"),
        frame(3, b""),
        frame(0, b"x"),  # continuation of nothing
        frame(2, b"a", final=False) + frame(2, b"b"),
        frame(9, b"x", final=False),
        bytes([0x89, 126, 0, 126]),
        bytes([0x82, 126, 0, 5]),  # length not minimal
        bytes([0x82, 127]) + (5).to_bytes(8, "big"),
        bytes([0x82, 127]) + (1 << 63).to_bytes(8, "big"),
        frame(11, b""),
    ],
)
def test_what_a_server_must_not_send_is_refused(data):
    with pytest.raises(ProtocolError):
        read(data, 1)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 63, 64, 65, 125, 126, 1000])
def test_masking_equals_the_specification(size):
    key, plain = os.urandom(4), os.urandom(size)
    masked = bytearray(plain)
    ws.mask(memoryview(masked), key)
    assert bytes(masked) == bytes(b ^ key[i % 4] for i, b in enumerate(plain))


def test_headers_and_accept_value_of_the_specification():
    assert ws.header(2, 5, b"abcd") == b"\x82\x85abcd"
    assert ws.header(2, 256, b"abcd") == b"\x82\xfe\x01\x00abcd"
    assert ws.header(2, 65536, b"abcd") == b"\x82\xff" + (65536).to_bytes(8, "big") + b"abcd"
    assert ws.accept_value("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


GOOD = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
    "Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)


def test_the_answer_to_the_upgrade_is_checked():
    nonce = base64.b64encode(b"x" * 16).decode()
    digest = hashlib.sha1(nonce.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    good = GOOD % base64.b64encode(digest).decode()
    ws.check_answer(good.encode(), nonce)
    for old, new in [
        ("101", "200"),
        ("HTTP/1.1", "SIP/2.0"),
        ("mqtt", "amqp"),
        ("Accept: ", "Accept: x"),
        ("Upgrade: WebSocket\r\n", ""),
        ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: x\r\n\r\n"),
    ]:
        with pytest.raises((ProtocolError, ServiceError)):
            ws.check_answer(good.replace(old, new).encode(), nonce)


PROGRAM = """
from azure_iot import IoTHubDeviceClient
async def echo(payload):
    return 200, payload
async def main():
    client = IoTHubDeviceClient.from_connection_string(
        F["cs"], roots=roots, port=F["https"], websocket=True, keepalive_s=F["keep"])
    client.on_method("echo", echo)
    async with client:
        await client.send_message(b"x" * 20000)
        await client.patch_twin_reported_properties({"big": {"b%d" % n: "y" * 3000 for n in range(3)}})
        twin = await client.get_twin()
        out(sum([len(v) for v in twin["reported"]["big"].values()]))
        for n in range(50):
            await client.send_message("%d" % n)
        await asyncio.sleep(F["keep"] + 1)
        out("done", client.stats)
asyncio.run(main())
"""


def test_the_same_client_works_over_websocket(device, emu):
    with device.start(PROGRAM, "ws", keep=2) as process:
        process.wait_for("9000", 20)
        answer = emu.invoke_method("ws", "echo", {"t": "z" * 3000}, timeout_s=10)
        assert answer.payload == {"t": "z" * 3000}
        assert process.wait(20) == 0, process.text
    bodies = [m.body for m in emu.messages("ws")]
    assert bodies[0] == b"x" * 20000 and bodies[1:] == [b"%d" % n for n in range(50)]
    connects = [e for e in emu.events() if e["type"] == "connect" and e["identity"] == "ws"]
    assert len(connects) == 1 and connects[0]["listener"] != "mqtt"


PORTS = """
from azure_iot import IoTHubDeviceClient
def port(**options):
    return IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, **options)._link.port
out(port(), port(websocket=True), port(websocket=True, port=444), port(port=1))
"""


def test_websocket_means_port_443_unless_a_port_is_given(device):
    assert device.run(PORTS, "ports") == [[8883, 443, 444, 1]]


DPS = """
from azure_iot import ProvisioningDeviceClient
async def main():
    dps = ProvisioningDeviceClient.from_symmetric_key("localhost", F["device_id"], "0ne00000001",
        F["key"], roots=roots, port=F["https"], websocket=True)
    found = await dps.register()
    out(found.hub)
asyncio.run(main())
"""


def test_dps_over_websocket(device, emu):
    key = base64.b64encode(b"k" * 32).decode()
    emu.enroll("ws-dps", primary_key=key)
    assert device.run(DPS, "ws-dps", cs="", key=key) == [["localhost"]]


PONG = """
from azure_iot.websocket import WebSocketTransport
class Inner:
    tls = explain = None
    def __init__(self):
        self.sent = b""
    async def write(self, frame):
        frame = bytes(frame)
        self.sent += frame[:10]
        await asyncio.sleep_ms(30)  # the socket is full
        self.sent += frame[10:]
    async def read_into(self, view):
        await asyncio.sleep_ms(F["ping_ms"])
        if not self.asked:
            self.asked = True
            view[:4] = b"\\x89\\x02hi"
            return 4
        await asyncio.sleep_ms(200)
        return 0
    asked = False
async def main():
    inner = Inner()
    link = WebSocketTransport(inner, lambda: 0)
    reader = asyncio.create_task(link.read_into(memoryview(bytearray(10))))
    await asyncio.sleep_ms(F["write_ms"])
    await link.write(b"A" * 30)
    await reader
    out([c for c in inner.sent])
asyncio.run(main())
"""


@pytest.mark.parametrize(("write_ms", "ping_ms"), [(0, 10), (10, 0)])
def test_a_pong_never_lies_within_another_frame(device, write_ms, ping_ms):
    frames = [b"\x82\x9e\0\0\0\0" + b"A" * 30, b"\x8a\x82\0\0\0\0hi"]
    if write_ms:
        frames.reverse()
    [[sent]] = device.run(PONG, "pong%d" % write_ms, write_ms=write_ms, ping_ms=ping_ms)
    assert bytes(sent) == b"".join(frames)


X509 = """
from azure_iot import ProvisioningDeviceClient, X509Certificate
read = lambda name: open(name, "rb").read()
async def main():
    dps = ProvisioningDeviceClient.from_x509("localhost", F["device_id"], "0ne00000001",
        X509Certificate(read("leaf"), read("key")), roots=roots, port=F["https"], websocket=True)
    from azure_iot import websocket
    upgrade = websocket.upgrade
    async def noted(*given, **options):
        out(options.get("client_cert"))
        return await upgrade(*given, **options)
    websocket.upgrade = noted
    out((await dps.register()).hub)
asyncio.run(main())
"""


def test_dps_over_websocket_is_not_told_that_there_is_no_certificate(device, emu):
    leaf = Authority.root("device root", key="p256").leaf("ws-x", key="p256", client=True)
    (device.folder / "leaf").write_text(leaf.chain_pem)
    (device.folder / "key").write_text(leaf.key_pem)
    emu.enroll("ws-x", thumbprints=(leaf.sha256,))
    assert device.run(X509, "ws-x", cs="") == [[True], ["localhost"]]


HUB = """
from azure_iot import IoTHubDeviceClient, X509Certificate, websocket
read = lambda name: open(name, "rb").read()
upgrade = websocket.upgrade
async def noted(*given, **options):
    out(options["client_cert"])
    return await upgrade(*given, **options)
websocket.upgrade = noted
async def main():
    options = {"roots": roots, "port": F["https"], "websocket": True}
    async with IoTHubDeviceClient.from_connection_string(F["cs"], **options):
        pass
    async with IoTHubDeviceClient.from_x509(X509Certificate(read("leaf"), read("key")),
            "localhost", "ws-cert", **options) as client:
        await client.send_message("x")
asyncio.run(main())
"""


def test_the_hub_is_told_over_websocket_whether_a_certificate_comes(device, emu):
    leaf = Authority.root("device root", key="p256").leaf("ws-cert", key="p256", client=True)
    (device.folder / "leaf").write_text(leaf.chain_pem)
    (device.folder / "key").write_text(leaf.key_pem)
    emu.add_device("ws-cert", auth="x509_thumbprint", thumbprints=(leaf.sha256,))
    assert device.run(HUB, "ws-token") == [[False], [True]]
    assert [m.body for m in emu.messages("ws-cert")] == [b"x"]

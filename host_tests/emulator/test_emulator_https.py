"""The HTTPS listener: one port for everything."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import ssl
import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from urllib.parse import quote

import aiohttp
import pytest
from cryptography import x509
from taproot.emulator import EmulatorConfig, running
from taproot.emulator.connection import Engine
from taproot.emulator.downloads import Download
from taproot.emulator.events import Recorder
from taproot.emulator.faults import Faults
from taproot.emulator.https import WEBSOCKET, HTTPSFront
from taproot.emulator.hub import Hub
from taproot.emulator.tls import Chains, Listener, TLSOptions
from taproot.pki import Authority

pytestmark = pytest.mark.requirement("H20", "H21", "T10")

CONNACK = b"\x20\x02\x00"


class Rig:
    """A hub behind the HTTPS listener alone."""

    def __init__(self, clock):
        self.clock = clock
        recorder, faults = Recorder(clock), Faults()
        self.engine = Engine(recorder=recorder, now=clock, faults=faults)
        self.hub = Hub(self.engine)
        self.engine.services.append(self.hub)
        self.front = HTTPSFront(self.engine, self.hub)
        self.root = Authority.root("https test", "p256")
        self.chains = Chains()
        self.chains.set(self.root.leaf("localhost", "p256", ips=["127.0.0.1"], dns=["localhost"]))
        self.listener = Listener(
            "https", self.front.factory, self.chains, TLSOptions(), recorder, faults
        )

    def context(self, leaf=None, folder=None):
        context = ssl.create_default_context(cadata=self.root.pem)
        if leaf is not None:
            context.load_cert_chain(*leaf.write(folder))
        return context

    @property
    def base(self):
        return f"https://localhost:{self.listener.port}"


def run(case, clock=time.time, **options):
    async def main():
        rig = Rig(clock)
        await rig.front.start()
        await rig.listener.start("127.0.0.1")
        rig.front.port = rig.listener.port
        connector = aiohttp.TCPConnector(ssl=rig.context())
        try:
            async with aiohttp.ClientSession(rig.base, connector=connector) as session:
                await asyncio.wait_for(case(rig, session), 20)
        finally:
            await rig.listener.stop()
            await rig.front.stop()

    asyncio.run(main())


def token(key, resource, policy=None, life=3600):
    sr, expiry = quote(resource, safe=""), int(time.time()) + life
    mac = hmac.new(base64.b64decode(key), f"{sr}\n{expiry}".encode(), hashlib.sha256).digest()
    sig = quote(base64.b64encode(mac), safe="")
    text = f"SharedAccessSignature sr={sr}&sig={sig}&se={expiry}"
    return text + (f"&skn={policy}" if policy else "")


def field(text):
    data = text.encode() if isinstance(text, str) else text
    return len(data).to_bytes(2, "big") + data


def connect_packet(device, password, clean=True):
    flags = 0xC0 | (2 if clean else 0)
    body = field("MQTT") + bytes((4, flags, 0, 60)) + field(device)
    body += field(f"localhost/{device}/?api-version=2021-04-12") + field(password)
    length, out = len(body), bytearray(b"\x10")
    while True:
        length, digit = divmod(length, 128)
        out.append(digit | (128 if length else 0))
        if not length:
            return bytes(out) + body


@pytest.mark.requirement("MQTT-6.0.0-1", "MQTT-6.0.0-3", "MQTT-6.0.0-4")
@pytest.mark.parametrize("split", [0, 1, 7])
@pytest.mark.parametrize("query", ["", "?iothub-no-client-cert=true"])
def test_mqtt_over_websocket_in_any_framing(split, query):
    async def case(rig, session):
        device = rig.hub.registry.add("d1")
        packet = connect_packet("d1", token(device.primary_key, "localhost/devices/d1"))
        url = WEBSOCKET + query
        async with session.ws_connect(url, protocols=("mqtt",), compress=15) as ws:
            assert ws.protocol == "mqtt" and not ws.compress
            step = split or len(packet)
            for start in range(0, len(packet), step):
                await ws.send_bytes(packet[start : start + step])
            assert (await ws.receive_bytes(timeout=5)) == CONNACK + b"\x00"
            await ws.send_bytes(b"\xc0\x00" * 3)  # three PINGREQ in one message
            got = b""
            while len(got) < 6:
                got += await ws.receive_bytes(timeout=5)
            assert got == b"\xd0\x00" * 3
            await ws.send_bytes(b"\xe0\x00")
            message = await ws.receive(timeout=5)
            assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        events = rig.engine.recorder.of("connect", "disconnect")
        assert events[0]["transport"] == "websocket" and events[0]["tls"] == "TLSv1.2"
        assert events[-1]["clean"] is True

    run(case)


def test_websocket_rules():
    async def case(rig, session):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(WEBSOCKET, protocols=("other",))
        assert caught.value.status == 400
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect("/mqtt", protocols=("mqtt",))
        assert caught.value.status == 404
        async with session.get(WEBSOCKET) as response:
            assert response.status == 400
        async with session.ws_connect(WEBSOCKET, protocols=("mqtt",)) as ws:
            await ws.send_str("text")
            message = await ws.receive(timeout=5)
            assert message.type is aiohttp.WSMsgType.CLOSE and message.data == 1003
        async with session.ws_connect(WEBSOCKET, protocols=("mqtt",)) as ws:
            await ws.send_bytes(b"\xc0\x00")  # not CONNECT
            assert (await ws.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
        assert rig.engine.recorder.of("strictness")[-1]["rule"] == "MQTT-3.1.0-1"
        assert not rig.engine.connections

    run(case)


def test_a_websocket_client_that_vanishes_is_noticed():
    async def case(rig, session):
        device = rig.hub.registry.add("d1")
        ws = await session.ws_connect(WEBSOCKET, protocols=("mqtt",))
        await ws.send_bytes(
            connect_packet("d1", token(device.primary_key, "localhost/devices/d1"))
        )
        assert await ws.receive_bytes(timeout=5) == CONNACK + b"\x00"
        ws._response.connection.transport.abort()
        for _ in range(100):
            if not device.connected:
                break
            await asyncio.sleep(0.02)
        assert not device.connected and not rig.engine.connections
        reason = rig.engine.recorder.of("disconnect")[-1]["reason"]
        assert reason.startswith(("closed by the client", "WebSocket"))

    run(case)


def test_dropping_a_websocket_ends_it_at_once():
    async def case(rig, session):
        device = rig.hub.registry.add("d1")
        async with session.ws_connect(WEBSOCKET, protocols=("mqtt",)) as ws:
            await ws.send_bytes(
                connect_packet("d1", token(device.primary_key, "localhost/devices/d1"))
            )
            await ws.receive_bytes(timeout=5)
            assert rig.hub.drop() == 1
            assert (await ws.receive(timeout=5)).type in (
                aiohttp.WSMsgType.CLOSED,
                aiohttp.WSMsgType.ERROR,
                aiohttp.WSMsgType.CLOSE,
            )
        assert not rig.engine.connections

    run(case)


@pytest.mark.parametrize("offset", [0.0, -400 * 86400.0])
def test_date_header_is_the_emulators_clock_on_every_status(offset):
    async def case(rig, session):
        rig.front.date_offset = offset
        for method, path in (("GET", "/"), ("GET", "/devices"), ("PUT", "/x"), ("GET", WEBSOCKET)):
            async with session.request(method, path) as response:
                date = parsedate_to_datetime(response.headers["Date"]).timestamp()
                assert abs(date - (1_900_000_000 + offset)) <= 1, (path, response.status)

    run(case, clock=lambda: 1_900_000_000.0)


def test_package_download_with_ranges_over_one_connection():
    async def case(rig, session):
        body = bytes(range(256)) * 40
        rig.front.downloads["/trust.bundle"] = Download(body)
        got, tag = b"", None
        while len(got) < len(body):
            headers = {"Range": f"bytes={len(got)}-{len(got) + 2047}"}
            if tag:
                headers["If-Match"] = tag
            async with session.get("/trust.bundle", headers=headers) as response:
                assert response.status == 206
                tag = response.headers["ETag"]
                got += await response.read()
        assert got == body
        assert len(rig.engine.recorder.of("tls")) == 1
        async with session.head("/trust.bundle") as response:
            assert response.headers["Content-Length"] == str(len(body))
        rig.front.downloads["/trust.bundle"].ranges = False
        async with session.get("/trust.bundle", headers={"Range": "bytes=0-1"}) as response:
            assert response.status == 200 and await response.read() == body

    run(case)


def test_service_rest_answers_on_the_same_port():
    async def case(rig, session):
        key = rig.hub.registry.policies["iothubowner"].primary_key
        headers = {"Authorization": token(key, "localhost", "iothubowner")}
        query = {"api-version": "2021-04-12"}
        async with session.put("/devices/d1", json={}, headers=headers, params=query) as response:
            assert response.status == 200
            assert response.headers["Content-Type"].startswith("application/json")
            assert (await response.json())["deviceId"] == "d1"
        async with session.get("/devices/d1", params=query) as response:
            assert response.status == 401
            assert (await response.json())["Message"].startswith("ErrorCode:IotHubUnauthorized")
        query["top"] = "x"
        async with session.get("/devices", params=query, headers=headers) as response:
            assert response.status == 400
        big = b"x" * 1_100_000
        async with session.put("/devices/d2", data=big, headers=headers, params=query) as response:
            assert response.status == 413

    run(case)


async def upload(rig, session, how, headers):
    async with session.post(
        "/devices/d1/files",
        json={"blobName": "a/b c.txt"},
        headers=headers,
        params={"api-version": "2019-10-01"},
    ) as response:
        assert response.status == 200, await response.text()
        info = await response.json()
    assert info["blobName"] == "d1/a/b c.txt"
    path = quote(info["blobName"])
    url = f"https://{info['hostName']}/{info['containerName']}/{path}{info['sasToken']}"
    await how(url, info)
    notice = {"correlationId": info["correlationId"], "isSuccess": True, "statusCode": 200}
    for status in (204, 404):
        async with session.post(
            "/devices/d1/files/notifications",
            json=notice,
            headers=headers,
            params={"api-version": "2019-10-01"},
        ) as response:
            assert response.status == status


def test_file_upload_whole_and_in_blocks():
    async def case(rig, session):
        device = rig.hub.registry.add("d1")
        headers = {"Authorization": token(device.primary_key, "localhost/devices/d1")}
        body = b"0123456789" * 1000

        async def whole(url, info):
            async with session.put(url, data=body) as response:
                assert response.status == 400
            blob = {"x-ms-blob-type": "BlockBlob"}
            async with session.put(url.replace("sig=", "sig=x"), data=body, headers=blob) as bad:
                assert bad.status == 403
            digest = base64.b64encode(hashlib.md5(b"other").digest()).decode()
            async with session.put(url, data=body, headers={**blob, "Content-MD5": digest}) as bad:
                assert bad.status == 400
            async with session.put(url, data=body, headers=blob) as response:
                assert response.status == 201 and response.headers["ETag"]
            async with session.get(url) as response:
                assert await response.read() == body

        async def blocks(url, info):
            names = [base64.b64encode(b"%04d" % n).decode() for n in range(4)]
            for n, name in enumerate(names):
                place = f"{url}&comp=block&blockid={quote(name, safe='')}"
                async with session.put(place, data=body[n * 2500 : n * 2500 + 2500]) as response:
                    assert response.status == 201
            bad = "<BlockList><Latest>QUJDRA==</Latest></BlockList>"
            async with session.put(url + "&comp=blocklist", data=bad) as response:
                assert response.status == 400
            xml = "".join(f"<Latest>{name}</Latest>" for name in names)
            async with session.put(
                url + "&comp=blocklist",
                data=f'<?xml version="1.0"?><BlockList>{xml}</BlockList>',
            ) as response:
                assert response.status == 201

        for how in (whole, blocks):
            await upload(rig, session, how, headers)
            assert rig.front.blobs.blobs.pop("d1/a/b c.txt").body == body
        done = rig.engine.recorder.of("upload_done")
        assert [event["size"] for event in done] == [len(body)] * 2

    run(case)


def test_uploads_are_limited_and_need_the_devices_own_credential(tmp_path):
    async def case(rig, session):
        device = rig.hub.registry.add("d1")
        rig.hub.registry.add("d2")
        wrong = {"Authorization": token(device.primary_key, "localhost/devices/d2")}
        good = {"Authorization": token(device.primary_key, "localhost/devices/d1")}
        query = {"api-version": "2019-10-01"}

        async def post(path, headers, **body):
            async with session.post(path, json=body, headers=headers, params=query) as response:
                return response.status

        assert await post("/devices/d1/files", wrong, blobName="x") == 401
        assert await post("/devices/none/files", good, blobName="x") == 401
        assert await post("/devices/d1/files", {}, blobName="x") == 401
        assert await post("/devices/d1/files", good) == 400
        for _ in range(10):
            assert await post("/devices/d1/files", good, blobName="x") == 200
        assert await post("/devices/d1/files", good, blobName="x") == 403
        rig.hub.set_enabled("d1", False)
        assert await post("/devices/d1/files", good, blobName="x") == 401

    run(case)


def test_https_telemetry_by_token_and_by_certificate(tmp_path):
    async def case(rig, session):
        device = rig.hub.registry.add("d1")
        query = {"api-version": "2021-04-12"}
        headers = {
            "Authorization": token(device.primary_key, "localhost/devices/d1"),
            "iothub-messageid": "m1",
            "iothub-app-Colour": "blue",
        }
        async with session.post(
            "/devices/d1/messages/events", data=b"hello", headers=headers, params=query
        ) as response:
            assert response.status == 204
        [message] = rig.hub.messages.of("d1")
        assert (message.body, message.transport) == (b"hello", "https")
        assert message.system["message-id"] == "m1" and message.properties == {"colour": "blue"}
        authority = Authority.root("devices", "p256")
        leaf = authority.leaf("x1", "p256", client=True)
        rig.hub.registry.roots.append(authority.cert)
        rig.hub.registry.add("x1", auth="x509_ca")
        connector = aiohttp.TCPConnector(ssl=rig.context(leaf, tmp_path))
        async with aiohttp.ClientSession(rig.base, connector=connector) as certified:
            url = "/devices/x1/messages/events"
            async with certified.post(url, data=b"c", params=query) as response:
                assert response.status == 204
        async with session.post(url, data=b"c", params=query) as response:
            assert response.status == 401
        assert len(rig.hub.messages.of("x1")) == 1
        big = b"x" * 262_145
        async with session.post(
            "/devices/d1/messages/events", data=big, headers=headers, params=query
        ) as response:
            assert response.status == 413

    run(case)


def test_a_chain_switch_reaches_https_and_websocket_at_the_next_handshake():
    old, new = (Authority.root(f"{age} root", "p256") for age in ("old", "new"))
    leaves = [root.leaf("localhost", "p256", dns=["localhost"]) for root in (old, new)]
    with running(EmulatorConfig(chain=leaves[0])) as emu:
        base = f"https://localhost:{emu.https_port}/"

        def status(root):
            context = ssl.create_default_context(cadata=root.pem)
            try:
                with urllib.request.urlopen(base, context=context, timeout=5) as response:
                    return response.status
            except urllib.error.HTTPError as error:
                return error.code
            except urllib.error.URLError as error:
                return type(error.reason).__name__

        assert (status(old), status(new)) == (404, "SSLCertVerificationError")
        emu.switch_chain(leaves[1])
        assert (status(old), status(new)) == ("SSLCertVerificationError", 404)
        emu.switch_chain(leaves[0])
        assert (status(old), status(new)) == (404, "SSLCertVerificationError")


def test_a_websocket_client_that_does_not_read_is_dropped_and_slows_nobody():
    async def case(rig, session):
        slow, quick = rig.hub.registry.add("slow"), rig.hub.registry.add("quick")
        rig.engine.backlog_limit = 200_000
        sockets = []
        for record in (slow, quick):
            ws = await session.ws_connect(WEBSOCKET, protocols=("mqtt",))
            key = token(record.primary_key, f"localhost/devices/{record.id}")
            await ws.send_bytes(connect_packet(record.id, key))
            assert await ws.receive_bytes(timeout=5) == CONNACK + b"\x00"
            topic = field(f"devices/{record.id}/messages/devicebound/#")
            body = b"\x00\x01" + topic + b"\x00"
            await ws.send_bytes(bytes((0x82, len(body))) + body)
            await ws.receive_bytes(timeout=5)
            sockets.append(ws)
        sockets[0]._response.connection.transport.pause_reading()
        for _ in range(400):
            rig.hub.send_c2d("slow", b"x" * 60_000)
            await asyncio.sleep(0)
            if not slow.connected:
                break
        assert not slow.connected
        reason = rig.engine.recorder.of("disconnect")[-1]["reason"]
        assert reason == "the client does not read what is sent"
        await sockets[1].send_bytes(b"\xc0\x00")
        assert await sockets[1].receive_bytes(timeout=1) == b"\xd0\x00"
        for ws in sockets:
            await ws.close()

    run(case)


def test_the_storage_account_is_a_second_tls_name():
    """Its chain may lead to another root, which the device's bundle has to cover (H21)."""
    other = Authority.root("storage root", "p256")
    with running(EmulatorConfig(blob_host="blob.test")) as emu:
        assert "blob.test" in str(
            x509.load_pem_x509_certificate(emu.emulator._own_leaf().pem.encode())
            .extensions.get_extension_for_class(x509.SubjectAlternativeName)
            .value
        )
        leaf = other.leaf("blob.test", "p256")
        emu.switch_chain(leaf, name="blob.test")
        device = emu.add_device("d1")
        request = urllib.request.Request(
            f"https://localhost:{emu.https_port}/devices/d1/files?api-version=2019-10-01",
            b'{"blobName": "f"}',
            {"Authorization": token(device.primary_key, "localhost/devices/d1")},
        )
        context = ssl.create_default_context(cadata=emu.root_pem)
        with urllib.request.urlopen(request, context=context, timeout=5) as response:
            grant = json.load(response)
        name, _, port = grant["hostName"].partition(":")
        assert (name, int(port)) == ("blob.test", emu.https_port)
        for root, trusted in ((other.pem, True), (emu.root_pem, False)):
            with socket.create_connection(("127.0.0.1", int(port)), 5) as raw:
                context = ssl.create_default_context(cadata=root)
                try:
                    context.wrap_socket(raw, server_hostname=name).close()
                except ssl.SSLCertVerificationError:
                    assert not trusted
                else:
                    assert trusted

"""Downloads and the recovery listener: honest, hostile, recorded."""

from __future__ import annotations

import asyncio
import ssl
import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime

import pytest
from taproot.emulator import EmulatorConfig, running
from taproot.emulator.downloads import Download
from taproot.emulator.recovery import RecoveryServer
from taproot.pki import Authority

pytestmark = pytest.mark.requirement("T7", "T10")

BODY = bytes(range(256)) * 20
NOW = 1_795_000_000


def get(download, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return download.answer("GET", named, NOW)


def test_ranges_with_if_match_follow_rfc_9110():
    download = Download(BODY)
    whole = get(download)
    assert (whole.status, whole.body, whole.headers["Accept-Ranges"]) == (200, BODY, "bytes")
    tag = whole.headers["ETag"]
    part = get(download, Range="bytes=100-199", If_Match=tag)
    assert (part.status, part.body) == (206, BODY[100:200])
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(BODY)}"
    assert get(download, Range="bytes=5000-9999").body == BODY[5000:]
    assert get(download, Range="bytes=-20").body == BODY[-20:]
    assert get(download, Range=f"bytes={len(BODY)}-").status == 416
    assert get(download, Range="lines=1-2").status == 200
    assert get(download, If_Match='"other"').status == 412
    assert get(download, Range="bytes=0-9", If_Range='"other"').status == 200


def test_deviations_on_demand():
    assert get(Download(BODY, ranges=False), Range="bytes=0-9").body == BODY
    changing = Download(BODY, etag_changes=True)
    assert get(changing, If_Match=get(changing).headers["ETag"]).status == 412
    assert "ETag" not in get(Download(BODY, etag="")).headers
    shifted = get(Download(BODY, wrong_range=True), Range="bytes=0-9")
    assert shifted.headers["Content-Range"].startswith("bytes 10-19/")
    wrong = get(Download(BODY, date_offset=-400 * 86400)).headers["Date"]
    assert parsedate_to_datetime(wrong).timestamp() == NOW - 400 * 86400
    assert "Date" not in get(Download(BODY, date=False)).headers
    failing = Download(BODY, status=503, count=1)
    assert [get(failing).status for _ in range(2)] == [503, 200]


async def fetch(server, path, limit=100_000, request=None):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request or f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    data = b""
    try:
        while len(data) < limit:
            part = await asyncio.wait_for(reader.read(65536), 5)
            if not part:
                break
            data += part
    except (ConnectionError, asyncio.TimeoutError, TimeoutError):
        pass
    writer.close()
    return data


def run(case, **options):
    async def main():
        server = RecoveryServer(now=lambda: NOW, **options)
        await server.start()
        try:
            return await asyncio.wait_for(case(server), 20)
        finally:
            await server.stop()

    return asyncio.run(main())


def test_recorder_proves_what_was_sent():
    async def case(server):
        server.serve("/b", BODY)
        assert (await fetch(server, "/b")).endswith(b"\r\n\r\n" + BODY)
        assert server.requests[-1].only_host
        for text in (
            b"GET /b HTTP/1.1\r\nHost: x\r\nUser-Agent: y\r\n\r\n",
            b"GET /b?device=d1 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /b HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /b HTTP/1.1\r\nHost: x\r\n\r\nmore",
            b"GET /b HTTP/1.1\r\nAuthorization: x\r\n\r\n",
        ):
            await fetch(server, "/b", request=text)
            assert server.requests[-1].raw == text
            assert not server.requests[-1].only_host

    run(case)


def test_redirect_and_chunked_and_truncated():
    async def case(server):
        server.serve("/r", mode="redirect", location="http://elsewhere.test/x", status=307)
        data = await fetch(server, "/r")
        assert data.startswith(b"HTTP/1.1 307 ")
        assert b"\r\nLocation: http://elsewhere.test/x\r\n" in data
        server.serve("/c", BODY, mode="chunked", block=1000)
        data = await fetch(server, "/c")
        assert b"Transfer-Encoding: chunked" in data and b"\r\n\r\n3e8\r\n" in data
        assert data.endswith(b"0\r\n\r\n") and b"Content-Length" not in data
        server.serve("/t", BODY, mode="truncated")
        data = await fetch(server, "/t")
        assert f"Content-Length: {len(BODY)}".encode() in data
        assert len(data.partition(b"\r\n\r\n")[2]) == len(BODY) // 2
        assert (await fetch(server, "/none")).startswith(b"HTTP/1.1 404 ")

    run(case)


@pytest.mark.parametrize("mode", ["endless", "endless_chunked", "endless_headers"])
def test_endless_answers_go_on_until_the_client_stops(mode):
    async def case(server):
        server.serve("/e", mode=mode)
        data = await fetch(server, "/e", limit=2_000_000)
        assert len(data) >= 2_000_000
        assert (b"\r\n\r\n" in data) == (mode != "endless_headers")

    run(case)


def test_silent_and_slow_answers_do_not_hold_another_client():
    async def case(server):
        server.serve("/s", mode="silent")
        server.serve("/w", BODY, mode="slow", seconds=5)
        server.serve("/b", BODY)
        slow = [asyncio.create_task(fetch(server, path)) for path in ("/s", "/w")]
        await asyncio.sleep(0.05)
        assert (await fetch(server, "/b")).endswith(BODY)
        for task in slow:
            task.cancel()
        assert server.requests[-2].sent <= 64

    run(case)


def test_https_beside_it_with_an_untrusted_chain_sees_no_request(tmp_path):
    leaf = Authority.root("nobody's root", "p256").leaf("localhost", "p256", ips=["127.0.0.1"])
    chain, key = leaf.write(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    trusting = ssl.create_default_context(cafile=None)

    async def case(server):
        server.serve("/b", BODY)
        assert server.url("/b").startswith("https://")
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", server.port, ssl=trusting)
        assert not server.requests

    run(case, context=context)


def test_the_emulator_serves_packages_and_an_untrusted_https_twin_beside_them():
    with running(EmulatorConfig()) as emu:
        url = emu.publish_file("trust.bundle", BODY)
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url, timeout=5) as response:
            assert response.read() == BODY
        [request] = emu.emulator.recovery.requests
        assert request.path == "/trust.bundle" and not request.only_host  # urllib says more
        stranger = Authority.root("stranger", "p256").leaf("x", "p256", ips=["127.0.0.1"])
        assert emu.recovery_requests()[0]["raw"].startswith("GET /trust.bundle HTTP/1.1\r\n")
        emu.set_date_offset(-86400.0)
        slow = emu.publish_file("s", BODY, mode="chunked", etag="e", block=100)
        with urllib.request.urlopen(slow, timeout=5) as response:
            assert response.read() == BODY and response.headers["ETag"] == '"e"'
            told = parsedate_to_datetime(response.headers["Date"]).timestamp()
            assert abs(told - (time.time() - 86400)) < 5
        twin = emu.recovery_over_tls(stranger)
        twin.serve("/trust.bundle", BODY)
        trusting = ssl.create_default_context(cadata=emu.root_pem)
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(twin.url("/trust.bundle"), context=trusting, timeout=5)
        assert not twin.requests
        sound = emu.publish_file("trust.bundle", BODY, https=True)
        with urllib.request.urlopen(sound, context=trusting, timeout=5) as response:
            assert response.read() == BODY

"""The transport: deadlines, name lookup, errors (requirements MQTT 2 and 3)."""

from __future__ import annotations

import re
import socket
import threading
from pathlib import Path

import pytest
from azure_iot.deadlines import Deadlines
from taproot import interpreters
from taproot.bench.relay import reset
from taproot.pki import Authority

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"


def run(code: str, *args: str, build: str = "unix64") -> str:
    result = interpreters.run(build, code, *args, heap="256k", timeout=30)
    assert result.returncode == 0, result.text
    return result.stdout


LOOKUP = """
import asyncio, socket, sys
from azure_iot import transport
from azure_iot.errors import AzureIoTError
port = %d
real = socket.getaddrinfo
calls = 0
class Resolver:
    SOCK_STREAM = socket.SOCK_STREAM
    socket = socket.socket
    dead = False
    def getaddrinfo(self, *a):
        global calls
        calls += 1
        if self.dead:
            raise OSError(-2)
        return real("127.0.0.1", port, *a[2:])
fake = transport.socket = Resolver()
async def main():
    fake.dead = True
    try:
        await transport.open_tcp("hub.example", port)
    except AzureIoTError as error:
        print(type(error).__name__, error.reason, error)
    fake.dead = False
    await (await transport.open_tcp("hub.example", port)).close()
    fake.dead = True
    await (await transport.open_tcp("hub.example", port)).close()
    print("calls", calls)
asyncio.run(main())
"""


def test_the_last_good_address_is_used_when_the_lookup_fails():
    with socket.create_server(("127.0.0.1", 0)) as server:
        out = run(LOOKUP % server.getsockname()[1]).splitlines()
    assert out[0] == "ConnectionFailedError dns no address for 'hub.example'"
    assert out[1] == "calls 3"  # one per attempt


READ = """
import asyncio
from azure_iot.deadlines import Deadlines
from azure_iot.errors import AzureIoTError
from azure_iot.transport import open_tcp
async def main():
    t = await open_tcp("127.0.0.1", %d, deadlines=Deadlines(write_ms=300))
    t.read_ms = 300
    try:
        await t.read_into(memoryview(bytearray(10)))
    except AzureIoTError as error:
        print(type(error).__name__, error)
    big = bytes(100000)
    try:
        while True:
            await t.write(big)
    except AzureIoTError as error:
        print(type(error).__name__, error)
    await t.close()
    await t.close()
asyncio.run(main())
"""


def test_a_silent_peer_and_one_that_does_not_read_end_in_a_typed_error():
    with socket.create_server(("127.0.0.1", 0)) as server:
        out = run(READ % server.getsockname()[1]).splitlines()
    assert out[0] == "ConnectionDroppedError nothing received for 300 ms"
    assert re.fullmatch(
        r"ConnectionDroppedError the peer took \d+ of 100000 bytes in \d+ ms", out[1]
    )


SLOW = """
import asyncio
from azure_iot.deadlines import Deadlines
from azure_iot.errors import AzureIoTError
from azure_iot.transport import open_tcp
async def main():
    t = await open_tcp("127.0.0.1", %d, deadlines=Deadlines(write_ms=1500))
    t.raw.setsockopt(1, 7, 4096)  # SO_SNDBUF
    try:
        await t.write(bytes(16000))
    except AzureIoTError as error:
        print(type(error).__name__, error)
    await t.close()
asyncio.run(main())
"""


def test_a_peer_that_reads_too_slowly_ends_in_a_typed_error():
    """It takes some bytes all the time, so only the limit of the whole write notices."""
    stop = threading.Event()

    def sip(server: socket.socket) -> None:
        conn, _ = server.accept()
        with conn:
            while not stop.wait(0.02) and conn.recv(20):
                continue

    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # windows open early
        server.bind(("127.0.0.1", 0))
        server.listen()
        thread = threading.Thread(target=sip, args=(server,), daemon=True)
        thread.start()
        out = run(SLOW % server.getsockname()[1])
        stop.set()
        thread.join(5)
    found = re.fullmatch(
        r"ConnectionDroppedError the peer took (\d+) of 16000 bytes in (\d+) ms\n", out
    )
    assert found and int(found[1]) > 0 and 1400 < int(found[2]) < 3000, out


BLOCKED = """
import asyncio
from azure_iot.errors import AzureIoTError
from azure_iot.tls.context import TLSContext
from azure_iot.transport import open_tls
async def main():
    with open("root.der", "rb") as file:
        context = TLSContext([file.read()])
    try:
        await open_tls("127.0.0.6", 8883, context)
    except AzureIoTError as error:
        print(error.verdict, error.reason, error)
asyncio.run(main())
"""


def test_a_reset_at_8883_keeps_its_verdict_and_names_the_way_by_443(tmp_path):
    """What a firewall does that lets the connection come about and ends it at the ClientHello."""
    (tmp_path / "root.der").write_bytes(Authority.root("nobody's", "p256").der)

    def serve(server: socket.socket) -> None:
        conn, _ = server.accept()
        conn.recv(4096)
        reset(conn)

    with socket.create_server(("127.0.0.6", 8883)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        result = interpreters.run("unix64", BLOCKED, heap="256k", cwd=tmp_path, timeout=20)
    assert (
        result.stdout.startswith("RESET reset ") and "websocket=True uses 443" in result.stdout
    ), result.text


WAITS = """
import asyncio, gc
from azure_iot.transport import open_tcp
async def main():
    t = await open_tcp("127.0.0.1", %d)
    view = memoryview(bytearray(1))
    async def rounds(n):
        for _ in range(n):
            await t.write(b"x")
            await t.readable()
            if t.read_some(view) != 1:
                raise ValueError("nothing to read")
        gc.collect()
        gc.collect()
        return gc.mem_alloc()
    before = await rounds(100)
    print("GREW", await rounds(1000) - before)
    await t.close()
asyncio.run(main())
"""


@pytest.mark.parametrize("build", ["unix64", "unix32"])
def test_waiting_for_bytes_keeps_no_heap(build):
    # a StopIteration that is raised again and again collects a traceback unless it is cleared
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo() -> None:
            link, _ = server.accept()
            with link:
                while data := link.recv(16):
                    link.sendall(data)

        thread = threading.Thread(target=echo)
        thread.start()
        out = run(WAITS % server.getsockname()[1], build=build)
        thread.join(5)
    assert int(out.split()[1]) <= 64


def test_a_refused_connection_is_a_connection_failed_error():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    code = (
        "import asyncio\nfrom azure_iot.transport import open_tls\n"
        "from azure_iot.tls.context import TLSContext\nfrom azure_iot.errors import *\n"
        "async def main():\n"
        " try:\n  await open_tls('localhost', %d, TLSContext([bytes.fromhex('%s')]))\n"
        " except ConnectionFailedError as error:\n  print('typed', error.cause is not None)\n"
        "asyncio.run(main())\n"
    )
    root = Authority.root("any", "p256").der.hex()
    assert run(code % (port, root)).strip() == "typed True"


def test_every_deadline_has_a_reason_beside_it_and_in_the_docs():
    text = (FIRMWARE / "azure_iot" / "deadlines.py").read_text()
    docs = (FIRMWARE / "docs" / "mqtt.md").read_text()
    names = re.findall(r"^    (\w+_ms) = (\d+)(.*)$", text, re.MULTILINE)
    assert len(names) == 10
    for name, value, comment in names:
        assert hasattr(Deadlines, name)
        assert comment.strip().startswith("#"), f"{name} has no reason"
        assert f"| `{name}` | {int(value):,} |" in docs, f"{name} is not in docs/mqtt.md"


def test_an_unknown_deadline_is_refused():
    try:
        Deadlines(puback=1)
    except TypeError as error:
        assert "puback" in str(error)
    else:
        raise AssertionError("accepted")

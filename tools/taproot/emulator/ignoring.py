"""A TLS front that ignores max_fragment_length: MicroPython as server, on mbedTLS without it.

OpenSSL honours the extension and offers no way not to, so the hub's plain port is put behind
a MicroPython built without it: the ClientHello's wish stays unanswered and records are as large
as TLS allows. Responsible for: that process. Not for: the hub; the front asks for no client
certificate, so devices authenticate with tokens through it.

    with ignoring_front(leaf, emu.plain_port) as port: ...   # EmulatorConfig(plain_port=0)
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from taproot.emulator.chains import Certificate
from taproot.interpreters import Process

BUILD = "unix64-nomfl"
_PROGRAM = """
import asyncio, sys, tls

async def copy(reader, writer):
    try:
        while True:
            data = await reader.read(16384)  # one record at most
            if not data:
                break
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()

async def client(reader, writer):
    try:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
    except OSError as error:
        print("no hub", error)
        writer.close()
        return
    await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

async def main():
    context = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(open("chain.pem", "rb").read(), open("chain.key", "rb").read())
    server = await asyncio.start_server(client, "127.0.0.1", int(sys.argv[2]), ssl=context)
    print("ready")
    await server.wait_closed()

asyncio.run(main())
"""


@contextlib.contextmanager
def ignoring_front(chain: Certificate, hub_port: int, *, limit: float = 600) -> Iterator[int]:
    """Serve `chain` in front of a plain MQTT port; yield the front's port."""
    import socket

    with tempfile.TemporaryDirectory(prefix="taproot-") as folder:
        (Path(folder) / "chain.pem").write_text(chain.chain_pem)
        (Path(folder) / "chain.key").write_text(chain.key_pem)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        program = Process(BUILD, _PROGRAM, str(hub_port), str(port), folder=folder, limit=limit)
        with program as running:
            running.wait_for("ready", 15)
            yield port

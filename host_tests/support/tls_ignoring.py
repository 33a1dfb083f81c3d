"""A TLS server that ignores max_fragment_length: MicroPython serving, on mbedTLS without MFL."""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from taproot.interpreters import Process
from taproot.pki import Leaf

_PROGRAM = """
import socket, sys, tls
context = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
context.load_cert_chain(open("leaf.pem", "rb").read(), open("leaf.key", "rb").read())
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(socket.getaddrinfo("127.0.0.1", int(sys.argv[1]))[0][-1])
listener.listen(5)
reply = b"r" * int(sys.argv[2])
print("ready")
while True:
    conn = listener.accept()[0]
    try:
        stream = context.wrap_socket(conn, server_side=True)
        if reply and stream.read(1):
            stream.write(reply)
        while True:
            data = stream.read(1)
            if not data:
                break
            stream.write(data)
    except OSError as error:
        print("ended", error)
    conn.close()
"""


@contextlib.contextmanager
def serving(leaf: Leaf, *, reply: int = 0, build: str = "unix64-nomfl") -> Iterator[int]:
    """Serve `leaf`; the first byte is answered with `reply` bytes, the others echoed."""
    with tempfile.TemporaryDirectory(prefix="tls-") as folder:
        leaf.write(Path(folder), "leaf")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with Process(build, _PROGRAM, str(port), str(reply), folder=folder, limit=120) as server:
            server.wait_for("ready", 10)
            yield port

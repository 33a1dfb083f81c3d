"""TLS servers that behave, TLS servers that do not, and a relay that looks and meddles.

    with Server(leaf) as server: …            # OpenSSL through Python: verifies nothing, echoes
    with Scripted(lambda conn: …) as server:  # a plain socket and a function
    with Relay(server.port, meddle) as relay: # bytes server -> client pass through `meddle`

Every server is bound to loopback, serves until it is closed and joins its threads.
"""

from __future__ import annotations

import abc
import contextlib
import re
import select
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from taproot.pki import Leaf

CHANGE_CIPHER, ALERT, HANDSHAKE, APPLICATION = 20, 21, 22, 23
MFL_EXTENSION = 1
EIGHT = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES128-SHA256:"
    "ECDHE-ECDSA-AES256-SHA384:ECDHE-RSA-AES256-SHA384"
)


class _Listener(abc.ABC):
    """Accept loop in a thread; one thread per connection; all joined at the end."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._closing = False
        self.failures: list[str] = []

    @abc.abstractmethod
    def serve(self, conn: socket.socket) -> None:
        """Serve one connection to its end."""

    def _run(self) -> None:
        while not self._closing:
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            conn.settimeout(10)
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(conn)
            thread = threading.Thread(target=self._guarded, args=(conn,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _guarded(self, conn: socket.socket) -> None:
        try:
            self.serve(conn)
        except (OSError, ValueError) as error:
            self.failures.append(f"{type(error).__name__}: {error}")
        finally:
            with contextlib.suppress(OSError):
                conn.close()

    def __enter__(self) -> Any:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for conn in self._open:
            with contextlib.suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                conn.close()
        self._thread.join(5)
        for thread in self._threads:
            thread.join(5)


class Server(_Listener):
    """OpenSSL behind Python's ssl. Answers the first bytes with `reply`, echoes the others.

    `chain` overrides what is presented (DERs). `client` is None, "optional" or "required", with
    `client_roots` as PEM. Facts of each handshake are in `seen`.
    """

    def __init__(
        self,
        leaf: Leaf,
        *,
        minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
        maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
        ciphers: str = EIGHT,
        client: str | None = None,
        client_roots: str = "",
        chain_pem: str | None = None,
        tickets: bool = True,
        reply: bytes = b"",
        sni: Callable[[str | None], int | None] | None = None,
    ) -> None:
        super().__init__()
        context = self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = minimum
            context.maximum_version = maximum
        context.set_ciphers(ciphers + ":@SECLEVEL=0")
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        if not tickets:
            context.options |= ssl.OP_NO_TICKET
        with tempfile.TemporaryDirectory() as folder:
            chain, key = leaf.write(folder)
            if chain_pem is not None:
                chain.write_text(chain_pem)
            context.load_cert_chain(chain, key)
        if client is not None:
            context.verify_mode = ssl.CERT_OPTIONAL if client == "optional" else ssl.CERT_REQUIRED
            if client_roots:
                context.load_verify_locations(cadata=client_roots)
        if sni is not None:
            context.sni_callback = lambda conn, name, _: sni(name)
        self.reply = reply
        self.seen: list[dict[str, Any]] = []

    def serve(self, conn: socket.socket) -> None:
        with self.context.wrap_socket(conn, server_side=True) as tls:
            suite = tls.cipher()
            self.seen.append(
                {
                    "version": tls.version(),
                    "suite": suite[0] if suite else "",
                    "resumed": tls.session_reused,
                    "client": tls.getpeercert(True),
                }
            )
            reply = self.reply
            while data := tls.recv(65536):
                tls.sendall(reply or data)
                reply = b""


class Scripted(_Listener):
    """A plain socket; `script(conn)` does what it likes."""

    def __init__(self, script: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self._script = script

    def serve(self, conn: socket.socket) -> None:
        self._script(conn)


@dataclass
class Wire:
    """What passed through a relay: raw bytes and plain record lengths, each way."""

    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)

    def records(self, direction: str) -> list[tuple[int, int]]:
        """(type, length) of each whole record of `direction` ("up" or "down")."""
        return [(kind, len(body)) for kind, body in split(bytes(getattr(self, direction)))]

    def hello(self, direction: str) -> Hello:
        """The ClientHello ("up") or ServerHello ("down")."""
        message = b"".join(b for k, b in split(bytes(getattr(self, direction))) if k == HANDSHAKE)
        return Hello(message, client=direction == "up")


class Renegotiating:
    """OpenSSL's s_server: after the client's first bytes it types `command`, then sends a line.

    Command `r` asks for a new handshake (HelloRequest), `R` for one with a client certificate.
    """

    def __init__(self, leaf: Leaf, command: str, line: bytes) -> None:
        self._folder = tempfile.TemporaryDirectory()
        chain, key = leaf.write(self._folder.name)
        self._process = subprocess.Popen(
            ["openssl", "s_server", "-accept", "127.0.0.1:0", "-tls1_2", "-naccept", "1",
             "-cert", chain, "-cert_chain", chain, "-key", key],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._commands = [command.encode() + b"\n"] if command else []
        self._line = line + b"\n"
        self.text = self._until(rb"ACCEPT .*:(\d+)\n")
        self.port = int(self.text.split(b"ACCEPT ")[1].split(b":")[-1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _until(self, pattern: bytes) -> bytes:
        text = b""
        while not re.search(pattern, text):
            data = self._process.stdout.read1()  # type: ignore[union-attr]
            if not data:
                break
            text += data
        return text

    def _serve(self) -> None:
        self.text += self._until(rb"Secure Renegotiation IS supported\n.")
        with contextlib.suppress(OSError):
            for words in [*self._commands, self._line]:
                self._process.stdin.write(words)  # type: ignore[union-attr]
                self._process.stdin.flush()  # type: ignore[union-attr]
                time.sleep(0.2)  # s_server takes what comes together for one command
        self.text += self._until(rb"(?!)")

    def __enter__(self) -> Renegotiating:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join(5)
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        self._folder.cleanup()


def split(data: bytes) -> list[tuple[int, bytes]]:
    """Split a byte stream into whole TLS records: (type, body)."""
    found, at = [], 0
    while at + 5 <= len(data):
        kind, _, length = struct.unpack_from("!BHH", data, at)
        if at + 5 + length > len(data):
            break
        found.append((kind, data[at + 5 : at + 5 + length]))
        at += 5 + length
    return found


class Hello:
    """A hello message (RFC 5246 sections 7.4.1.2, 7.4.1.3), read strictly."""

    def __init__(self, message: bytes, client: bool) -> None:
        if message[0] != (1 if client else 2):
            raise ValueError(f"message type {message[0]}")
        body = message[4 : 4 + int.from_bytes(message[1:4], "big")]
        self.version = int.from_bytes(body[:2], "big")
        at = 34
        self.session_id = body[at + 1 : at + 1 + body[at]]
        at += 1 + body[at]
        self.suites: list[int] = []
        if client:
            size = int.from_bytes(body[at : at + 2], "big")
            self.suites = list(struct.unpack_from(f"!{size // 2}H", body, at + 2))
            at += 2 + size
            at += 1 + body[at]  # compression methods
        else:
            self.suites = [int.from_bytes(body[at : at + 2], "big")]
            at += 3
        self.extensions: dict[int, bytes] = {}
        end = at + 2 + int.from_bytes(body[at : at + 2], "big")
        at += 2
        while at + 4 <= end:
            kind, length = struct.unpack_from("!HH", body, at)
            self.extensions[kind] = body[at + 4 : at + 4 + length]
            at += 4 + length

    @property
    def mfl(self) -> int:
        """Asked or acknowledged fragment length, 0 without."""
        value = self.extensions.get(MFL_EXTENSION)
        return 256 << value[0] if value else 0

    @property
    def versions(self) -> list[int]:
        """Offered versions: supported_versions, else the hello's own."""
        value = self.extensions.get(43)
        if not value:
            return [self.version]
        return list(struct.unpack_from(f"!{value[0] // 2}H", value, 1))


Meddle = Callable[[bytes], Iterator[bytes]]


class Relay(_Listener):
    """Passes bytes both ways. `meddle` is made anew per connection and sees server bytes.

    A meddler is a callable: bytes in, pieces out (sent one by one, in segments of their own); it
    raises `Cut` to close, `Reset` to reset the client's connection.
    """

    def __init__(self, port: int, meddle: Callable[[], Meddle] | None = None) -> None:
        super().__init__()
        self._target = port
        self._meddle = meddle
        self.wires: list[Wire] = []

    def serve(self, conn: socket.socket) -> None:
        wire = Wire()
        self.wires.append(wire)
        server = socket.create_connection(("127.0.0.1", self._target), 10)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open.append(server)
        over = threading.Event()
        upward = threading.Thread(target=self._up, args=(conn, server, wire, over), daemon=True)
        upward.start()
        meddle = self._meddle() if self._meddle else None
        try:
            while data := _received(server):
                for piece in meddle(data) if meddle else (data,):
                    wire.down += piece
                    conn.sendall(piece)
            # Half closed: what the client still writes does not hide what it has not yet read.
            conn.shutdown(socket.SHUT_WR)
            upward.join(5)
        except Cut:
            pass
        except Reset:
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError as error:
            self.failures.append(str(error))
        finally:
            over.set()
            upward.join(5)  # a socket somebody reads from is neither reset nor closed
            for side in (conn, server):
                with contextlib.suppress(OSError):
                    side.close()

    def _up(
        self, conn: socket.socket, server: socket.socket, wire: Wire, over: threading.Event
    ) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed meanwhile
            while not over.is_set():
                if not select.select([conn], [], [], 0.05)[0]:
                    continue
                data = conn.recv(65536)
                if not data:
                    server.shutdown(socket.SHUT_WR)
                    return
                wire.up += data
                with contextlib.suppress(OSError):
                    server.sendall(data)


def _received(server: socket.socket) -> bytes:
    """What the server sent next; a reset after its alert counts as its end."""
    try:
        return server.recv(65536)
    except ConnectionResetError:
        return b""


class Cut(Exception):
    """Close the client's connection."""


class Reset(Exception):
    """Reset the client's connection."""


def segments(size: int) -> Callable[[], Meddle]:
    """Deliver in TCP segments of `size` bytes."""

    def make() -> Meddle:
        def meddle(data: bytes) -> Iterator[bytes]:
            for at in range(0, len(data), size):
                yield data[at : at + size]

        return meddle

    return make


def by_record(change: Callable[[int, int, bytes], bytes]) -> Callable[[], Meddle]:
    """Hand each server record to `change(index, type, body)`, send the bytes it returns."""

    def make() -> Meddle:
        buffer = bytearray()
        count = 0

        def meddle(data: bytes) -> Iterator[bytes]:
            nonlocal count
            buffer.extend(data)
            while len(buffer) >= 5 and len(buffer) >= 5 + int.from_bytes(buffer[3:5], "big"):
                size = 5 + int.from_bytes(buffer[3:5], "big")
                raw = bytes(buffer[:size])
                del buffer[:size]
                sent = change(count, raw[0], raw[5:])
                count += 1
                yield sent

        return meddle

    return make


def record(kind: int, body: bytes, version: int = 0x0303) -> bytes:
    """One TLS record."""
    return struct.pack("!BHH", kind, version, len(body)) + body


def records_of(size: int) -> Callable[[], Meddle]:
    """Split the server's clear handshake records into records of `size` bytes."""
    encrypted = False

    def change(_: int, kind: int, body: bytes) -> bytes:
        nonlocal encrypted
        encrypted = encrypted or kind == CHANGE_CIPHER
        if kind != HANDSHAKE or encrypted:
            return record(kind, body)
        return b"".join(record(kind, body[at : at + size]) for at in range(0, len(body), size))

    return by_record(change)


def merged(messages: int) -> Callable[[], Meddle]:
    """Put the first `messages` clear handshake records into one."""
    held = bytearray()

    def change(index: int, kind: int, body: bytes) -> bytes:
        if index >= messages or kind != HANDSHAKE:
            return record(kind, body)
        held.extend(body)
        return record(HANDSHAKE, bytes(held)) if index == messages - 1 else b""

    return by_record(change)


def cut_after(size: int, reset: bool = False) -> Callable[[], Meddle]:
    """Let `size` bytes of the server through, then close."""

    def make() -> Meddle:
        left = size

        def meddle(data: bytes) -> Iterator[bytes]:
            nonlocal left
            part = data[:left]
            left -= len(part)
            if part:
                yield part
            if left == 0:
                raise Reset if reset else Cut

        return meddle

    return make


def stalled_after(size: int) -> Callable[[], Meddle]:
    """Let `size` bytes of the server through and none after."""

    def make() -> Meddle:
        left = size

        def meddle(data: bytes) -> Iterator[bytes]:
            nonlocal left
            part = data[:left]
            left -= len(part)
            if part:
                yield part

        return meddle

    return make


def alert_at(index: int, number: int, level: int = 2) -> Callable[[], Meddle]:
    """Send an alert in place of the server's record `index` (before it, when only a warning)."""

    def change(at: int, kind: int, body: bytes) -> bytes:
        alert = record(ALERT, bytes((level, number)))
        if at != index:
            return record(kind, body)
        return alert if level == 2 else alert + record(kind, body)

    return by_record(change)


def flip(index: int, offset: int) -> Callable[[], Meddle]:
    """Flip a bit of the server's record `index` (offset from its end when negative)."""

    def change(at: int, kind: int, body: bytes) -> bytes:
        if at == index:
            changed = bytearray(body)
            changed[offset] ^= 1
            body = bytes(changed)
        return record(kind, body)

    return by_record(change)


def after_change_cipher(offset: int) -> Callable[[], Meddle]:
    """Flip a bit of the first encrypted record, the server's Finished."""
    changed = False

    def change(_: int, kind: int, body: bytes) -> bytes:
        nonlocal changed
        if changed:
            changed = False
            wrong = bytearray(body)
            wrong[offset] ^= 1
            body = bytes(wrong)
        changed = kind == CHANGE_CIPHER
        return record(kind, body)

    return by_record(change)

"""The host's half of the board's sockets: one loopback connection for each.

The frames are described in boards/QEMU_RV32/socket.c. End of stream and reset are passed on both
ways, and no side sends more than the other has room for. Only loopback addresses are opened.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import struct
import threading
from collections.abc import Callable

HEADER = struct.Struct("<BBH")  # kind, slot, length
OPEN, DATA, CLOSE, WINDOW, END, ERROR = range(1, 7)
ROOM = 4096  # bytes of data each side may send before the other has taken any
CHUNK = 1024
# What the board's C library (newlib, as on an ESP32) calls Linux's errors.
_BOARD_ERRNO = {
    errno.ECONNRESET: 104,
    errno.ECONNREFUSED: 111,
    errno.ENETUNREACH: 114,
    errno.ETIMEDOUT: 116,
    errno.EHOSTUNREACH: 118,
}
_EIO = 5
LINGER_S = 2.0  # for a peer that does not take the last bytes


class Network:
    """Serves the connections of one board, in a thread of its own, until the board is off."""

    def __init__(self) -> None:
        self.board_end, self._own_end = socket.socketpair()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def start(self) -> None:
        """Begin to serve: the board's process has its end of the line now."""
        self.board_end.close()
        self._thread.start()

    def close(self) -> None:
        """Wait for the end: the board is off, which ends every connection."""
        self.board_end.close()
        if self._thread.ident is not None:
            self._thread.join(LINGER_S + 3)
        self._own_end.close()

    async def _serve(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self._own_end)
        connections: dict[int, _Connection] = {}

        def send(kind: int, slot: int, payload: bytes = b"") -> None:
            writer.write(HEADER.pack(kind, slot, len(payload)) + payload)

        try:
            while True:
                kind, slot, length = HEADER.unpack(await reader.readexactly(HEADER.size))
                payload = await reader.readexactly(length)
                if kind == OPEN:
                    connections[slot] = _Connection(slot, payload, send)
                elif slot in connections:
                    connections[slot].received(kind, payload)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the board is off
        finally:
            for connection in connections.values():
                connection.abort()
            writer.close()


class _Connection:
    """One connection: a task that reads from the peer and one that writes to it."""

    def __init__(self, slot: int, address: bytes, send: Callable[[int, int, bytes], None]) -> None:
        self._slot, self._send = slot, send
        self._room = ROOM
        self._more_room = asyncio.Event()
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()  # b"" ends it
        self._writer: asyncio.StreamWriter | None = None
        port, host = int.from_bytes(address[:2], "little"), address[2:].decode()
        self._reading = asyncio.create_task(self._read(host, port))
        self._writing = asyncio.create_task(self._write())

    def received(self, kind: int, payload: bytes) -> None:
        """Take a frame from the board."""
        if kind == DATA:
            self._outgoing.put_nowait(payload)
        elif kind == WINDOW:
            self._room += int.from_bytes(payload, "little")
            self._more_room.set()
        elif kind == CLOSE:
            self._outgoing.put_nowait(b"")

    def abort(self) -> None:
        """Reset the connection, because the board is off. (A real cut would be silence.)"""
        self._reading.cancel()
        self._writing.cancel()
        if self._writer is not None and not self._writer.is_closing():
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()

    async def _read(self, host: str, port: int) -> None:
        try:
            reader, self._writer = await asyncio.open_connection(await _loopback(host), port)
            self._send(OPEN, self._slot, b"")
            while True:
                while self._room == 0:
                    self._more_room.clear()
                    await self._more_room.wait()
                data = await reader.read(min(self._room, CHUNK))
                if not data:
                    self._send(END, self._slot, b"")
                    return
                self._room -= len(data)
                self._send(DATA, self._slot, data)
        except OSError as error:
            number = _BOARD_ERRNO.get(error.errno or 0, _EIO)
            if isinstance(error, socket.gaierror):
                number = _BOARD_ERRNO[errno.EHOSTUNREACH]
            self._send(ERROR, self._slot, bytes([number]))

    async def _write(self) -> None:
        while data := await self._outgoing.get():
            if self._writer is not None and not self._writer.is_closing():
                self._writer.write(data)
                try:
                    await self._writer.drain()
                except ConnectionError:
                    continue  # the reading task has told the board
            self._send(WINDOW, self._slot, len(data).to_bytes(2, "little"))
        self._reading.cancel()
        if self._writer is not None:
            self._writer.close()
            try:
                await asyncio.wait_for(self._writer.wait_closed(), LINGER_S)
            except (OSError, TimeoutError):
                self._writer.transport.abort()
        self._send(CLOSE, self._slot, b"")


async def _loopback(host: str) -> str:
    """The IPv4 address of `host`; no other than a loopback address."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    address = str(found[0][4][0])
    if not ipaddress.ip_address(address).is_loopback:
        raise OSError(errno.ENETUNREACH, "loopback only")
    return address

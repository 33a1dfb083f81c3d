"""A TCP relay that does to a connection what networks do.

Responsible for: passing bytes between a client and a server, and for the first `times`
connections, from a trigger on: one byte per write, a flipped bit, silence, RST or FIN. With
`delay_s` all bytes arrive that much later, as on a longer way, in both directions.
Knows nothing of TLS or MQTT, except that `records` counts TLS record headers for the bench.

    with Relay(port, mode="rst", after_s=2.0) as relay:
        connect_to(relay.port)
"""

from __future__ import annotations

import contextlib
import queue
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

MODES = ("pass", "drip", "corrupt", "blackhole", "rst", "fin")
TO_CLIENT, TO_SERVER = "s2c", "c2s"


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@dataclass
class Records:
    """TLS records of one direction, counted from their headers."""

    application: int = 0
    total: int = 0
    wire: int = 0
    _left: int = 0
    _head: bytes = b""

    def feed(self, data: bytes) -> None:
        """Look at the next bytes of the stream."""
        self.wire += len(data)
        while data:
            if self._left:
                taken = min(self._left, len(data))
                self._left -= taken
                data = data[taken:]
                continue
            need = 5 - len(self._head)
            self._head += data[:need]
            data = data[need:]
            if len(self._head) == 5:
                self.total += 1
                self.application += self._head[0] == 23
                self._left = int.from_bytes(self._head[3:5], "big")
                self._head = b""


@dataclass
class Connection:
    """What passed in one connection."""

    number: int
    started: float
    bytes_to: dict[str, int] = field(default_factory=lambda: {TO_CLIENT: 0, TO_SERVER: 0})
    records: dict[str, Records] = field(
        default_factory=lambda: {TO_CLIENT: Records(), TO_SERVER: Records()}
    )
    struck: bool = False
    over: threading.Event = field(default_factory=threading.Event)  # both sides have ended


class Relay:
    """See the module. Triggers: `after_s` seconds, `at_byte` of `direction`, or `trigger()`."""

    def __init__(
        self,
        port: int,
        mode: str = "pass",
        *,
        times: int = 1,
        after_s: float | None = None,
        at_byte: int | None = None,
        direction: str = TO_CLIENT,
        offsets: Callable[[int], int | None] | None = None,
        drip_s: float = 0.0,
        count_records: bool = False,
        delay_s: float = 0.0,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"unknown mode {mode!r}: one of {', '.join(MODES)}")
        self.target = port
        self.mode, self.times, self.after_s = mode, times, after_s
        self.at_byte, self.direction, self.offsets = at_byte, direction, offsets
        self.drip_s, self.count_records = drip_s, count_records
        self.delay_s = delay_s
        self._late: dict[socket.socket, queue.Queue[tuple[float, bytes]]] = {}
        self.connections: list[Connection] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._stop = threading.Event()
        self._struck = threading.Event()
        self._held: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def strikes(self) -> int:
        """How many connections were struck."""
        return sum(c.struck for c in self.connections)

    def trigger(self) -> None:
        """Strike now, whatever the trigger was."""
        self._struck.set()

    def __enter__(self) -> Relay:
        self._spawn(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._listener.close()
        for thread in self._threads:
            thread.join(5)
        for sock in self._held:
            sock.close()

    def _spawn(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        self._listener.settimeout(0.1)
        while not self._stop.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(len(self.connections), time.monotonic())
            self.connections.append(connection)
            self._spawn(self._serve, client, connection)

    def _serve(self, client: socket.socket, connection: Connection) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.target), 5)
        except OSError:
            reset(client)
            return
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pairs = {client: (server, TO_SERVER), server: (client, TO_CLIENT)}
        try:
            with selectors.DefaultSelector() as selector:
                for sock in pairs:
                    selector.register(sock, selectors.EVENT_READ)
                self._pump(selector, pairs, connection)
        except OSError:
            reset(client)
            reset(server)
        else:
            for sock in pairs:
                if sock not in self._held:
                    sock.close()
        finally:
            connection.over.set()

    def _pump(
        self,
        selector: selectors.BaseSelector,
        pairs: dict[socket.socket, tuple[socket.socket, str]],
        connection: Connection,
    ) -> None:
        while not self._stop.is_set():
            if self._due(connection) and self._strike(pairs, connection):
                return
            for key, _ in selector.select(0.02):
                source = key.fileobj
                assert isinstance(source, socket.socket)
                sink, direction = pairs[source]
                data = source.recv(65536)
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                if self._forward(data, sink, direction, connection, pairs):
                    return

    def _hostile(self, connection: Connection) -> bool:
        return self.mode not in ("pass", "drip") and connection.number < self.times

    def _due(self, connection: Connection) -> bool:
        if not self._hostile(connection) or connection.struck or self.mode == "corrupt":
            return False
        if self._struck.is_set():
            return True
        late = time.monotonic() - connection.started
        return self.at_byte is None and self.after_s is not None and late >= self.after_s

    def _strike(
        self, pairs: dict[socket.socket, tuple[socket.socket, str]], connection: Connection
    ) -> bool:
        connection.struck = True
        if self.mode == "blackhole":
            self._held += list(pairs)  # open, and nobody reads them any more
            return True
        for sock in pairs:
            if self.mode == "rst":
                reset(sock)
            else:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        return True

    def _forward(
        self,
        data: bytes,
        sink: socket.socket,
        direction: str,
        connection: Connection,
        pairs: dict[socket.socket, tuple[socket.socket, str]],
    ) -> bool:
        """Pass `data` on, up to where it is to be struck; True = the connection is over."""
        so_far = connection.bytes_to[direction]
        limit = self._limit(connection, direction)
        if limit is not None and so_far + len(data) > limit:
            at = limit - so_far
            if self.mode == "corrupt":
                data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
                connection.struck = True
            else:
                if at:
                    sink.sendall(data[:at])
                connection.bytes_to[direction] += at
                return self._strike(pairs, connection)
        connection.bytes_to[direction] += len(data)
        if self.count_records:
            connection.records[direction].feed(data)
        if self.mode == "drip" and direction == self.direction and connection.number < self.times:
            for i in range(len(data)):
                if self._stop.is_set():
                    return True
                sink.sendall(data[i : i + 1])
                if self.drip_s:
                    time.sleep(self.drip_s)
        elif self.delay_s:
            if sink not in self._late:
                self._late[sink] = queue.Queue()
                self._spawn(self._deliver, sink, self._late[sink])
            self._late[sink].put((time.monotonic() + self.delay_s, data))
        else:
            sink.sendall(data)
        return False

    def _deliver(self, sink: socket.socket, late: queue.Queue[tuple[float, bytes]]) -> None:
        """Pass on what is due, in order."""
        while not self._stop.is_set():
            try:
                due, data = late.get(timeout=0.1)
            except queue.Empty:
                continue
            time.sleep(max(0.0, due - time.monotonic()))
            with contextlib.suppress(OSError):  # the connection is over
                sink.sendall(data)

    def _limit(self, connection: Connection, direction: str) -> int | None:
        if self.offsets is not None:  # bytes of both directions together
            total = self.offsets(connection.number)
            if total is None or connection.struck:
                return None
            return total - sum(connection.bytes_to.values()) + connection.bytes_to[direction]
        if not self._hostile(connection) or connection.struck or direction != self.direction:
            return None
        return self.at_byte

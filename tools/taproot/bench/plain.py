"""Plain TCP MQTT helpers of the bench: a durable subscriber and a feeder, both stubborn.

Responsible for: counting, at the broker's other side, what the client under test published, and
feeding it messages, across restarts of the broker. Own codec, QoS 1 only.
"""

from __future__ import annotations

import abc
import contextlib
import socket
import struct
import threading
import time
from types import TracebackType

from taproot.bench.hostile import publish, read_packet, varint


class Link:
    """One connection: CONNECT done, packets read whole."""

    def __init__(self, port: int, client_id: str, clean: bool = False, keep: int = 60) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 2)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        name = client_id.encode()
        body = b"\x00\x04MQTT\x04" + bytes([2 if clean else 0]) + struct.pack("!H", keep)
        body += struct.pack("!H", len(name)) + name
        self.sock.sendall(b"\x10" + varint(len(body)) + body)
        head, body = self.packet()
        if head != 0x20 or body[1]:
            raise OSError(f"CONNACK {body!r}")
        self.present = bool(body[0])

    def exactly(self, n: int) -> bytes:
        """Read n bytes."""
        out = b""
        while len(out) < n:
            data = self.sock.recv(n - len(out))
            if not data:
                raise OSError("closed")
            out += data
        return out

    def packet(self) -> tuple[int, bytes]:
        """Read one packet."""
        return read_packet(self.exactly)

    def subscribe(self, topic: str) -> None:
        """SUBSCRIBE with QoS 1, without waiting for the answer."""
        body = b"\x00\x01" + struct.pack("!H", len(topic)) + topic.encode() + b"\x01"
        self.sock.sendall(b"\x82" + varint(len(body)) + body)


class _Worker(abc.ABC):
    """A thread that connects, works, and connects again until it is stopped."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self):  # type: ignore[no-untyped-def]
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    def _loop(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):
                self._work()
            time.sleep(0.05)

    @abc.abstractmethod
    def _work(self) -> None:
        """Do the work over one connection."""


class Subscriber(_Worker):
    """Durable subscriber of a topic; `got` is every payload in order of arrival."""

    def __init__(self, port: int, topic: str) -> None:
        super().__init__(port)
        self.topic = topic
        self.got: list[bytes] = []
        self.ready = threading.Event()

    def _work(self) -> None:
        link = Link(self.port, "watcher")
        try:
            link.subscribe(self.topic)
            link.sock.settimeout(0.2)
            while not self._stop.is_set():
                try:
                    head, body = link.packet()
                except TimeoutError:
                    continue
                if head >> 4 == 9:
                    self.ready.set()
                elif head >> 4 == 3:
                    n = 2 + int.from_bytes(body[:2], "big")
                    if head & 6:
                        self.got.append(body[n + 2 :])
                        link.sock.sendall(b"\x40\x02" + body[n : n + 2])
                    else:
                        self.got.append(body[n:])
        finally:
            link.sock.close()


class Feeder(_Worker):
    """Publishes payloads with QoS 1, one at a time, until each has its PUBACK."""

    def __init__(
        self, port: int, topic: str, payloads: list[bytes], pause_s: float, qos: int = 1
    ) -> None:
        super().__init__(port)
        self.topic, self.payloads, self.pause_s, self.qos = topic, payloads, pause_s, qos
        self.sent = 0

    def _work(self) -> None:
        link = Link(self.port, "feeder", clean=True)
        try:
            while self.sent < len(self.payloads) and not self._stop.is_set():
                data = publish(self.topic, self.payloads[self.sent], self.qos, 1)
                link.sock.sendall(data)
                if self.qos:
                    head, _ = link.packet()
                    if head != 0x40:
                        continue
                self.sent += 1
                if self.pause_s:
                    time.sleep(self.pause_s)
        finally:
            link.sock.close()
        if self.sent >= len(self.payloads):
            self._stop.set()


def duplicates(got: list[bytes]) -> int:
    """How many arrived more than once."""
    return len(got) - len(set(got))


def in_order(got: list[bytes], sent: list[bytes]) -> bool:
    """First arrivals come in the order of sending."""
    first = list(dict.fromkeys(got))
    return first == [payload for payload in sent if payload in set(first)]

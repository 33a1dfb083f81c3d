"""An MQTT server over TLS 1.2 that misbehaves on its first connection and is correct after.

Responsible for: one way of misbehaving per scenario (MISCHIEF), a log of what it saw, and being
a small correct server otherwise: acknowledges, echoes nothing, sends `end` to a subscriber; and
telling from the log which PUBLISH should not have come (wrong_resends).
Its codec is its own: sharing the client's would hide a shared fault.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from taproot.bench.relay import reset
from taproot.pki import Authority

CONNACK = b"\x20\x02\x00\x00"
DOWN = "devices/dev1/messages/devicebound/x"

# Sent 0.3 s after SUBACK, then silence (or close, see _CLOSES).
AFTER_SUBACK = {
    "oversize": b"\x30\xff\xff\xff\x7f\x00\x03a/b" + b"z" * 90,
    "badvarint": b"\x30\xff\xff\xff\xff\xff\x7f\x00\x03a/bxxxx",
    "trunc": b"\x30\xc8\x01\x00\x03a/b" + b"z" * 20,
    "trunc_hang": b"\x30\xc8\x01\x00\x03a/b" + b"z" * 20,
    "topiclen": b"\x30\x0a\xff\xffa/bzzzzz",
    "qos3": b"\x36\x07\x00\x03a/bq3",
    "type0": b"\x00\x00",
    "type15": b"\xf0\x00",
    "pingresp_len": b"\xd0\x05hello",
    "dup_publish": b"\x32\x0a\x00\x03a/b\x00\x07dup\x3a\x0a\x00\x03a/b\x00\x07dup",
    "large": b"",
    "poison": b"",  # made in _misbehave: larger than the client's buffer, QoS 1
}
# Modes that fall silent with the connection open, and the packet type at which they do.
MUTE = {
    "mute_connect": 1,
    "mute_subscribe": 8,
    "mute_publish": 3,
    "mute_window": 3,  # after two that were acknowledged
    "mute_idle": 8,  # after SUBACK
    "mute_delivery": 8,  # after SUBACK and a message whose PUBACK nobody reads
    "mute_packet": 8,  # after SUBACK and half a packet
}
CONNACKS = {
    "badconnack_rc": b"\x20\x02\x00\x05",
    "badconnack_type": b"\x30\x02\x00\x00",
    "badconnack_len": b"\x20\x03\x00\x00\x00",
    "connack_garbage": b"HTTP/1.1 400 Bad Request\r\n",
}


@dataclass
class Seen:
    """One connection as the server saw it."""

    number: int
    publishes: list[tuple[bytes, int, bool]] = field(default_factory=list)  # payload, id, dup
    acks: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)  # packet types in order of arrival
    present: bool = False
    subscriptions: int = 0
    pings: int = 0
    clean: bool = False
    accepted: bool = False


class Server:
    """See the module. `mode` is a key of AFTER_SUBACK, CONNACKS or one handled in the code."""

    def __init__(
        self,
        mode: str = "",
        *,
        root: Authority | None = None,
        times: int = 1,
        receive_buffer: int = 0,
        pause_s: float = 0.0,
    ) -> None:
        self.mode, self.times = mode, times
        self.pause_s = pause_s  # before each read: a slow peer, whatever the machine's speed
        self.root = root or Authority.root("hostile root", "p256")
        leaf = self.root.leaf("localhost", "p256", dns=["localhost"])
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.maximum_version = ssl.TLSVersion.TLSv1_2
        with tempfile.TemporaryDirectory() as folder:
            chain, key = leaf.write(Path(folder))
            self._context.load_cert_chain(chain, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        if mode == "stop_reading":  # little room, so that the client's writes stop soon
            receive_buffer = 8192
        if receive_buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.port = self._listener.getsockname()[1]
        self.seen: list[Seen] = []
        self.recorded: list[bytes] = []  # payloads of every publish answered, in order
        self.duplicates = 0
        self._forgot = 0  # links before the last forget()
        self._known: set[bytes] = set()
        self.sessions: set[bytes] = set()
        self._stop = threading.Event()
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._listener.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self._thread.join(5)

    def _accept(self) -> None:
        self._listener.settimeout(0.1)
        while not self._stop.is_set():
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self._open.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.mode == "tls_silent" and not self.seen:
            self.seen.append(Seen(0))
            self._sleep(3600)
            return
        try:
            raw.settimeout(10)
            tls = self._context.wrap_socket(raw, server_side=True)
            tls.settimeout(None)
        except OSError:
            raw.close()
            return
        self._open.append(tls)
        seen = Seen(len(self.seen))
        self.seen.append(seen)
        try:
            _Session(self, tls, seen, self.mode if seen.number < self.times else "").run()
        except (OSError, EOFError, ValueError):
            tls.close()

    def _sleep(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def forget(self) -> None:
        """Start counting again, with a fresh session for everybody."""
        self.recorded, self.duplicates, self._forgot = [], 0, len(self.seen)
        self._known, self.sessions = set(), set()

    def wrong_resends(self, window: int = 8) -> list[str]:
        """What MQTT does not allow among the publishes since forget(); empty when all is well."""
        return wrong_resends(self.seen[self._forgot :], window)

    def record(self, payload: bytes) -> None:
        """Note a publish that gets its PUBACK."""
        if payload in self._known:
            self.duplicates += 1
        else:
            self._known.add(payload)
            self.recorded.append(payload)


def wrong_resends(links: list[Seen], window: int) -> list[str]:
    """Publishes that should not have come: payloads are taken to name their message.

    A message comes again on a later link only, with DUP and its packet id (MQTT-3.3.1-1, 4.4.0-1),
    and no more of them than were in flight; one of QoS 0 never.
    """
    found = []
    before: dict[bytes, int] = {}
    lost = False
    for link in links:
        here: dict[bytes, int] = {}
        again = 0
        for payload, pid, dup in link.publishes:
            name = payload[:12].decode("ascii", "replace")
            if payload in here:
                found.append(f"{name} twice on one link")
            elif payload in before:
                again += 1
                if not pid:
                    found.append(f"{name} of QoS 0 again")
                elif not dup:
                    found.append(f"{name} again without DUP")
                elif pid != before[payload]:
                    found.append(f"{name} again with another id")
            elif dup and not lost:
                found.append(f"{name} with DUP at first")
            here[payload] = pid
        if again > window:
            found.append(f"{again} messages again for a window of {window}")
        before.update(here)
        lost = lost or link.accepted
    return list(dict.fromkeys(found))


def publish(topic: str, payload: bytes, qos: int = 0, pid: int = 0) -> bytes:
    """A PUBLISH."""
    body = struct.pack("!H", len(topic)) + topic.encode()
    body += struct.pack("!H", pid) if qos else b""
    return bytes([0x30 | qos << 1]) + varint(len(body) + len(payload)) + body + payload


def read_packet(exactly: Callable[[int], bytes]) -> tuple[int, bytes]:
    """Read one MQTT packet, first byte and body, with what reads `n` bytes."""
    head = exactly(1)[0]
    size = shift = 0
    while True:
        byte = exactly(1)[0]
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return head, exactly(size)


def varint(n: int) -> bytes:
    """A remaining length."""
    out = b""
    while True:
        n, low = n >> 7, n & 127
        out += bytes([low | (128 if n else 0)])
        if not n:
            return out


class _Session:
    def __init__(self, server: Server, sock: ssl.SSLSocket, seen: Seen, mode: str) -> None:
        self.server, self.sock, self.seen, self.mode = server, sock, seen, mode
        # What is to be sent later, sent by the thread that reads: two in one TLS object spoil
        # its records.
        self._due: list[tuple[float, bytes | None]] = []

    def _send(self, data: bytes) -> None:
        self.sock.settimeout(30)
        self.sock.sendall(data)

    def _later(self, seconds: float, data: bytes | None) -> None:
        """Send `data` after a while; None closes."""
        self._due.append((time.monotonic() + seconds, data))
        self._due.sort(key=lambda entry: entry[0])

    def _send_due(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic():
            data = self._due.pop(0)[1]
            if data is None:
                self.sock.shutdown(socket.SHUT_RDWR)
                raise EOFError
            self._send(data)

    def _exactly(self, n: int) -> bytes:
        out = b""
        while len(out) < n:
            if self.server._stop.is_set():
                raise EOFError
            self._send_due()
            self.sock.settimeout(0.02)
            time.sleep(self.server.pause_s)
            try:
                data = self.sock.recv(n - len(out))
            except TimeoutError:
                continue
            if not data:
                raise EOFError
            out += data
        return out

    def run(self) -> None:
        """Serve one connection."""
        while not self.server._stop.is_set():
            head, body = read_packet(self._exactly)
            kind = head >> 4
            self.seen.kinds.append(kind)
            if kind == 1:
                self._connect(body)
            elif kind == 8:
                self._subscribe(body)
            elif kind == 3:
                self._publish(head, body)
            elif kind == 4:
                self.seen.acks.append(int.from_bytes(body, "big"))
            elif kind == 10:
                self._send(b"\xb0\x02" + body[:2])
            elif kind == 12:
                self.seen.pings += 1
                if self.mode != "noping":
                    self._send(b"\xd0\x00")
            elif kind == 14:
                self.sock.close()
                return

    def _connect(self, body: bytes) -> None:
        server, mode = self.server, self.mode
        flags = body[7]
        size = int.from_bytes(body[10:12], "big")
        client = body[12 : 12 + size]
        self.seen.clean = bool(flags & 2)
        if mode in CONNACKS:
            self._send(CONNACKS[mode])
            return
        if mode == "connack_never":
            return
        if mode == "mute_connect":
            self._mute()
        if mode == "connack_late":
            server._sleep(2.5)
        present = client in server.sessions and not self.seen.clean
        if not self.seen.clean:
            server.sessions.add(client)
        answer = bytes([0x20, 2, present, 0])
        self.seen.accepted, self.seen.present = True, bool(present)
        if mode in ("connack_split", "one_byte_per_second"):
            for byte in answer:
                server._sleep(0.3 if mode == "connack_split" else 1.0)
                self._send(bytes([byte]))
        else:
            self._send(answer)
        if present and server.mode == "mute_delivery":  # nobody has acknowledged it yet
            self._send(b"\x3a" + publish(DOWN, b"owed", 1, 5)[1:])
        if present:  # a resumed subscriber is not going to subscribe again
            self._end_soon()

    def _subscribe(self, body: bytes) -> None:
        self.seen.subscriptions += 1
        pid = body[:2]
        if self.mode == "suback_never":
            return
        if self.mode == "mute_subscribe":
            self._mute()
        if self.mode == "suback_fail":
            self._send(b"\x90\x03" + pid + b"\x80")
            return
        if self.mode == "suback_wrongpid":
            self._send(b"\x90\x03\x77\x77\x00")
            return
        self._send(b"\x90\x03" + pid + b"\x01")
        if self.mode in AFTER_SUBACK or self.mode == "drip_publish":
            self._misbehave()
        elif MUTE.get(self.mode) == 8:
            if self.mode == "mute_delivery":
                self._send(publish(DOWN, b"owed", 1, 5))
            elif self.mode == "mute_packet":
                self._send(publish(DOWN, bytes(50), 1, 5)[:30])
            self._mute()
        elif self.mode not in ("noping", "quiet", "amnesia"):
            self._end_soon()

    def _mute(self) -> None:
        """Neither read nor answer any more, with the connection open."""
        self.server._sleep(3600)
        raise EOFError

    def _end_soon(self) -> None:
        self._later(0.2, publish(DOWN, b"end", 1, 77))

    def _misbehave(self) -> None:
        mode = self.mode
        if mode == "drip_publish":
            data = publish("a/b", b"y" * 1000)
            for i in range(len(data)):
                self._later(0.3 + i, data[i : i + 1])
        elif mode in ("poison", "large"):
            size = 20000 if mode == "poison" else 200000
            self._later(0.3, publish("a/b", b"p" * size, 1, 7))
            self._later(0.5, publish(DOWN, b"end", 1, 77))
        else:
            self._later(0.3, AFTER_SUBACK[mode])
            if mode == "trunc":
                self._later(0.4, None)
            elif mode == "dup_publish":
                self._later(0.5, publish(DOWN, b"end", 1, 77))

    def _publish(self, head: int, body: bytes) -> None:
        qos = head >> 1 & 3
        n = 2 + int.from_bytes(body[:2], "big")
        pid = body[n : n + 2] if qos else b""
        payload = body[n + len(pid) :]
        self.seen.publishes.append((payload, int.from_bytes(pid, "big"), bool(head & 8)))
        mode = self.mode
        if not qos or mode == "puback_never":
            return
        seen = len(self.seen.publishes)
        if mode == "mute_publish" or mode == "mute_window" and seen > 2:
            self._mute()
        if mode == "amnesia" and seen > 1:  # with three in flight it forgets everything
            if seen == 4:
                self.server.sessions.clear()
                with contextlib.suppress(OSError):
                    reset(self.sock)
                raise EOFError
            return
        if mode == "puback_badlen":
            self._send(b"\x40\x03" + pid + b"\x00")
            return
        if mode == "kill_before_puback":
            with contextlib.suppress(OSError):
                reset(self.sock)
            raise EOFError
        if mode == "stop_reading":
            self.server._sleep(3600)
        if mode == "publish_in_puback":
            self._send(publish(DOWN, b"in between", 1, 9))
        if mode == "puback_unknown":
            self._send(b"\x40\x02\x10\x92")
        self.server.record(payload)
        self._send(b"\x40\x02" + pid)


def wait_until(condition: object, seconds: float) -> bool:
    """Poll `condition()` until it holds or the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False

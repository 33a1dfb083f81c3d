"""The life of a link on MicroPython, over plain TCP with a scripted server: what mixes and fails."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from support.wire import exactly
from taproot import interpreters
from taproot.bench.hostile import publish, read_packet

SCRIPT = Path(__file__).resolve().parent / "device_link.py"


class Scripted:
    """A server that answers every packet, and does what `case` says besides. `log` holds
    (connection, first byte, body) of each packet."""

    def __init__(self, case: str) -> None:
        self.case = case
        self.log: list[tuple[int, int, bytes]] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.connections: list[socket.socket] = []

    def accept(self) -> None:
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections.append(conn)
            threading.Thread(
                target=self.serve, args=(conn, len(self.connections)), daemon=True
            ).start()

    def serve(self, conn: socket.socket, number: int) -> None:
        try:
            while True:
                head, body = read_packet(partial(exactly, conn))
                self.log.append((number, head, body))
                self.answer(conn, number, head, body)
        except OSError:
            conn.close()

    def answer(self, conn: socket.socket, number: int, head: int, body: bytes) -> None:
        kind = head >> 4
        if kind == 1:
            conn.sendall(b"\x20\x02\x00\x00")
            if self.case == "bad_after_connack":
                conn.sendall(b"\x00\x00")
        elif kind == 8:
            self.subscribed(conn, number, body)
        elif kind == 3 and head & 2:
            name = int.from_bytes(body[:2], "big")
            conn.sendall(b"\x40\x02" + body[2 + name : 4 + name])
        elif kind == 12:
            conn.sendall(b"\xd0\x00")

    def subscribed(self, conn: socket.socket, number: int, body: bytes) -> None:
        if self.case == "drop_at_subscribe" and number > 1:
            time.sleep(0.05)
            conn.close()
            return
        refused = self.case == "refused" and number > 1
        suback = b"\x90\x03" + body[:2] + (b"\x80" if refused else body[-1:])
        messages = [publish("a/b", b"same")] * 3
        if self.case == "ids":
            conn.sendall(suback)
            for message in messages:
                time.sleep(0.05)
                conn.sendall(message)
        elif self.case == "slow_handler":
            conn.sendall(suback + messages[0] + messages[1])
        elif self.case == "stop_in_handler":
            conn.sendall(suback)
            time.sleep(0.1)
            conn.sendall(messages[0])
        else:
            conn.sendall(suback)

    def of_kind(self, kind: int) -> list[tuple[int, bytes]]:
        return [(number, body) for number, head, body in self.log if head >> 4 == kind]


@contextmanager
def served(case: str) -> Iterator[Scripted]:
    server = Scripted(case)
    thread = threading.Thread(target=server.accept, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.listener.close()
        for conn in server.connections:
            conn.close()


def run(case: str, server: Scripted) -> list[str]:
    result = interpreters.run("unix64", SCRIPT, case, str(server.port), heap="1m", timeout=60)
    assert result.returncode == 0, result.text
    return [line for line in result.stdout.splitlines() if line.split(" ")[0].isupper()
            or line.split(" ")[0] in ("raises", "typeless", "changed")]  # fmt: skip


def test_a_message_of_qos_0_never_takes_the_id_of_a_subscription():
    with served("ids") as server:
        lines = run("ids", server)
    assert lines == ["MSG b'same' 0 0"] * 6 + ["DONE 0"]
    assert not server.of_kind(4), "PUBACK for a QoS 0 message"


def test_a_reader_that_fails_when_it_is_sent_gives_its_message_up_and_says_so():
    """Before the first byte the link goes on; in a packet it has to end."""
    with served("readers") as server:
        lines = run("readers", server)
    assert lines[0].startswith("raises OSError") and lines[1].startswith("typeless AttributeError")
    assert lines[2] == "changed ValueError the reader's bytes have changed"
    assert sum(line.startswith("REFUSED") for line in lines) == 2
    assert lines[-1] == "DONE 1", "only the third one cost a link"


def test_subscribing_again_ends_with_its_link():
    with served("drop_at_subscribe") as server:
        lines = run("drop_at_subscribe", server)
    connects = int(lines[-1].split(" ")[1])
    per_link = [sum(n == k for n, _ in server.of_kind(8)) for k in range(2, connects + 1)]
    assert connects > 3 and set(per_link[:-1]) == {1}, per_link


def test_a_subscription_refused_after_a_reconnect_is_counted_and_the_link_stays():
    with served("refused") as server:
        assert run("refused", server)[-2:] == ["REFUSED 1", "DONE 1"]


def test_a_link_that_fails_right_after_connack_backs_off():
    with served("bad_after_connack") as server:
        _, connects, attempts = run("bad_after_connack", server)[-1].split(" ")
    assert int(connects) == int(attempts) < 10
    assert len(server.of_kind(1)) == int(connects)


@pytest.mark.parametrize("case", ["stop_in_handler", "stop_in_hook"])
def test_stop_from_a_handler_or_hook_stops_and_start_goes_on(case):
    with served(case) as server:
        lines = run(case, server)
    if case == "stop_in_handler":
        assert lines == ["STOPPED False", "CONNECTS 1", "CONNECTS 2", "DONE 0"]
    else:
        assert lines == ["CONNECTS 1 False", "DONE 1"]
    assert len(server.of_kind(1)) == 2


def test_a_cancelled_stop_has_stopped_all_the_same():
    """A cancel is handed on to the task that stop() waits for."""
    with served("cancelled_stop") as server:
        assert run("cancelled_stop", server) == ["DONE 0"]


def test_a_slow_handler_is_no_fault_of_the_peer():
    """Neither the unread packet nor our own unanswered one counts while nothing is read."""
    with served("slow_handler") as server:
        lines = run("slow_handler", server)
    assert lines == ["SEEN [b'same', b'same']", "DONE 0"]
    assert server.of_kind(12), "a PING keeps the connection alive meanwhile"


def test_what_mqtt_does_not_allow_is_refused_at_once():
    with served("mistakes") as server:
        assert run("mistakes", server) == ["DONE 0"]
    assert len(server.of_kind(3)) == 1 and not server.of_kind(8)

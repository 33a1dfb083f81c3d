"""`taproot probe` and servers that are silent, slow, closed or too new: what it says, how it ends."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from support.tls_chains import root, served
from support.tls_peer import Hello, Relay, Scripted, Server
from taproot.cli import command as taproot

TLS13 = ssl.TLSVersion.TLSv1_3


def probe(port: int, *args: str) -> tuple[int, str, dict[str, Any]]:
    """Probe a port of loopback: exit status, what it said, the target's object."""
    line = ["probe", f"localhost:{port}", "--json", *args]
    result = CliRunner().invoke(taproot, line)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    body = json.loads(result.stdout)
    assert body["ok"] == (result.exit_code == 0)
    return result.exit_code, result.stderr, (body["targets"] or [{}])[0]


class Unless(Relay):
    """A relay that keeps silent to the hellos that `silent` names."""

    def __init__(self, port: int, silent: Callable[[Hello], bool]) -> None:
        super().__init__(port)
        self._silent = silent

    def serve(self, conn: socket.socket) -> None:
        head = conn.recv(65536, socket.MSG_PEEK)
        if self._silent(Hello(head[5:], client=True)):
            conn.recv(len(head))
            conn.recv(1)  # until the client leaves
        else:
            super().serve(conn)


@pytest.mark.parametrize("last", ["close", "reset"])
def test_a_peer_that_closes_without_a_tls_byte_speaks_no_tls(last) -> None:
    def serve(conn: socket.socket) -> None:
        conn.recv(65536)
        if last == "reset":
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with Scripted(serve) as server:
        code, said, found = probe(server.port)
    assert code == 3 and found["tls"] is False
    assert "speaks no TLS, not a byte of it" in said and "handshakes" not in said
    assert found["note"] == {"close": "connection closed", "reset": "connection reset"}[last]


def test_seconds_are_for_a_whole_handshake() -> None:
    def drip(conn: socket.socket) -> None:
        conn.recv(65536)
        for byte in b"\x16\x03\x03\x40\x00" + bytes(200):
            conn.sendall(bytes((byte,)))
            time.sleep(0.3)

    with Scripted(drip) as server:
        began = time.monotonic()
        code, said, _ = probe(server.port, "--timeout", "1")
        took = time.monotonic() - began
    assert code == 3 and "did not answer within 1 s" in said
    assert 0.9 < took < 5


@pytest.mark.parametrize("as_json", [True, False])
def test_seconds_are_for_the_name_too(monkeypatch, as_json) -> None:
    """A name server that never answers: no system lets a program bound it."""
    left = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: left.wait(30))
    began = time.monotonic()
    line = ["probe", "hub.example", "--timeout", "0.5", *["--json"] * as_json]
    result = CliRunner().invoke(taproot, line)
    took = time.monotonic() - began
    left.set()
    assert result.exit_code == 3 and isinstance(result.exception, SystemExit)
    assert "no name server gave an address for hub.example within 0.5 s" in result.output
    assert 0.4 < took < 5


def test_seconds_are_for_a_whole_resumed_handshake_too(tmp_path) -> None:
    """The first flights come at once, complete handshakes never end."""
    (tmp_path / "root.pem").write_text(root().pem)

    def dripping() -> Callable[[bytes], Iterator[bytes]]:
        flights = 0

        def meddle(data: bytes) -> Iterator[bytes]:
            nonlocal flights
            flights += 1
            if flights == 1:
                yield data
                return
            for byte in data:
                time.sleep(0.3)
                yield bytes((byte,))

        return meddle

    with Server(served("good").leaf) as server, Relay(server.port, dripping) as relay:
        began = time.monotonic()
        code, said, found = probe(
            relay.port, "--timeout", "1", "--root", str(tmp_path / "root.pem")
        )
        took = time.monotonic() - began
    assert code == 3 and took < 20
    assert [one["question"] for one in found["unanswered"]] == [
        "a full handshake before resuming by ticket", "a full handshake before resuming by id",
    ]  # fmt: skip
    assert "by ticket  not known: the handshake failed (no answer)" in said


def test_silence_to_a_hello_that_no_device_says_is_noted() -> None:
    with (
        Server(served("good").leaf) as server,
        Unless(server.port, lambda hello: hello.version == 0x0301) as relay,
    ):
        code, said, found = probe(relay.port, "--timeout", "1.5")
    assert code == 0, said
    assert found["versions"] == {
        "TLSv1.0": None, "TLSv1.1": False, "TLSv1.2": True, "TLSv1.3": False,
    }  # fmt: skip
    assert [one["question"] for one in found["unanswered"]] == ["TLSv1.0"]
    assert "TLSv1.0 no answer, TLSv1.1 no, TLSv1.2 yes" in said
    assert "unanswered TLSv1.0: localhost:" in said and "did not answer within 1.5 s" in said
    assert found["chains"]["ecdsa"]["name_fits"] and len(found["mfl"]) == 4


def test_silence_to_a_hello_that_devices_say_ends_with_3() -> None:
    with (
        Server(served("good").leaf) as server,
        Unless(server.port, lambda hello: hello.mfl in (1024, 4096)) as relay,
    ):
        code, said, found = probe(relay.port, "--timeout", "1.5")
    assert code == 3 and "no answer to fragment length 1024, fragment length 4096" in said
    assert sorted(found["mfl"]) == ["2048", "512"] and found["mfl"]["512"]["obeyed"]
    assert found["versions"]["TLSv1.2"] and found["plans"]["default"]


def test_a_server_that_has_fallen_silent_is_not_waited_for_forever() -> None:
    """After two silences a topic is left; what was answered before stays."""
    asked = 0

    def silent(hello: Hello) -> bool:
        nonlocal asked
        asked += 1
        return asked > 5

    with Server(served("good").leaf) as server, Unless(server.port, silent) as relay:
        code, said, found = probe(relay.port, "--timeout", "1")
    assert code == 3 and found["versions"]["TLSv1.2"]
    assert found["handshakes"] == asked == 5 + 4 * 2, "chains, suites, server name, fragments"
    assert found["mfl"] == {} and found["chains"] == {} and "chain none" not in said
    assert "not asked after 2 questions without an answer" in said
    assert "no chain was presented" not in said and "none of the suites" not in said
    assert "recommended no answer" in said and "smallest IN" not in said
    assert "the server is unknown" in found["plans"]["default"]


def test_a_server_of_tls_1_3_alone_is_told_as_one() -> None:
    with Server(served("good").leaf, minimum=TLS13, maximum=TLS13) as server:
        code, said, found = probe(server.port)
        alarm, alarmed, _ = probe(server.port, "--watch")
    assert code == alarm == 1, said
    assert found["versions"] == {
        "TLSv1.0": False, "TLSv1.1": False, "TLSv1.2": False, "TLSv1.3": True,
    }  # fmt: skip
    words = "the server speaks only TLSv1.3; the devices' default builds offer TLS 1.2"
    assert words in said and words in alarmed
    assert "TLSv1.3 yes" in said and "refused: protocol_version; nothing more was asked" in said
    assert "this build offers TLSv1.2" in found["plans"]["default"]
    assert found["plans"]["stock"].startswith("TLS 1.2 or 1.3")
    for claim in (
        "chain none",
        "no chain",
        "ignore",
        "smallest IN",
        "SNI",
        "suites",
        "not asked:",
    ):
        assert claim not in said, claim
    assert found["chains"] == {} and found["mfl"] == {} and found["input_buffer"] is None


def test_a_server_of_tls_1_3_that_closes_on_older_hellos_speaks_tls() -> None:
    with Server(served("good").leaf, minimum=TLS13, maximum=TLS13) as server:

        class Closing(Relay):
            def serve(self, conn: socket.socket) -> None:
                head = conn.recv(65536, socket.MSG_PEEK)
                if 0x0304 in Hello(head[5:], client=True).versions:
                    super().serve(conn)
                else:
                    conn.recv(len(head))

        with Closing(server.port) as relay:
            code, said, found = probe(relay.port)
    assert code == 1 and found["tls"] and found["versions"]["TLSv1.3"]
    assert "refused: connection closed; nothing more was asked" in said


def test_the_file_of_a_server_of_tls_1_3_claims_nothing_more(tmp_path) -> None:
    out = tmp_path / "probe.json"
    with Server(served("good").leaf, minimum=TLS13, maximum=TLS13) as server:
        probe(server.port, "--out", str(out))
    line = ["device", "info", "--interpreter", "unix32", "--probe", str(out)]
    result = CliRunner().invoke(taproot, line)
    assert result.exit_code == 1 and "this build offers TLSv1.2" in result.output


def test_every_server_of_several_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = free.getsockname()[1]
    with Server(served("good").leaf) as server:
        line = ["probe", f"localhost:{closed}", f"localhost:{server.port}", "--json"]
        result = CliRunner().invoke(taproot, line)
    body = json.loads(result.stdout)
    assert result.exit_code == 3 and len(body["targets"]) == 1 and body["targets"][0]["tls"]
    assert [step["ok"] for step in body["steps"]] == [False, True]

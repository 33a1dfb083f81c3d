"""The module `socket` of the emulated board, against real peers on loopback."""

from __future__ import annotations

import socket
import struct
import threading

import pytest
from support.board_flash import image
from support.surface import outputs
from taproot.emulated_board import EmulatedBoard

# Numbers of the board's C library, which are an ESP32's: some differ from Linux's.
EBADF, ECONNRESET, ECONNREFUSED, ENETUNREACH, EINPROGRESS, ETIMEDOUT = 9, 104, 111, 114, 119, 116
EHOSTUNREACH = 118
PRELUDE = """
import asyncio, json, select, socket
def out(*facts): print("OUT", json.dumps(facts))
def dial(port=PORT, host="localhost"):
    s = socket.socket()
    s.connect(socket.getaddrinfo(host, port)[0][-1])
    return s
def fails(function, *args):
    try:
        return function(*args)
    except OSError as error:
        return error.errno
"""


def on_board(program: str, port: int, limit: float = 60) -> list[list]:
    """Run a program at power-on; what it put out until it said that it is done."""
    text = PRELUDE.replace("PORT", str(port)) + program + "\nprint('done')\n"
    with EmulatedBoard(image({"main.py": text.encode()}), limit=limit) as board:
        for line in board.lines(limit):
            assert "Traceback" not in line, list(board.lines(1)) and board.text
            if line == "done":
                break
        else:
            pytest.fail(board.text)
        return outputs(board.output)


@pytest.fixture
def peer():
    """`peer(serve)`: a listening port; `serve(connection)` runs for each connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def begin(serve):
            def accept():
                while True:
                    try:
                        connection, _ = server.accept()
                    except OSError:
                        return  # closed: the test is over
                    with connection:
                        serve(connection)

            threading.Thread(target=accept, daemon=True).start()
            return server.getsockname()[1]

        yield begin
        server.shutdown(socket.SHUT_RDWR)


def test_many_bytes_arrive_whole_both_ways_and_the_end_is_seen(peer):
    sizes = []

    def serve(connection):
        if len(sizes) == 8:
            return
        connection.sendall(bytes(range(256)) * 80)
        sizes.append(len(b"".join(iter(lambda: connection.recv(4096), b""))))

    program = """
for turn in range(8):  # more connections than the board has at a time
    s = dial()
    got = s.read(20480)
    out(len(got), got == bytes(range(256)) * 80, s.write(b"x" * 20000))
    s.close()
dial().read(1)  # the peer serves one after the other: it has seen every end
out(fails(s.read, 1))
"""
    found = on_board(program, peer(serve))
    assert found == [[20480, True, 20000]] * 8 + [[EBADF]]
    assert sizes == [20000] * 8


def test_end_of_stream_reset_and_refusal_are_told_apart(peer):
    turns = iter("end reset".split())

    def serve(connection):
        connection.sendall(b"hello")
        assert connection.recv(3) == b"abc"
        if next(turns) == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    program = """
for turn in range(2):
    s = dial()
    out(s.read(5).decode())
    s.write(b"abc")
    out(str(fails(s.read, 1)))
out(fails(dial, 1), fails(dial, 443, "192.0.2.1"), fails(dial, 443, "no such host"))
"""
    found = on_board(program, peer(serve))
    assert found == [
        ["hello"],
        ["b''"],
        ["hello"],
        [str(ECONNRESET)],
        [ECONNREFUSED, ENETUNREACH, EHOSTUNREACH],
    ]


def test_a_reader_that_waits_holds_nobody_up(peer):
    """One connection is full and unread; another one on the same line goes on."""
    turns = iter(range(2))

    def serve(connection):
        if next(turns) == 0:
            threading.Thread(target=flood, args=(connection.dup(),), daemon=True).start()
        else:
            connection.sendall(b"quick")

    def flood(connection):
        with connection:
            assert connection.recv(2) == b"go"
            connection.sendall(b"f" * 30000)

    program = """
full = dial()
full.write(b"go")
quick = dial()
out(quick.read(5).decode())
out(len(full.read(30000)), str(full.read()))
"""
    assert on_board(program, peer(serve)) == [["quick"], [30000, "b''"]]


def test_a_socket_that_must_not_block_does_not(peer):
    gate = threading.Event()

    def serve(connection):
        assert gate.wait(30)
        connection.sendall(b"late")

    program = """
s = socket.socket()
s.setblocking(False)
out(fails(s.connect, ("localhost", PORT)))
p = select.poll()
p.register(s, select.POLLOUT)
out(len(p.poll(5000)), str(s.read(1)))
p.modify(s, select.POLLIN)
out(len(p.poll(50)))
s.settimeout(0.05)
out(fails(s.read, 1))
async def reads():
    s.setblocking(False)
    print("OUT [\\"waiting\\"]")
    return await asyncio.StreamReader(s).readexactly(4)
out(asyncio.run(reads()).decode())
"""
    port = peer(serve)
    text = (PRELUDE + program + "\nprint('done')\n").replace("PORT", str(port))
    with EmulatedBoard(image({"main.py": text.encode()}), limit=60) as board:
        board.wait_for("waiting", 30)
        gate.set()
        board.wait_for("done", 30)
        found = outputs(board.output)
    assert found == [
        [EINPROGRESS], [1, "None"], [0], [ETIMEDOUT], ["waiting"], ["late"]
    ]  # fmt: skip


def test_a_peer_sees_a_power_cut_as_a_reset(peer):
    seen = []

    def serve(connection):
        connection.sendall(b"hello")
        try:
            seen.append(connection.recv(1))
        except ConnectionResetError:
            seen.append("reset")

    program = "s = dial()\nout(s.read(5).decode())\nprint('cut me')\nwhile True: pass\n"
    text = PRELUDE.replace("PORT", str(peer(serve))) + program
    with EmulatedBoard(image({"main.py": text.encode()}), limit=40) as board:
        board.wait_for("cut me", 20)
        board.kill()
    assert seen == ["reset"]

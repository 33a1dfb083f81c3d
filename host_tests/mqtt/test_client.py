"""The asyncio client on MicroPython, over TLS: ownership, streams, cancelling, waiting."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from support.hostile_broker import Server, wait_until
from taproot import interpreters

LOGGED = ("warning: ", "error: ")
SCRIPT = Path(__file__).resolve().parent / "device_client.py"
PATTERN = hashlib.sha256(bytes(i & 255 for i in range(200_000))).hexdigest()


def run(case: str, server: Server, folder: Path, build: str = "unix64", heap: str = "1m") -> list:
    root = folder / "root.der"
    root.write_bytes(server.root.der)
    result = interpreters.run(
        build, SCRIPT, case, str(server.port), str(root), heap=heap, timeout=60
    )
    assert result.returncode == 0 and not result.stderr.strip(), result.text
    # what the program says; the package's own log lines are not part of it
    return [line for line in result.stdout.splitlines() if not line.startswith(LOGGED)]


@pytest.mark.parametrize("build", ["unix64", "unix32"])
def test_cancelling_at_every_await_leaves_a_working_client(tmp_path, build):
    # a slow server with little room, so that many cancels fall into the middle of a packet
    with Server(receive_buffer=2048, pause_s=0.002) as server:
        lines = run("cancel", server, tmp_path, build)
        after = [p for p in server.recorded if p.startswith(b"after")]
    assert lines[-1].startswith("DONE") and int(lines[-1].split(" ")[1]) >= 10
    assert after == [b"after %d" % k for k in range(60)]
    # every packet the server saw was whole and as published
    known = (b"after ", b"work ", bytes(30000))
    assert all(p.startswith(known) for seen in server.seen for p, _, _ in seen.publishes)


def test_cancelling_while_connecting_leaves_nothing_behind(tmp_path):
    with Server() as server:
        assert run("cancel_connect", server, tmp_path) == ["DONE"]
        assert server.recorded == [b"after"]


def test_payloads_belong_to_the_session_until_puback(tmp_path):
    with Server() as server:
        lines = run("ownership", server, tmp_path)
        recorded = server.recorded
    assert sum(line.startswith("REFUSED") for line in lines) == 2
    assert "SAME True" in lines and lines[-1] == "DONE"
    assert recorded == [b"by reference", b"as it was", "ä text".encode()]


def test_the_queue_is_bounded_by_messages_and_bytes_and_loses_nothing(tmp_path):
    with Server() as server:
        lines = run("queue", server, tmp_path)
        recorded = server.recorded
    assert lines[0].startswith("FULL 10 messages") and lines[1] == "FULL bytes"
    assert lines[-1] == "DONE 0"
    assert recorded == [b"q%02d" % i for i in range(11)]


@pytest.mark.parametrize("build", ["unix64", "unix32"])
def test_a_large_message_is_published_from_a_reader(tmp_path, build):
    with Server() as server:
        lines = run("stream", server, tmp_path, build)
        recorded = server.recorded
    said = {line.split(" ")[0]: line.split(" ")[1:] for line in lines}
    most, allowed = map(int, said["HEAP"])
    assert most < allowed, f"{most} B of extra heap"
    assert said["SHA"] == [PATTERN] == [hashlib.sha256(recorded[0]).hexdigest()]
    assert sum(line.startswith("REFUSED") for line in lines) == 5
    assert recorded[1:] == [b"end"] and said["DONE"] == ["0", "0"]


@pytest.mark.parametrize("mode", ["kill_before_puback", "puback_never"])
def test_a_stream_is_read_again_after_a_lost_link(tmp_path, mode):
    with Server(mode) as server:
        lines = run("stream", server, tmp_path)
        assert hashlib.sha256(server.recorded[0]).hexdigest() == PATTERN
    assert lines[-1].split(" ")[2] != "0"


@pytest.mark.parametrize("build", ["unix64", "unix32"])
def test_a_large_message_is_received_into_a_sink(tmp_path, build):
    with Server("large") as server:
        lines = run("large", server, tmp_path, build)
        acks = server.seen[0].acks
        wait_until(lambda: 7 in acks, 5)  # the server may read more slowly than it is told
    said = {line.split(" ")[0]: line.split(" ")[1:] for line in lines}
    assert said["SINK"] == ["200000", hashlib.sha256(b"p" * 200_000).hexdigest()]
    most, allowed = map(int, said["HEAP"])
    assert most < allowed, f"{most} B of extra heap"
    assert said["DONE"] == ["0"] and 7 in acks


def test_a_message_whose_handler_raised_is_not_acknowledged(tmp_path):
    with Server() as server:
        lines = run("handler", server, tmp_path)
        first, second = server.seen[0].acks, server.seen[1].acks
        wait_until(lambda: second, 5)
    assert "ERRORS 1" in lines
    assert first == [] and second == [77]
    assert any(line.startswith("RUNTIME a message handler must not wait") for line in lines)
    assert lines[-1].startswith("DONE")


def test_a_handler_that_returns_false_acknowledges_later(tmp_path):
    with Server() as server:
        lines = run("later", server, tmp_path)
        acks = server.seen[0].acks
        wait_until(lambda: acks, 5)
    assert lines == ["ERRORS 0", "DONE 1"] and acks == [77]


def test_the_inbox_counts_what_it_drops(tmp_path):
    with Server() as server:
        assert run("inbox", server, tmp_path) == ["DROPS 2 3", "DONE [2, 3, 4, 9]"]


def test_stop_wakes_everybody_and_keeps_what_was_accepted(tmp_path):
    with Server() as server:
        lines = run("stop", server, tmp_path)
        assert server.recorded == [b"kept"]
    assert lines == ["WAITER the client is stopped", "DONE"]


def test_a_cancellation_that_nobody_asked_for_ends_the_link_only(tmp_path):
    with Server() as server:
        lines = run("stray", server, tmp_path)
        assert server.recorded == [b"after"]
    assert lines == ["ERROR connection lost: no memory to wait", "DONE"]


def test_a_second_run_at_the_repl_works(tmp_path):
    with Server() as server:
        lines = run("repl", server, tmp_path)
        assert len(server.seen) == 3
    assert lines == ["INTERRUPTED"] * 3 + ["DONE"]

"""Every answer of `taproot probe` against servers whose true values are known."""

from __future__ import annotations

import ctypes
import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.tls_chains import root, served
from support.tls_peer import EIGHT, HANDSHAKE, Relay, Server, by_record, record
from taproot.cli import command as taproot
from taproot.emulator import EmulatorConfig, running
from taproot.emulator.tls import TLSOptions
from taproot.pki import Authority, Leaf
from taproot.probe.file import load, usable

LIFETIME = 1234


@pytest.fixture
def trusted(tmp_path) -> Path:
    path = tmp_path / "root.pem"
    path.write_text(root().pem)
    return path


@pytest.fixture(scope="module")
def long_chain() -> tuple[Authority, Leaf]:
    """Its Certificate message is longer than 2048 bytes: three fragment lengths are put to the test."""
    top = Authority.root("Answers root", "rsa2048")
    below = top.intermediate("Answers upper").intermediate("Answers issuing")
    return top, below.leaf("localhost", dns=["localhost"])


def run(line: str, code: int = 0) -> str:
    """Run `taproot LINE`, check the exit status, return all it said."""
    result = CliRunner().invoke(taproot, line.split())
    assert result.exit_code == code, result.output
    return result.output


def probe(port: int, more: str, out: Path) -> tuple[str, dict[str, Any]]:
    """What a probe of the port says, and its object."""
    said = run(f"probe localhost:{port} {more} --out {out}")
    return said, json.loads(out.read_text())["targets"][0]


def set_lifetime(server: Server, seconds: int) -> None:
    """Let an OpenSSL server announce this lifetime with its tickets."""
    from taproot.emulator import anycert

    assert anycert.usable()  # as test_emulator_tls.py demands of this machine
    library = anycert._library()
    library.SSL_CTX_set_timeout.argtypes = [ctypes.c_void_p, ctypes.c_long]
    library.SSL_CTX_set_timeout(anycert._pointer(server.context), seconds)


def test_resumption_by_ticket_has_the_lifetime_that_the_server_announced(
    tmp_path, trusted
) -> None:
    with Server(served("good").leaf) as server:
        set_lifetime(server, LIFETIME)
        said, found = probe(server.port, f"--root {trusted}", tmp_path / "probe.json")
    ticket = found["resumption"]["ticket"]
    assert ticket == {
        "offered": True, "resumed": True, "lifetime_s": LIFETIME, "bytes_down": ticket["bytes_down"],
    }  # fmt: skip
    assert f"by ticket  resumes, lifetime {LIFETIME} s" in said


def test_without_a_ticket_nothing_is_resumed_by_ticket(tmp_path, trusted) -> None:
    config = EmulatorConfig(chain=served("good").leaf, https_port=None)  # tickets are off
    with running(config) as emu:
        said, found = probe(
            emu.mqtt_port, f"--root {trusted} --picture", tmp_path / "probe.json"
        )  # fmt: skip
    by_id = found["resumption"]["id"]
    assert found["resumption"] == {
        "asked": True,
        "ticket": {"offered": False, "resumed": False},
        "id": {"offered": True, "resumed": True, "bytes_down": by_id["bytes_down"]},
    }
    assert "by ticket  does not resume: the server gave no ticket" in said
    assert "by id      resumes, for how long is not announced" in said and "lifetime" not in said
    assert "resumed by ticket" not in said and "\nresumed by id\n" in said


def test_ladders_and_answers_count_what_was_on_the_wire(tmp_path, trusted) -> None:
    with Server(served("good").leaf) as server, Relay(server.port) as relay:
        said, found = probe(relay.port, f"--root {trusted} --picture", tmp_path / "probe.json")
        downs = [len(wire.down) for wire in relay.wires]
        flights = {
            wire.hello("up").mfl: wire
            for wire in relay.wires
            if wire.records("up")[0][0] == HANDSHAKE and len(wire.records("up")) == 1
        }
    assert found["handshakes"] == len(downs)
    for size in (512, 1024, 2048, 4096):
        wire = flights[size]
        ladder = said.split(f"\nfull, fragments of {size}\n")[1].split("\n\n")[0]
        # What follows is OpenSSL's alert about the client that left.
        lengths = [length for kind, length in wire.records("down") if kind == HANDSHAKE]
        down = sum(5 + length for length in lengths)
        assert f"  {len(wire.up)} bytes up, {down} down; first flight complete" in ladder
        assert f" ClientHello, {len(wire.up) - 5} " in ladder
        assert ladder.count(" Handshake, ") == len(lengths)
        for length in lengths:
            assert f" Handshake, {length} " in ladder
    # By ticket in full and resumed, then by id: the last handshakes of all.
    told = [*found["resumption"]["ticket"]["bytes_down"], *found["resumption"]["id"]["bytes_down"]]
    # OpenSSL's close_notify may or may not still have been read.
    assert all(0 <= down - count <= 31 for down, count in zip(downs[-4:], told, strict=True))
    assert told[0] > told[1] > 100 and f"{told[1]} down; resumed, TLSv1.2" in said


@pytest.mark.parametrize("skew", [5_000, -70_000])
def test_clock_of_a_server_that_tells_its_time(tmp_path, skew) -> None:
    def change(index: int, kind: int, body: bytes) -> bytes:
        if index == 0 and body[0] == 2:  # ServerHello: type, length, version, random
            body = body[:6] + struct.pack("!I", int(time.time()) + skew) + body[10:]
        return record(kind, body)

    with Server(served("good").leaf) as server, Relay(server.port, by_record(change)) as relay:
        said, found = probe(relay.port, "", tmp_path / "probe.json")
    assert abs(found["clock"]["server_skew_s"] - skew) <= 2
    assert f"server is {found['clock']['server_skew_s']} s off" in said


def test_clock_of_a_server_that_does_not(tmp_path) -> None:
    with Server(served("good").leaf) as server:
        said, found = probe(server.port, "", tmp_path / "probe.json")
    assert found["clock"]["server_skew_s"] is None and "server does not tell" in said


@pytest.mark.parametrize("without", ["same chain", "other chain", "unrecognized_name"])
def test_whether_the_server_name_is_needed(tmp_path, without) -> None:
    good, other = served("good").leaf, served("self-signed").leaf
    with Server(good) as server:

        def named(conn: Any, name: str | None, _: Any) -> int | None:
            if name == "localhost" or without == "same chain":
                return None
            if without == "other chain":
                conn.context = second.context
                return None
            return 112

        with Server(other) as second:
            server.context.sni_callback = named
            said, found = probe(server.port, "", tmp_path / "probe.json")
    assert found["sni"]["needed"] is (without != "same chain")
    assert found["sni"]["without"] == without
    refused = without == "unrecognized_name"
    assert found["sni"]["unknown_name"] == ("unrecognized_name" if refused else "served")
    words = "not needed" if without == "same chain" else "needed"
    assert f"SNI        {words}; without: {without}" in said


def test_fragment_lengths_of_a_server_that_obeys(tmp_path, long_chain) -> None:
    size = long_chain[1].certificate_message_size
    assert 2048 < size < 4096
    with Server(long_chain[1]) as server:
        said, found = probe(server.port, "", tmp_path / "probe.json")
    assert found["mfl"] == {
        str(length): {"echoed": True, "obeyed": True, "tested": length < size,
                      "largest_record": min(length, size)}
        for length in (512, 1024, 2048, 4096)
    }  # fmt: skip
    assert found["input_buffer"] == {
        "largest_message": size, "largest_record": 512, "smallest": 4096,
    }  # fmt: skip
    assert f"largest message {size}, record 512; smallest IN that holds both 4096" in said
    assert "MFL 2048   acknowledged, obeyed, largest record 2048" in said
    assert "MFL 4096   acknowledged, nothing longer to send" in said
    (server,) = load(tmp_path / "probe.json")
    assert server.lengths == (512, 1024, 2048, 4096) and server.broken == ()


def test_acknowledged_is_not_obeyed(tmp_path) -> None:
    leaf = Authority.root("Violating root", "rsa2048").intermediate("Violating CA").leaf(
        "localhost", dns=["localhost"]
    )  # fmt: skip
    options = TLSOptions(violate_mfl=True)
    out = tmp_path / "probe.json"
    with running(EmulatorConfig(chain=leaf, tls=options, https_port=None)) as emu:
        said, found = probe(emu.mqtt_port, "", out)
    flight = found["mfl"]["512"]["largest_record"]
    assert leaf.certificate_message_size < 2048 < flight < 4096, "the whole flight in one record"
    assert found["mfl"] == {
        str(length): {"echoed": True, "obeyed": length == 4096, "tested": length < flight,
                      "largest_record": flight}
        for length in (512, 1024, 2048, 4096)
    }  # fmt: skip
    assert usable(found["mfl"]) == (), "4096 was not put to the test, and the others broke"
    assert found["input_buffer"]["largest_record"] == flight
    assert found["input_buffer"]["smallest"] == 4096
    assert "MFL 512    acknowledged, NOT OBEYED" in said
    assert "after the handshake records may be longer" in said
    told = run(f"device info --interpreter unix32 --probe {out}")
    for plan in (found["plans"]["default"], found["plans"]["psram"], told):
        assert "fragments of 512" not in plan
        assert "it acknowledges 512, 1024, 2048 and sends longer records" in plan


def test_a_chain_that_cannot_be_read_is_told_as_one(tmp_path) -> None:
    curve = bytes.fromhex("2a8648ce3d030107")  # P-256 becomes a curve that nobody knows

    def change(_: int, kind: int, body: bytes) -> bytes:
        return record(kind, body.replace(curve, curve[:-1] + b"\x6f"))

    with Server(served("good").leaf) as server, Relay(server.port, by_record(change)) as relay:
        said, found = probe(relay.port, "", tmp_path / "probe.json")
    assert "ecdsa chain cannot be read: " in said and "Traceback" not in said
    assert found["chains"]["ecdsa"]["unreadable"] and found["versions"]["TLSv1.2"]


def test_suites_are_those_that_the_server_has(tmp_path) -> None:
    names = EIGHT.split(":")[::3]
    with Server(
        served("good").leaf, ciphers=":".join([*names, "ECDHE-ECDSA-AES256-SHA"])
    ) as server:
        said, found = probe(server.port, "", tmp_path / "probe.json")
    ours = {s["suite"] for s in found["suites"] if s["class"] == "recommended"}
    assert ours == {name for name in names if "ECDSA" in name}
    assert {"suite": "ECDHE-ECDSA-AES256-SHA", "class": "legacy"} in found["suites"]
    assert "  weak        none" in said

"""The traps of TLS on small devices: each shown failing without its rule, working with it.

`raw` uses MicroPython's tls and tlsopt directly, as a program without the profile would; `connect`
is the package. Traps 6 and 8 are pure rules (test_profile.py), 9 is row rsa-tls12 of the matrix,
10 is test_memory_verdicts.py.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from support.tls_chains import credential, device_authority, root, served
from support.tls_device import connect
from support.tls_ignoring import serving
from support.tls_peer import Relay, Scripted, Server, alert_at
from support.tls_violating import Violating
from taproot import interpreters

RAW = """
import json, socket, sys, time, tls, tlsopt
asked = json.loads(sys.argv[1])
def link(mfl, host="localhost", offer=None, roots="root.der"):
    made = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    tlsopt.configure(made, mfl=mfl)
    made.load_verify_locations(open(roots, "rb").read())
    if asked.get("cert"):
        made.load_cert_chain(open("cert", "rb").read(), open("key", "rb").read())
    tlsopt.offer(made, offer)
    sock = socket.socket()
    sock.connect(socket.getaddrinfo("127.0.0.1", asked["port"])[0][-1])
    return made.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
try:
    %s
    print("ok")
except (OSError, ValueError) as found:
    print(found.errno if isinstance(found, OSError) else found)
"""


def raw(tmp_path: Path, build: str, port: int, body: str, **asked: Any) -> str:
    """What happens without our rules: last line of the program's output."""
    (tmp_path / "root.der").write_bytes(asked.pop("root", root().der))
    if asked.get("cert"):
        held = credential(asked["cert"])
        (tmp_path / "cert").write_bytes(held.cert)
        (tmp_path / "key").write_bytes(held.key)
    script = tmp_path / "raw.py"
    script.write_text(RAW % body.replace("\n", "\n    "))
    result = interpreters.run(build, script, json.dumps({"port": port, **asked}), cwd=tmp_path)
    assert result.returncode == 0, result.text
    return result.stdout.strip().splitlines()[-1]


@pytest.fixture
def has(not_checked):
    """End a test whose special build is missing here."""

    def check(build: str) -> str:
        if not (interpreters.build_folder() / "bin" / f"micropython-{build}").exists():
            not_checked(f"the build {build} is missing: make setup")
        return build

    return check


def test_trap_1_variable_buffers_without_a_fragment_length(tmp_path, has) -> None:
    build = has("unix64-vb")
    with Server(served("good").leaf, reply=b"r" * 9000) as server:
        body = 'made = link(0)\nmade.write(b"x")\nmade.read(9000)'
        assert raw(tmp_path, build, server.port, body) == "-28928"
        found = connect(build, server.port, served("good").roots, write=1, read=9000)
        assert found["verdict"] == "OK" and found["mfl"] == 4096, found
        found = connect(build, server.port, served("good").roots, mfl=0)
        assert found["verdict"] == "CONFIG" and "VARIABLE_BUFFER_LENGTH=n" in found["text"]


def test_trap_2_a_server_that_ignores_the_fragment_length(tmp_path, has) -> None:
    build = has("unix64-vb")
    reply = 16_000
    with serving(served("good").leaf, reply=reply) as port:
        body = f'made = link(512)\nmade.write(b"x")\nmade.read({reply})'
        assert raw(tmp_path, build, port, body) == "-28928"
    with serving(served("good").leaf, reply=reply) as port:
        # This build cannot do without: found out in the first handshake, then refused clearly.
        found = connect(
            build, port, served("good").roots, read=reply, write=1, times=2, acknowledged=None
        )
        first, second = found["all"]
        assert first["acknowledged"] is False
        assert first["verdict"] == "RECORD_SIZE" and "IN_CONTENT_LEN=16384" in first["text"]
        assert second["verdict"] == "RECORD_SIZE" and "ignores the fragment" in second["text"]
    with serving(served("good").leaf, reply=reply) as port:
        # A build with a full input buffer goes on without one.
        found = connect("unix64", port, served("good").roots, read=reply, write=1, times=2)
        assert [one["verdict"] for one in found["all"]] == ["OK", "OK"], found["all"]
        assert [one["mfl"] for one in found["all"]] == [4096, 0]


def test_trap_2_a_server_that_agrees_to_the_length_and_breaks_it() -> None:
    with Violating(served("good").leaf, reply=9000) as server, Relay(server.port) as relay:
        roots = served("good").roots
        found = connect("unix32", relay.port, roots, times=3, write=1, read=9000)
        first, second, third = found["all"]
        assert first["acknowledged"] == 4096
        assert first["verdict"] == "RECORD_SIZE" and "IN_CONTENT_LEN=16384" in first["text"]
        for one in (second, third):
            assert one["verdict"] == "RECORD_SIZE" and "IN_CONTENT_LEN=16384" in one["text"], one
        assert [len(wire.up) > 0 for wire in relay.wires] == [True, False, False], "refused before"
        found = connect("unix64", relay.port, roots, write=1, read=9000)
        assert found["verdict"] == "OK", "an input buffer that holds whole records"


def test_a_server_that_refuses_a_shorter_length_gets_the_one_it_agreed_to() -> None:
    """It answers 512 with illegal_parameter: one attempt more, and never 512 again."""

    def make():
        asked = relay.wires[-1]
        alert = alert_at(0, 47)()

        def meddle(data: bytes):
            return alert(data) if asked.hello("up").mfl == 512 else iter((data,))

        return meddle

    with Server(served("good").leaf) as server, Relay(server.port, make) as relay:
        found = connect("unix32", relay.port, served("good").roots, times=3, write=1, read=1)
        asked = [wire.hello("up").mfl for wire in relay.wires]
    assert [one["verdict"] for one in found["all"]] == ["OK"] * 3, found["all"]
    assert asked == [4096, 512, 4096, 4096]


def test_trap_3_a_client_certificate_above_the_fragment_length(tmp_path) -> None:
    chain = served("good")
    with (
        Server(chain.leaf, client="required", client_roots=device_authority().pem) as server,
        Relay(server.port) as relay,
    ):
        body = 'made = link(512)\nmade.write(b"x")\nmade.read(1)'
        assert raw(tmp_path, "unix64", relay.port, body, cert="rsa") == "-30592"
        assert any("DATA_LENGTH_TOO_LONG" in failure for failure in server.failures), (
            server.failures
        )
        held = credential("rsa")
        found = connect(
            "unix32", relay.port, chain.roots, cert="cert", key="key", acknowledged=4096,
            files={"cert": held.cert, "key": held.key},
        )  # fmt: skip
        assert found["verdict"] == "OK" and found["mfl"] == 1024, found
        assert max(n for kind, n in relay.wires[-1].records("up")) <= 1024 + 64


def test_trap_4_a_server_message_larger_than_the_input_buffer() -> None:
    with Server(served("large").leaf) as server:
        found = connect("unix32", server.port, served("large").roots, times=2)
        first, second = found["all"]
        assert first["verdict"] == second["verdict"] == "RECORD_SIZE"
        assert "a message of 9" in first["text"]
        assert "CONFIG_MBEDTLS_SSL_IN_CONTENT_LEN=16384" in second["text"], "refused beforehand"
        assert connect("unix64", server.port, served("large").roots)["verdict"] == "OK"


def test_trap_5_a_fragment_length_above_the_buffers(tmp_path, has) -> None:
    build = has("unix32-out2048")
    with Server(served("good").leaf) as server:
        assert "buffers" in raw(tmp_path, build, server.port, "link(4096)")
        found = connect(build, server.port, served("good").roots)
        assert found["verdict"] == "OK" and found["mfl"] == 2048, found


@contextlib.contextmanager
def half_closed(seconds: float):
    """Sends five bytes and close_notify, then keeps TCP open."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def script(conn: socket.socket) -> None:
        with context.wrap_socket(conn, server_side=True, suppress_ragged_eofs=True) as tls:
            tls.recv(1)
            tls.sendall(b"hello")
            tls.settimeout(0.05)
            with contextlib.suppress(OSError):
                tls.unwrap()
            time.sleep(seconds)

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        context.load_cert_chain(*served("good").leaf.write(folder))
    with Scripted(script) as server:
        yield server.port


def test_trap_7_reading_beyond_what_was_promised_waits_for_tcp(tmp_path) -> None:
    with half_closed(1.5) as port:
        body = (
            'made = link(0)\nmade.write(b"x")\nbuffer = bytearray(10)\n'
            "start = time.ticks_ms()\nn = made.readinto(buffer)\nm = made.readinto(buffer)\n"
            "print(n, m, time.ticks_diff(time.ticks_ms(), start) > 1000)\nraise OSError(n)"
        )
        assert raw(tmp_path, "unix64", port, body) == "5"
    with half_closed(4) as port:
        start = time.monotonic()
        found = connect("unix64", port, served("good").roots, write=1, read=5)
        assert found["verdict"] == "OK" and time.monotonic() - start < 3, found


def test_trap_11_a_resumed_connection_verifies_nothing(tmp_path) -> None:
    """Offered with another name and another root mbedTLS connects; our store offers neither
    (test_sessions.py::test_nothing_is_offered_to_another_name_or_root)."""
    other = root("p384").der
    (tmp_path / "other.der").write_bytes(other)
    with Server(served("good").leaf) as server:
        body = (
            'one = link(0)\none.write(b"x")\none.read(1)\nkept = tlsopt.session(one)\n'
            'two = link(0, "wrong.example", kept, "other.der")\ntwo.write(b"x")\ntwo.read(1)\n'
            "if not tlsopt.info(two).resumed: raise OSError(1)"
        )
        assert raw(tmp_path, "unix64", server.port, body) == "ok"
        body = 'two = link(0, "wrong.example", None, "other.der")\ntwo.write(b"x")'
        (tmp_path / "raw.py").unlink()
        assert raw(tmp_path, "unix64", server.port, body) != "ok"


@pytest.mark.parametrize("build", ["unix64", "stock"])
def test_only_strong_suites_and_versions_are_on_the_wire(build) -> None:
    """Reads the ClientHello: nothing below TLS 1.2, nothing but the eight and TLS 1.3's own; with
    the C module those of AES-128."""
    ecc, rsa = {0xC02B, 0xC023}, {0xC02F, 0xC027}
    wanted = {"hub": ecc | rsa, "ecc": ecc, "dps": rsa}
    for mode, suites in wanted.items():
        if build == "stock":  # in each pair AES-256 has the next number
            suites = suites | {n + 1 for n in suites}
        with Server(served("good").leaf) as server, Relay(server.port) as relay:
            connect(build, relay.port, served("good").roots, mode=mode)
            hello = relay.wires[0].hello("up")
        offered = [n for n in hello.suites if n != 0x00FF]  # not a suite: renegotiation_info
        modern = {0x1301, 0x1302}
        assert set(offered) - modern == suites, mode
        assert min(hello.versions) >= 0x0303
        assert bool(modern & set(offered)) == (build == "stock")
        order = [n for n in offered if n not in modern]
        assert order[0] in (0xC02B, 0xC02F), "the cheapest first"


def test_the_profile_of_stock_firmware_works_on_a_build_that_has_more() -> None:
    with Server(served("good").leaf) as server:
        found = connect("unix64", server.port, served("good").roots, profile="stock")
    assert found["verdict"] == "OK" and found["mfl"] == 0, found


@pytest.mark.parametrize("suite", ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES256-SHA384"])
def test_a_server_without_aes_128_is_offered_all_eight_at_once(suite) -> None:
    """One attempt, two ClientHellos; what the host wants is remembered for the next one."""
    with Server(served("good").leaf, ciphers=suite) as server, Relay(server.port) as relay:
        found = connect("unix64", relay.port, served("good").roots, times=2, write=1, read=1)
        sizes = [len([n for n in w.hello("up").suites if n != 0x00FF]) for w in relay.wires]
    assert found["verdict"] == "OK", found
    assert sizes == [4, 8, 8]
    assert {seen["suite"] for seen in server.seen} == {suite}


def test_a_server_that_answers_no_hello_at_all_is_offered_all_eight_next_time() -> None:
    """Some servers close or reset where others send an alert; it may have been the network."""
    with Scripted(lambda conn: conn.recv(4096)) as server, Relay(server.port) as relay:
        found = connect("unix64", relay.port, served("good").roots, times=2)
        sizes = [len([n for n in w.hello("up").suites if n != 0x00FF]) for w in relay.wires]
    assert found["verdict"] in ("CLOSED", "RESET"), found
    assert sizes == [4, 8], "one attempt each"


def test_no_common_certificate_verdict_hides_in_a_long_text() -> None:
    """Several reasons at once: the most telling one decides."""
    with Server(served("expired-leaf").leaf) as server:
        found = connect("unix64", server.port, [root("p384").der], host="wrong.example")
    assert found["verdict"] == "UNTRUSTED", found
    assert found["cause"].count("\\n") >= 4

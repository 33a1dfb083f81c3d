"""Recovery, probes and the device's own roots over real sockets: what leaves it, what comes of it."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest
from support import trust_maker as tm
from taproot import interpreters
from taproot.emulator.recovery import RecoveryServer
from taproot.pki import Authority

HERE = Path(__file__).resolve().parent


class Loop:
    """An event loop in a thread, for servers beside a test."""

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        return self

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


class TLSServer:
    """Takes TLS connections for one chain; keeps what arrived and which client certificate."""

    def __init__(self, leaf, folder: Path, greeting: bytes = b""):
        folder.mkdir(exist_ok=True)
        leaf.write(folder)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        chain = folder / "chain.pem"
        key = folder / "key.pem"
        chain.write_text("".join(cert.pem for cert in leaf.chain))
        key.write_text(leaf.key_pem)
        self.context.load_cert_chain(chain, key)
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self.context.load_verify_locations(cadata=Authority.root("client ca", key="p256").pem)
        self.greeting = greeting
        self.seen: list[dict] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                raw, _ = self.socket.accept()
            except OSError:
                return
            fact: dict = {"handshake": False, "data": b"", "certificate": None}
            self.seen.append(fact)
            raw.settimeout(5)
            try:
                with self.context.wrap_socket(raw, server_side=True) as link:
                    fact["handshake"] = True
                    fact["certificate"] = link.getpeercert(True)
                    fact["resumed"] = link.session_reused
                    if self.greeting:
                        time.sleep(0.2)  # a byte that comes with the handshake is refused
                        link.sendall(self.greeting)
                    while data := link.recv(4096):
                        fact["data"] += data
            except (OSError, ssl.SSLError):
                continue

    def close(self) -> None:
        self.socket.close()


@pytest.fixture(scope="module")
def world():
    """Roots with private keys, and a fleet whose factory bundle carries two of them."""

    class World:
        old = Authority.root("old", key="p256")
        new = Authority.root("new", key="p256")
        other = Authority.root("other", key="p256")
        fleet = tm.Fleet(roots=[old.der, new.der])

        @staticmethod
        def leaf(root: Authority, name: str = "localhost"):
            issuing = root.intermediate("issuing", key="p256")
            return issuing.leaf(name, key="p256", dns=[name], ips=["127.0.0.1"])

    return World


@pytest.fixture
def device(world, tmp_path, firmware):
    """`device(*args)`: the JSON lines of network_device.py on a device of the fleet."""
    world.fleet.write(tmp_path / "factory")

    def run(*args: object) -> list:
        result = interpreters.run(
            "unix64",
            HERE / "network_device.py",
            *[str(arg) for arg in args],
            heap="1m",
            timeout=60,
            cwd=tmp_path,
            env={"MICROPYPATH": f"{HERE}:{firmware}:.frozen"},
        )
        assert result.returncode == 0, result.text
        return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[")]

    return run


@pytest.fixture
def recovery_server():
    with Loop() as loop:
        server = RecoveryServer()
        loop.run(server.start())
        yield server
        loop.run(server.stop())


@pytest.fixture
def tls_server(tmp_path):
    made = []

    def start(leaf, greeting: bytes = b"") -> TLSServer:
        made.append(TLSServer(leaf, tmp_path / f"server{len(made)}", greeting))
        return made[-1]

    yield start
    for server in made:
        server.close()


# Recovery


@pytest.mark.requirement("R-41", "R-42", "R-43", "G2", "G4", "G6", "H16")
def test_recovery_brings_a_stranded_device_back(world, device, recovery_server, tls_server):
    """From roots that verify nothing to GOOD: a request line and Host, trial, verified connection."""
    hub = tls_server(world.leaf(world.other), b"\x20")
    assert device("connect", "localhost", hub.port)[0][:2] == ["refused", "factory"]
    recovery_server.serve("/fleet/trust.json", world.fleet.package(2, [world.other.der]))
    said = device("recovery", recovery_server.url("/fleet/trust.json"))
    assert said[:3] == [["before", None], ["due", 0], ["version", 2]]
    assert said[-1][1] == "recovery"
    host = f"127.0.0.1:{recovery_server.port}"
    assert [request.raw for request in recovery_server.requests] == [
        f"GET /fleet/trust.json HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    ]
    said = device("connect", "localhost", hub.port)
    assert said == [["connected", "trial", True, world.other.sha256, "good"]]


@pytest.mark.requirement("H16", "G6")
def test_recovered_roots_that_do_not_match_revert(world, device, recovery_server, tls_server):
    hub = tls_server(world.leaf(world.new), b"\x20")
    recovery_server.serve("/t", world.fleet.package(2, [world.other.der]))
    device("recovery", recovery_server.url("/t"))
    tried = [device("connect", "localhost", hub.port)[0] for _ in range(4)]
    assert [line[1] for line in tried] == ["trial", "trial", "trial", "factory"]
    assert tried[0] == ["refused", "trial", "TrustError", "UNTRUSTED"]
    assert tried[3] == ["connected", "factory", False, world.new.sha256, "reverted"]


@pytest.mark.requirement("R-41", "G4", "G7", "H16", "H11")
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("redirect", {"location": "/good"}),
        ("chunked", {}),
        ("endless", {}),
        ("endless_chunked", {}),
        ("endless_headers", {}),
        ("truncated", {}),
        ("truncated", {"length": 99999}),
        ("silent", {}),
        ("slow", {"seconds": 0.6}),
        ("reset", {}),
        ("html", {}),
        ("empty", {}),
        ("oversize", {}),
        ("missing", {}),
        ("old", {}),
    ],
)
def test_hostile_recovery_server(mode, options, world, device, recovery_server):
    """Every one is a failed attempt and a pause; nothing is installed."""
    package = world.fleet.package(2)
    recovery_server.serve("/good", package)
    bodies = {
        "html": b"<html><body>Log in to the hotel's network</body></html>",
        "empty": b"",
        "oversize": package + b" " * 32768,
        "old": world.fleet.package(1, [world.other.der]),
    }
    if mode in bodies:
        recovery_server.serve("/x", bodies[mode])
    elif mode != "missing":
        recovery_server.serve("/x", package, mode=mode, **options)
    said = device("recovery", recovery_server.url("/x"))
    kinds = [line[0] for line in said]
    assert kinds == ["before", "due", "failed", "pause", "state"]
    assert said[3] == ["pause", 900000]
    assert said[4][2]["code"] in ("DOWNLOAD", "MALFORMED", "TOO_LARGE", "ROLLBACK")
    assert [request.path for request in recovery_server.requests] == ["/x"]  # no redirect followed


@pytest.mark.requirement("G7")
def test_recovery_goes_round_the_addresses(world, device, recovery_server):
    recovery_server.serve("/b", world.fleet.package(2, [world.other.der]))
    said = device("recovery", recovery_server.url("/a"), recovery_server.url("/b"))
    assert [line[0] for line in said] == [
        "before", "due", "failed", "pause", "version", "pause", "state",
    ]  # fmt: skip


@pytest.mark.requirement("R-41", "G2")
def test_recovery_off_by_default(world, device, recovery_server):
    """Without an address, not one byte leaves for recovery however long the device is stranded."""
    said = device("recovery")
    assert said[1] == ["due", None]
    assert recovery_server.connections == 0


@pytest.mark.requirement("G3", "R-41", "H16")
@pytest.mark.parametrize("root", ["old", "other"])
def test_https_recovery_needs_a_factory_root(root, world, device, tmp_path):
    """A chain the factory roots verify is used; any other is a failed attempt."""
    folder = tmp_path / "https"
    folder.mkdir()
    leaf = world.leaf(getattr(world, root))
    (folder / "c.pem").write_text("".join(cert.pem for cert in leaf.chain))
    (folder / "k.pem").write_text(leaf.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "c.pem", folder / "k.pem")
    with Loop() as loop:
        server = RecoveryServer(context=context)
        loop.run(server.start())
        server.serve("/t", world.fleet.package(2, [world.other.der]))
        said = device("recovery", f"https://localhost:{server.port}/t")
        asked = len(server.requests)
        loop.run(server.stop())
    if root == "old":
        assert said[2] == ["version", 2] and asked == 1
    else:
        assert said[2][:2] == ["failed", "UNTRUSTED"] and asked == 0


# Probe


@pytest.mark.requirement("R-49")
def test_probe_succeeds_with_the_named_root_alone(world, device, tls_server):
    """No CONNECT, no credential, no client certificate, nothing on flash changes."""
    server = tls_server(world.leaf(world.new))
    said = device(
        "probe", "localhost", server.port, world.new.sha256, world.old.sha256, world.other.sha256
    )
    assert said[0] == ["probe", "ok", world.new.sha256[:8], "localhost", True]
    assert said[1] == ["probe", "UNTRUSTED", world.old.sha256[:8], "localhost", True]
    assert said[2] == ["probe", "NOT_CARRIED", world.other.sha256[:8], "localhost", True]
    assert said[3] == ["kept", ["ok", "UNTRUSTED", "NOT_CARRIED"]]
    for seen in server.seen:
        assert seen["data"] == b"" and seen["certificate"] is None
        assert not seen.get("resumed")
    assert server.seen[0]["handshake"] is True
    assert len(server.seen) == 2


@pytest.mark.requirement("R-49")
def test_probe_checks_host_and_network(world, device, tls_server):
    server = tls_server(world.leaf(world.new, "elsewhere.example"))
    said = device("probe", "localhost", server.port, world.new.sha256)
    assert said[0][1] == "HOSTNAME"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    said = device("probe", "localhost", port, world.new.sha256)
    assert said[0][1] == "REFUSED" and said[0][4] is True

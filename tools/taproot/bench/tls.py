"""`taproot bench tls`: heap, instructions and bytes of TLS connections, model beside measurement.

Responsible for: the figures of the TLS issue on 32-bit builds, whose TLS memory lies on the GC
heap and is counted exactly by the C module. Not for: boards (nothing here runs on an ESP32).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from cryptography import x509

from taproot import interpreters
from taproot.bench.runner import Bench, Callgrind
from taproot.console import UsageFailed
from taproot.emulator import EmulatorConfig, running
from taproot.pki import Authority, Leaf
from taproot.trust.fleet import Fleet
from taproot.trust.roots import cloud_roots

PROGRAM = Path(__file__).with_name("device") / "tls_bench.py"
CLIENT = PROGRAM.with_name("tls_client.py")
MESSAGE = 3_800  # bytes of the Certificate message that the figures are about
TRANSFER = 60_000
_ENOUGH_KIB = 512
_PACE_S = 0.2  # enough for a step of the handshake


@dataclass
class Connected:
    """One connection of the device program."""

    peak: int
    held: int
    block: int
    allocations: int
    mfl: int
    resumed: bool
    model_peak: int
    model_held: int


@dataclass
class Chain:
    """A chain to serve, with the roots of the device's store."""

    name: str
    leaf: Leaf
    roots: list[bytes]


@dataclass
class Server:
    """OpenSSL over Python; echoes, sends TRANSFER bytes after a `T`; counts bytes down."""

    port: int
    down: list[int] = field(default_factory=list)


@contextlib.contextmanager
def serving(leaf: Leaf, client_root: str = "", pace_s: float = 0) -> Iterator[Server]:
    """Serve `leaf` on loopback until the end of the block; `pace_s`: rest between records."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM")
    with tempfile.TemporaryDirectory() as folder:
        context.load_cert_chain(*leaf.write(folder))
    if client_root:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_root)
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener.getsockname()[1])

    def one(conn: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        sent, shaken = 0, False
        with conn, contextlib.suppress(OSError):
            while data := conn.recv(65536):
                incoming.write(data)
                try:
                    if not shaken:
                        tls.do_handshake()
                        shaken = True
                    while True:
                        asked = tls.read(1)
                        tls.write(bytes(TRANSFER) if asked == b"T" else asked)
                except ssl.SSLWantReadError:
                    pass
                reply = outgoing.read()
                sent += len(reply)
                while pace_s and len(reply) > 5:
                    size = 5 + int.from_bytes(reply[3:5], "big")
                    conn.sendall(reply[:size])
                    reply = reply[size:]
                    time.sleep(pace_s)
                conn.sendall(reply)
        server.down.append(sent)

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                conn, _ = listener.accept()
                conn.settimeout(300)  # callgrind is slow
                threading.Thread(target=one, args=(conn,), daemon=True).start()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def _chain(name: str, kinds: tuple[str, str, str], store: list[bytes]) -> Chain:
    root = Authority.root(f"Bench root {name}", kinds[0])
    middle = root.intermediate(f"Bench issuing {name}", kinds[1])
    names = ["localhost", *(f"n{number}.hub.example.test" for number in range(17))]

    def make(fill: int) -> Leaf:
        odd = x509.UnrecognizedExtension(
            x509.ObjectIdentifier("1.3.6.1.4.1.99999.2"),
            b"\x04\x82" + fill.to_bytes(2, "big") + bytes(fill),
        )
        return middle.leaf("localhost", key, dns=names, extensions=[(odd, False)] if fill else [])

    from taproot.pki.authority import new_key

    key: Any = new_key(kinds[2])
    leaf = make(0)
    if kinds[1] == "rsa4096":
        leaf = make(MESSAGE - leaf.certificate_message_size - 22)
    return Chain(name, leaf, [root.der, *store])


def run(
    build: str, server: Server, chain: Chain, *, credential: Leaf | None = None,
    wrapper: Callgrind | None = None, **options: Any,
) -> tuple[list[Connected], str, int]:  # fmt: skip
    """Run the device program; connections, failure lines, instructions of the last one."""
    with tempfile.TemporaryDirectory(prefix="taproot-tls-") as name:
        folder = Path(name)
        for number, der in enumerate(chain.roots):
            (folder / f"root{number}.der").write_bytes(der)
        if credential is not None:
            (folder / "cert").write_text(credential.chain_pem)
            (folder / "key").write_bytes(credential.key_der)
        asked = {"port": server.port, "roots": len(chain.roots), **options}
        asked["cert"] = credential is not None
        asked["counting"] = wrapper is not None
        # The program reads its files from its folder; callgrind runs it elsewhere.
        program = folder / "program.py"
        program.write_text(f"import os\nos.chdir({name!r})\n" + PROGRAM.read_text())
        counted = 0
        if wrapper is not None:
            counted, result = wrapper.run(program, json.dumps(asked), heap="4m")
        else:
            result = interpreters.run(
                build, program, json.dumps(asked), heap="2m", timeout=120, frozen=True
            )
    if "RESULT" not in result.stdout:
        raise UsageFailed(f"the device program failed on {build}: {result.stderr.strip()[-300:]}")
    found, failed = [], ""
    for line in result.stdout.splitlines():
        if line.startswith("CONNECTED"):
            numbers = [int(word) for word in line.split()[1:]]
            found.append(
                Connected(*numbers[:5], bool(numbers[5]), *numbers[6:])  # type: ignore[call-arg, arg-type]
            )
        elif line.startswith(("FAILED", "PHASES")):
            failed = line
    return found, failed, counted


def _measured(bench: Bench, build: str, chain: Chain, goals: tuple[int, int] | None, what: str,
              credential: Leaf | None = None, client_root: str = "", **more: Any) -> None:  # fmt: skip
    with serving(chain.leaf, client_root) as server:
        found, failed, _ = run(
            build, server, chain, credential=credential, acknowledged=4096, transfer=TRANSFER,
            **more,
        )  # fmt: skip
    if not found:
        bench.add(f"tls.peak.{what}", None, "B", build=build, goal=goals and goals[0], why=failed)
        return
    one = found[0]
    for kind, value, model, goal in (
        ("peak", one.peak, one.model_peak, goals and goals[0]),
        ("connected", one.held, one.model_held, goals and goals[1]),
    ):
        bench.add(
            f"tls.{kind}.{what}", value, "B", n=1, build=build, goal=goal, model=model,
            mfl=one.mfl, chain=chain.name, certificate_message=chain.leaf.certificate_message_size,
            why=f"model {model}; see firmware/docs/tls.md for what was tried",
        )  # fmt: skip
    bench.add(
        f"tls.model.{what}", one.model_peak - one.peak, "B", build=build, goal=0, cmp=">=",
        why="the plan promised less than was used",
    )  # fmt: skip


# What the client has done when a record of the server's is through (RFC 5246 section 7.3).
PHASES = ("server_hello", "certificate_verified", "key_exchange_verified", "finished_sent",
          "connected")  # fmt: skip


def _phases(bench: Bench, build: str, chain: Chain) -> None:
    """Highest heap of each step of a full handshake, and what is held after it."""
    with serving(chain.leaf, pace_s=_PACE_S) as server:
        _, text, _ = run(build, server, chain, acknowledged=4096, phases=True)
    steps = [[int(word) for word in step.split(":")] for step in text.split()[1:]]
    if len(steps) != len(PHASES):
        raise UsageFailed(f"a handshake of {len(steps)} steps: {text}")
    for name, (peak, held) in zip(PHASES, steps, strict=True):
        bench.add(
            f"tls.phase.{name}", peak, "B", build=build, chain=chain.name, held=held,
            certificate_message=chain.leaf.certificate_message_size,
        )  # fmt: skip


def _instructions(bench: Bench, chains: dict[str, Chain]) -> None:
    counted: dict[tuple[str, str], int] = {}
    for build in ("unix32-plain", "unix32-board"):
        for name in ("A", "E"):
            with serving(chains[name].leaf) as server:
                _, _, counted[build, name] = run(
                    build, server, chains[name], mfl=512, wrapper=Callgrind(build, frozen=True)
                )
            bench.add(f"tls.full.{name}", counted[build, name], "instr", build=build)
    for name, goal in (("A", 0.35), ("E", 0.22)):
        ratio = counted["unix32-board", name] / counted["unix32-plain", name]
        bench.add(
            f"tls.full.{name}.ratio", round(ratio, 3), "of plain", build="unix32-board", goal=goal
        )
    with serving(chains["A"].leaf) as server:
        found, _, resumed = run(
            "unix32-board", server, chains["A"], sessions=True, times=3, mfl=512,
            wrapper=Callgrind("unix32-board", frozen=True),
        )  # fmt: skip
    if not found or not found[-1].resumed:
        bench.add("tls.resumed.A", None, "instr", build="unix32-board", goal=1, why="not resumed")
        return
    bench.add("tls.resumed.A", resumed, "instr", build="unix32-board")
    bench.add(
        "tls.resumed.times", round(counted["unix32-board", "A"] / resumed, 1), "x less",
        build="unix32-board", goal=70, cmp=">=",
        why="half of a resumed handshake is SHA-256; see firmware/docs/tls.md",
    )  # fmt: skip
    bench.add("tls.resumed.down", min(server.down), "B", build="unix32-board", goal=500)


def _works(folder: Path, kib: int, asked: dict[str, Any]) -> dict[str, Any] | None:
    """Run the whole client in a heap of so many KiB; its figures, None if it failed."""
    (folder / "asked.json").write_text(json.dumps(asked))
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder / "trust")
    if not asked["install"]:
        shutil.copytree(folder / "confirmed", folder / "trust")
    result = interpreters.run(
        "unix32-board", CLIENT, heap=f"{kib}k", timeout=60, cwd=folder, frozen=True
    )
    for line in result.stdout.splitlines():
        if line.startswith("RESULT"):
            return dict(json.loads(line[7:]))
    if kib >= _ENOUGH_KIB:
        raise UsageFailed(f"the whole client failed with {kib} KiB: {result.text[-400:]}")
    return None


def _smallest(bench: Bench, chain: Chain) -> None:
    """Search the smallest heap of a whole client; package frozen, one bundle confirmed."""
    fleet = Fleet.create("demo-bench")
    roots = [("bench root", chain.roots[0], ["hub", "dps"]), *cloud_roots("public")]
    package = fleet.package(fleet.bundle_jws(version=2, roots=roots), ())
    config = EmulatorConfig(chain=chain.leaf, https_port=None)
    with tempfile.TemporaryDirectory(prefix="taproot-tls-") as name, running(config) as emu:
        folder = Path(name)
        fleet.write_factory(folder / "factory", fleet.bundle_jws(version=1, roots=roots))
        (folder / "package").write_bytes(package)
        asked = {
            "cs": emu.add_device("bench").connection_string, "port": emu.mqtt_port, "install": True,
            "messages": TRANSFER // 1000, "size": 1000, "limit_s": 20,
            "mqtt": {"max_pending": 4, "buffer_in": 2048, "buffer_out": 1024},
        }  # fmt: skip
        _works(folder, _ENOUGH_KIB, asked)
        (folder / "trust").rename(folder / "confirmed")
        asked["install"] = False
        found = _works(folder, _ENOUGH_KIB, asked)
        if found is None or (found["bundle"], found["state"]) != (2, "good"):
            raise UsageFailed(f"the bundle was not confirmed: {found}")
        low, high = 16, _ENOUGH_KIB  # low fails, high works
        while high - low > 1:
            middle = (low + high) // 2
            fits = _works(folder, middle, asked)
            found = fits or found
            low, high = (low, middle) if fits else (middle, high)
    bench.add(
        "tls.smallest.client", high * 1024, "B", build="unix32-board", goal=36_000,
        why=f"modules loaded {found['loaded']}, all connected {found['connected']} with TLS "
        f"{found['tls_held']}; TLS in the handshake {found['tls_peak']}, largest block "
        f"{found['tls_block']}", **found,
    )  # fmt: skip


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--compare", help="File of an earlier --json run.")
@click.option("--quick", is_flag=True, help="Heap only: leave out what runs under callgrind.")
def command(as_json: bool, compare: str | None, quick: bool) -> None:
    """Heap, instructions and bytes of TLS connections on 32-bit builds.

    Example: taproot bench tls --quick --json
    """
    for build in ("unix32", "unix32-board", "unix32-tiny", "unix32-plain", "unix32-stock"):
        try:
            interpreters.path(build)
        except UsageFailed:
            raise UsageFailed(
                f"the build '{build}' is missing: run  python3 -m tools.setup --extra"
            ) from None
    bench = Bench("taproot bench tls", as_json, compare)
    others = [Authority.root(f"Bench other {n}", kind).der
              for n, kind in enumerate(("rsa2048", "p384", "p384", "rsa2048", "p256"))]  # fmt: skip
    chains = {
        "A": _chain("A", ("rsa2048", "rsa4096", "rsa2048"), others),
        "E": _chain("E", ("p384", "p384", "p256"), others),
    }
    devices = Authority.root("Bench devices", "p256")
    single = devices.leaf("device-1", "p256", client=True)
    rsa_devices = Authority.root("Bench RSA devices", "rsa2048")
    pair = rsa_devices.intermediate("Bench factory", "rsa2048").leaf("device-1", client=True)
    _measured(bench, "unix32-board", chains["A"], (17_000, 7_000), "sas")
    _measured(
        bench, "unix32-board", chains["A"], (19_000, 9_000), "x509.p256", single, devices.pem
    )
    _measured(
        bench, "unix32-board", chains["A"], (22_000, 9_000), "x509.rsa", pair, rsa_devices.pem
    )
    _measured(bench, "unix32-tiny", chains["A"], (14_500, 5_500), "tiny")
    _measured(bench, "unix32", chains["A"], (24_000, 13_104), "kconfig")
    _measured(bench, "unix32-plain", chains["A"], None, "plain")
    _measured(bench, "unix32-stock", chains["A"], None, "stock", profile="stock")
    _measured(bench, "unix32-board", chains["E"], None, "sas.ecc")
    _phases(bench, "unix32-board", chains["A"])
    held = []
    for count in (1, 6):
        some = Chain("A", chains["A"].leaf, chains["A"].roots[:count])
        with serving(some.leaf) as server:
            held.append(run("unix32-board", server, some)[0][0].held)
    bench.add("tls.roots.held", held[1] - held[0], "B", n=6, build="unix32-board", goal=0)
    with serving(chains["A"].leaf) as server:
        wrong = 0
        for n in range(1, 1500, 61):
            _, failed, _ = run("unix32", server, chains["A"], fail=n)
            wrong += bool(failed) and not failed.startswith("FAILED MEMORY")
    bench.add("tls.memory.false_verdicts", wrong, "runs", n=25, build="unix32", goal=0)
    _smallest(bench, chains["A"])
    if not quick:
        _instructions(bench, chains)
    bench.report.finish()

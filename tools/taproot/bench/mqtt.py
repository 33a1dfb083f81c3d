"""`taproot bench mqtt`: what the MQTT client costs over the bare TLS socket.

Responsible for: figures B1 to B8 and B10 with their goals; the floor is the smallest client on
the same socket, run in the same minute (device/mqtt_bench.py). B9 is `taproot bench faults`, B11
(the SAS token) is measured here too. Figures of other clients are recorded in peers.json.

Instructions: callgrind, 64-bit build, the bracketed loop only, its constant subtracted. Floor and
protocol path read from a blocking socket into a buffer of exactly what they wait for (a PUBACK, a
message), so that no look is in vain, no record is decrypted for a message that is not counted, and
the pace of the feeder does not matter: the count repeats within 1 %. Heap:
mem_alloc over the loop on the 32-bit build with the collector off. Records and wire bytes: the
relay's record counter over runs of 10 and 30 messages, their difference divided by 20.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from taproot import interpreters
from taproot.bench import runner
from taproot.bench.broker import Mosquitto
from taproot.bench.plain import Feeder
from taproot.bench.relay import TO_SERVER, Relay
from taproot.console import UsageFailed

SCRIPT = Path(__file__).parent / "device" / "mqtt_bench.py"
TOPIC = "devices/dev1/messages/events/"
SIZES = {64: 40, 1024: 40, 16384: 16, 204800: 4}  # payload -> n of the instruction counts
NAMES = {64: "64", 1024: "1k", 16384: "16k", 204800: "200k"}
PROTOCOL = ("packet", "receiving", "sending", "session")  # without I/O, clock or task
CORE = (*PROTOCOL, "client", "connection")
ON_DEMAND = ("stream", "words")  # loaded by a message from a reader, by an error


class Lab:
    """A broker, the counters and what has been measured so far."""

    def __init__(self, bench: runner.Bench, broker: Mosquitto, build: str) -> None:
        self.bench, self.broker, self.build = bench, broker, build
        self.instructions = runner.Callgrind(build)
        self._constant: int | None = None
        self._parts: dict[str, int] = {}

    def args(self, mode: str, qos: int, size: int, n: int, port: int | None = None) -> list[str]:
        """Arguments of the measured program."""
        broker = self.broker
        return [
            mode, str(qos), str(size), str(n), "127.0.0.1", str(port or broker.tls_port),
            str(broker.folder / "root.der"), broker.user, broker.password,
        ]  # fmt: skip

    def fed(self, mode: str, qos: int, size: int, n: int) -> Feeder | None:
        """A feeder for a receiving program; it starts by itself and repeats until stopped."""
        if "recv" not in mode and "chunks" not in mode:
            return None
        return Feeder(self.broker.plain_port, TOPIC, [bytes(size)] * 3000, 0.01 + size / 2e5, qos)

    def count(
        self, mode: str, qos: int, size: int, n: int, heap: str = "400m", more: tuple = ()
    ) -> int:
        """Instructions per message."""
        if self._constant is None:
            self._constant, _ = self.instructions.run(SCRIPT, *self.args("none", 0, 0, 0))
        feeder = self.fed(mode, qos, size, n)
        starter = _later(feeder, 6.0) if feeder else None
        args = (*self.args(mode, qos, size, n), *more)
        total, _ = self.instructions.run(SCRIPT, *args, heap=heap)
        if starter is not None:
            starter()
        return round((total - self._constant) / n)

    def parts(self, kind: str, qos: int) -> str:
        """The single steps of the protocol path, measured without a socket."""
        if not self._parts:
            for name in ("publish", "ack", "message"):
                self._parts[name] = self.count(f"part.{name}", 1, 64, 40)
        found = self._parts
        if kind == "recv":
            return f"next() takes {found['message']:,} for a message (one call, 10 attributes)"
        text = f"publish() takes {found['publish']:,} (one call, 11 attributes)"
        if qos:
            text += f", next() {found['ack']:,} for its PUBACK (one call, 7)"
        return text + "; an attribute costs 40 to 150 instructions in this VM, a call 700"

    def plainly(
        self, mode: str, qos: int, size: int, n: int, build: str, port: int | None = None,
        more: tuple = (),
    ) -> tuple[int, int]:  # fmt: skip
        """Heap bytes over the loop and microseconds, without a counter in between."""
        feeder = self.fed(mode, qos, size, n)
        starter = _later(feeder, 0.5) if feeder else None
        result = interpreters.run(
            build, SCRIPT, *self.args(mode, qos, size, n, port), *more, heap="8m", timeout=60
        )
        if starter is not None:
            starter()
        return runner.result_line(result)


def _later(feeder: Feeder, delay: float) -> Callable[[], None]:
    """Start the feeder after the program has subscribed; return what stops it."""
    stop = threading.Event()

    def work() -> None:
        if stop.wait(delay):
            return
        with feeder:
            stop.wait(240)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join(15)

    return end


def _goal(size: int) -> float:
    """Allowed ratio to the floor."""
    return {64: 1.5, 1024: 1.1}.get(size, 1.05)


def protocol_path(lab: Lab, kind: str) -> None:
    """B3: session and transport against the floor, one direction."""
    for qos in (0, 1):
        for size, n in SIZES.items():
            floor = lab.count(f"floor.{kind}", qos, size, n)
            value = lab.count(f"core.{kind}", qos, size, n)
            lab.bench.add(
                f"mqtt.{kind}.q{qos}.{NAMES[size]}.core", value, "instr", n=n,
                build=lab.build, floor=floor, goal=round(floor * _goal(size)),
                why=f"{value - floor:,} over the floor; " + lab.parts(kind, qos),
                ratio=round(value / floor, 2),
            )  # fmt: skip


def chunks(lab: Lab) -> None:
    """B6: a message of four buffers, received as a BEGIN and four CHUNKs."""
    n = SIZES[16384]
    for qos in (0, 1):
        size = 16384 - len(TOPIC) - 6 - 2 * qos  # a packet of exactly four buffers
        floor = lab.count("floor.recv", qos, size, n)
        value = lab.count("core.chunks", qos, size, n)
        lab.bench.add(
            f"mqtt.recv.q{qos}.16k.chunks", value, "instr", n=n, build=lab.build, floor=floor,
            goal=round(floor * _goal(16384)), ratio=round(value / floor, 2),
            why=f"{value - floor:,} over the floor, which reads the packet at once",
        )  # fmt: skip


def whole_client(lab: Lab) -> None:
    """B4: the asyncio client against the floor, and the smallest asyncio client beside it."""
    n = 320
    floor = lab.count("floor.pub", 1, 64, 40)
    for name, mode, bare, ratio in (
        ("mqtt.pub.q1.64.aio16", "aio.pub", "bare.pub", 1.5),
        ("mqtt.pub.q1.64.aio1", "aio.one", "bare.one", 5.0),
    ):
        smallest = lab.count(bare, 1, 64, n, heap="1m")
        value = lab.count(mode, 1, 64, n, heap="1m")
        lab.bench.add(
            name, value, "instr", n=n, build=lab.build, floor=floor,
            goal=round(floor * ratio),
            why=f"the smallest asyncio client takes {smallest:,} here, so asyncio leaves "
            f"{value - smallest:,} to this one; " + lab.parts("pub", 1)
            + "; the rest: publish(), delivered() and the reader as coroutines, and a timer in "
            "asyncio's queue (the deadlines), which costs one more pass per wake-up",
            ratio=round(value / floor, 2), bare=smallest,
        )  # fmt: skip


def heap(lab: Lab) -> None:
    """B5, B6, B8: bytes of heap on a 32-bit build."""
    n = 40
    own, _ = lab.plainly("none+heap", 0, 0, 0, "unix32")  # the counter's own
    for qos, goal in ((0, 64), (1, 96)):
        used, _ = lab.plainly("core.pub+heap", qos, 64, n, "unix32")
        used -= own
        lab.bench.add(
            f"mqtt.pub.q{qos}.64.heap", round(used / n, 1), "B", n=n, build="unix32", goal=goal
        )
    for qos in (0, 1):
        for size in (64, 1024):
            used, _ = lab.plainly("core.recv+heap", qos, size, n, "unix32")
            used -= own
            lab.bench.add(
                f"mqtt.recv.q{qos}.{NAMES[size]}.heap", round(used / n, 1), "B", n=n,
                build="unix32", goal=0,
            )  # fmt: skip
    used, _ = lab.plainly("aio.one+heap", 1, 64, n, "unix32")
    bare, _ = lab.plainly("bare.one+heap", 1, 64, n, "unix32")
    lab.bench.add(
        "mqtt.pub.q1.64.aio1.heap", round(used / n), "B", n=n, build="unix32", goal=400,
        bare=round(bare / n),
        why=f"the smallest asyncio client takes {bare / n:.0f} here; publish() is a coroutine of 112 B, "
        "delivered() of 48",
    )  # fmt: skip
    used, _ = lab.plainly("ram", 0, 0, 0, "unix32")
    lab.bench.add(
        "mqtt.connected.heap", used, "B", build="unix32", goal=1024,
        why="session 0.7 KB (48 attributes, a ring of 8 and its topics, ages), client 0.4 KB (28 "
        "attributes, two events, backoff), two tasks and the nested frames of the reader 0.5 KB",
    )  # fmt: skip
    used, _ = lab.plainly("import", 0, 0, 0, "unix32")
    lab.bench.add("mqtt.import.heap", used, "B", build="unix32")


def wire(lab: Lab) -> None:
    """B1: TLS records and bytes per PUBLISH."""
    limit = 4096  # OUT_CONTENT_LEN of the unix64 build
    for qos in (0, 1):
        for size in (64, 1024, 4000, 16384):
            found = []
            for n in (10, 30):
                with Relay(lab.broker.tls_port, count_records=True) as relay:
                    lab.plainly("core.pub", qos, size, n, lab.build, relay.port)
                found.append(relay.connections[0].records[TO_SERVER])
            records = (found[1].application - found[0].application) / 20
            length = (found[1].wire - found[0].wire) / 20
            packet = (
                size + 2 + len(TOPIC) + 2 * qos + (2 if size < 90 else 3 if size < 16000 else 4)
            )
            lab.bench.add(
                f"mqtt.pub.q{qos}.{size}.records", records, "records", n=20, build=lab.build,
                goal=-(-packet // limit), wire_bytes=length,
            )  # fmt: skip


def rate(lab: Lab) -> None:
    """B2: QoS 1, each PUBACK awaited, on loopback; compared with the floor of the same run."""
    n, best, floor = 2000, 0.0, 0.0
    for _ in range(3):
        _, took = lab.plainly("floor.pub", 1, 64, n, lab.build)
        floor = max(floor, n / took * 1e6)
        _, took = lab.plainly("aio.one", 1, 64, n, lab.build)
        best = max(best, n / took * 1e6)
    goal = min(10000.0, 0.3 * floor)
    lab.bench.add(
        "mqtt.pub.q1.64.rate", round(best), "1/s", n=n, build=lab.build, floor=round(floor),
        goal=round(goal), cmp=">=", why="a figure of this machine in this minute, two shared cores",
    )  # fmt: skip


def window(lab: Lab) -> None:
    """Why the window is 8 by default: rate and held heap over its size, near and 50 ms away."""
    for size in (1, 2, 4, 8, 16, 32):
        for delay_ms, n in ((0, 2000), (50, 60 * min(size, 8))):
            best = 0.0
            with Relay(lab.broker.tls_port, delay_s=delay_ms / 2000) as relay:
                for _ in range(2 if delay_ms else 3):
                    _, took = lab.plainly(f"aio.win+{size}", 1, 64, n, "unix64", relay.port)
                    best = max(best, n / took * 1e6)
            lab.bench.add(f"mqtt.window.{size}.{delay_ms}ms", round(best), "1/s", n=n)
        used, _ = lab.plainly(f"held+{size}", 1, 64, 0, "unix32")
        lab.bench.add(f"mqtt.window.{size}.held", used, "B", build="unix32")


def _names_and_texts(files: list[Path]) -> tuple[int, int]:
    """Bytes of different identifiers per module, and of string constants that are not names."""
    names = texts = 0
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Raise):
                texts += sum(
                    len(part.value)
                    for part in ast.walk(node)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                )
        names += sum(len(name) + 2 for name in found)
    return names, texts


def size(lab: Lab) -> None:
    """B7: compiled size of the modules a publishing and subscribing device loads."""
    folder = interpreters.firmware_folder() / "azure_iot" / "mqtt"
    compiler = interpreters.build_folder() / "bin" / "mpy-cross"
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as out:
        for name in (*CORE, *ON_DEMAND):
            target = Path(out) / f"{name}.mpy"
            subprocess.run(
                [str(compiler), "-O3", "-o", str(target), f"{name}.py"], cwd=folder, check=True
            )
            sizes[name] = target.stat().st_size
    total = sum(sizes[name] for name in CORE)
    parts = ", ".join(f"{name} {sizes[name]:,}" for name in CORE)
    names, texts = _names_and_texts([folder / f"{name}.py" for name in CORE])
    lab.bench.add(
        "mqtt.size.mpy", total, "B", build="mpy-cross", goal=6144,
        why=f"{parts}; of it names {names:,} (each module carries its own table) and texts "
        f"{texts:,} (errors in words, rules); the rest is bytecode: deadlines, window, resend, "
        "checks of every packet, queue, eviction and large messages, none of which the 3.2 KB "
        "of umqtt.robust has",
    )  # fmt: skip
    lab.bench.add(
        "mqtt.size.protocol.mpy", sum(sizes[name] for name in PROTOCOL), "B", build="mpy-cross",
        goal=6144, why="the session without I/O: " + parts,
    )  # fmt: skip
    for name in ON_DEMAND:
        lab.bench.add(f"mqtt.size.{name}.mpy", sizes[name], "B", build="mpy-cross")


def token(lab: Lab) -> None:
    """B11: instructions and heap of a SAS token, against the direct computation."""
    direct, _ = lab.instructions.run(SCRIPT, *lab.args("sas.direct", 0, 0, 10))
    ours, _ = lab.instructions.run(SCRIPT, *lab.args("sas.token", 0, 0, 10))
    lab.bench.add(
        "mqtt.sas.token", ours // 10, "instr", n=10, build=lab.build, floor=direct // 10,
        goal=round(direct / 10 * 1.1), why=lab.instructions.top(6, 10),
    )  # fmt: skip
    used, _ = lab.plainly("sas.token+heap", 0, 0, 10, "unix32")
    least, _ = lab.plainly("sas.direct+heap", 0, 0, 10, "unix32")
    lab.bench.add(
        "mqtt.sas.heap", used // 10, "B", n=10, build="unix32", floor=least // 10,
        goal=round(least / 10 * 1.1),
    )  # fmt: skip


PARTS: dict[str, Callable[[Lab], None]] = {
    "size": size,
    "wire": wire,
    "heap": heap,
    "rate": rate,
    "publish": lambda lab: protocol_path(lab, "pub"),
    "receive": lambda lab: protocol_path(lab, "recv"),
    "chunks": chunks,
    "aio": whole_client,
    "window": window,
    "token": token,
}


def peers(lab: Lab, checkout: Path) -> None:
    """umqtt.simple and umqtt.robust from a checkout of the user's, on the same sockets."""
    found = {name: sorted(checkout.glob(f"**/umqtt/{name}.py")) for name in ("simple", "robust")}
    if not found["simple"]:
        raise UsageFailed(f"{checkout}: no umqtt/simple.py in it")
    head = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    commit = head.stdout.strip() or "no git checkout"
    lab.bench.report.say(f"peers of {checkout}: {commit}")
    with tempfile.TemporaryDirectory(prefix="taproot-peer-") as folder:
        (Path(folder) / "umqtt").mkdir()  # one package, as on a device
        for files in found.values():
            if files:
                shutil.copy(files[0], Path(folder) / "umqtt")
        for name in (name for name in found if found[name]):
            for qos in (0, 1):
                floor = lab.count("floor.pub", qos, 64, 40)
                value = lab.count(f"peer.{name}", qos, 64, 40, more=(folder,))
                used, _ = lab.plainly(f"peer.{name}+heap", qos, 64, 40, "unix32", more=(folder,))
                lab.bench.add(
                    f"peer.{name}.pub.q{qos}.64", value, "instr", n=40, build=lab.build,
                    floor=floor, ratio=round(value / floor, 2), peer=f"umqtt.{name}",
                    commit=commit, heap=round(used / 40), recorded="",
                )  # fmt: skip


def recorded_peers(bench: runner.Bench) -> None:
    """Rows of other clients, recorded elsewhere: never measured here, never a goal."""
    recorded: dict[str, Any] = json.loads(
        (Path(__file__).parent / "peers.json").read_text(encoding="utf-8")
    )
    for row in recorded["rows"]:
        bench.add(
            row["id"], row["value"], row["unit"], n=row.get("n", 1), build=row["build"],
            peer=row["peer"], recorded=recorded["recorded"],
        )  # fmt: skip


@click.command("mqtt")
@click.option("--only", metavar="PART", help=f"One of {', '.join(PARTS)}.")
@click.option("--build", default="unix64", show_default=True, help="For the instruction counts.")
@click.option("--compare", metavar="FILE", help="Show the values of an earlier --json beside.")
@click.option("--recorded", is_flag=True, help="Add the recorded rows of other clients.")
@click.option(
    "--peers", "checkout", metavar="DIR", type=click.Path(exists=True, file_okay=False),
    help="Measure umqtt.simple and umqtt.robust from a checkout of micropython-lib.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    only: str | None,
    build: str,
    compare: str | None,
    recorded: bool,
    checkout: str | None,
    as_json: bool,
) -> None:
    """Measure the MQTT client against the smallest client on the same TLS socket.

    Example: taproot bench mqtt --only size
    """
    if only and only not in PARTS:
        raise UsageFailed(f"no part '{only}': one of {', '.join(PARTS)}")
    bench = runner.Bench("taproot bench mqtt", as_json, compare)
    started = time.monotonic()
    with Mosquitto() as broker:
        lab = Lab(bench, broker, build)
        for name, work in PARTS.items():
            if only in (None, name):
                work(lab)
        if checkout:
            peers(lab, Path(checkout))
    if recorded:
        recorded_peers(bench)
    bench.report.say(f"{time.monotonic() - started:.0f} s")
    bench.report.finish()

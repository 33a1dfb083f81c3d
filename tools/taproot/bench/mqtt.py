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
from taproot.bench import mpy, runner
from taproot.bench.broker import Mosquitto
from taproot.bench.plain import Feeder
from taproot.bench.relay import TO_SERVER, Relay
from taproot.checks import sizes
from taproot.console import PeerFailed, UsageFailed

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
        self.profile: dict[str, int] = {}  # of the last count

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
        self.profile = self.instructions.profile
        if starter is not None:
            starter()
        return round((total - self._constant) / n)

    def over(
        self, mode: str, least: str, qos: int, size: int, n: int, m: int = 0, heap: str = "400m"
    ) -> tuple[int, int, str]:
        """Instructions per message of the smallest program and of ours, and which functions take
        the difference. `m`: messages of the smallest one."""
        floor = self.count(least, qos, size, m or n, heap=heap)
        costs = {name: cost * n // (m or n) for name, cost in self.profile.items()}
        value = self.count(mode, qos, size, n, heap=heap)
        return floor, value, runner.difference(self.profile, costs, 6, n)

    def said(self, mode: str, word: str, build: str = "unix32", **more: Any) -> list[list[str]]:
        """The lines of a program that begin with `word`, split."""
        options = {"qos": 1, "size": 64, "n": 0, **more}
        args = self.args(mode, **options)
        result = interpreters.run(build, SCRIPT, *args, heap="8m", timeout=60)
        lines = [line.split() for line in result.stdout.splitlines()]
        found = [line[1:] for line in lines if line[:1] == [word]]
        if result.returncode or not found:
            raise PeerFailed(f"{mode}: no {word} line\n{result.text}")
        return found

    def pieces(self, mode: str) -> str:
        """What a program says of the parts of a figure, as text."""
        found = self.said(mode, "PART")
        return ", ".join(f"{name.replace('_', ' ')} {int(size):,} B" for name, size in found)

    def parts(self, kind: str, qos: int) -> str:
        """The single steps of the protocol path, measured without a socket."""
        if not self._parts:
            for name in ("publish", "ack", "message"):
                self._parts[name] = self.count(f"part.{name}", 1, 64, 40)
        found = self._parts
        if kind == "recv":
            return f"next() takes {found['message']:,} for a message"
        text = f"publish() takes {found['publish']:,}"
        return text + (f", next() {found['ack']:,} for its PUBACK" if qos else "")

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
            floor, value, profile = lab.over(f"core.{kind}", f"floor.{kind}", qos, size, n)
            lab.bench.add(
                f"mqtt.{kind}.q{qos}.{NAMES[size]}.core", value, "instr", n=n,
                build=lab.build, floor=floor, goal=round(floor * _goal(size)),
                why=f"{value - floor:,} over the floor: {profile}; " + lab.parts(kind, qos),
                ratio=round(value / floor, 2),
            )  # fmt: skip


def chunks(lab: Lab) -> None:
    """B6: a message of four buffers, received as a BEGIN and four CHUNKs."""
    n = SIZES[16384]
    for qos in (0, 1):
        size = 16384 - len(TOPIC) - 6 - 2 * qos  # a packet of exactly four buffers
        floor, value, profile = lab.over("core.chunks", "floor.recv", qos, size, n)
        lab.bench.add(
            f"mqtt.recv.q{qos}.16k.chunks", value, "instr", n=n, build=lab.build, floor=floor,
            goal=round(floor * _goal(16384)), ratio=round(value / floor, 2),
            why=f"{value - floor:,} over the floor, which reads the packet at once: {profile}",
        )  # fmt: skip


def whole_client(lab: Lab) -> None:
    """B4: the asyncio client against the floor, and the smallest asyncio client beside it."""
    n = 320
    floor = lab.count("floor.pub", 1, 64, 40)
    for name, mode, bare, ratio in (
        ("mqtt.pub.q1.64.aio16", "aio.pub", "bare.pub", 1.5),
        ("mqtt.pub.q1.64.aio1", "aio.one", "bare.one", 5.0),
    ):
        smallest, value, profile = lab.over(mode, bare, 1, 64, n, heap="1m")
        lab.bench.add(
            name, value, "instr", n=n, build=lab.build, floor=floor,
            goal=round(floor * ratio),
            why=f"the smallest asyncio client takes {smallest:,} here, so asyncio leaves "
            f"{value - smallest:,} to this one: {profile}; " + lab.parts("pub", 1),
            ratio=round(value / floor, 2), bare=smallest,
        )  # fmt: skip


def heap(lab: Lab) -> None:
    """B5, B6, B8: bytes of heap on a 32-bit build."""
    n = 40
    # the counter itself: nothing is nothing, and a block of 16 B per message is seen
    for name, mode, want in (("none", "none+heap", 0), ("block", "leak+heap", 16)):
        used, _ = lab.plainly(mode, 0, 0, n, "unix32")
        lab.bench.add(
            f"mqtt.heap.{name}", used / n, "B", n=n, build="unix32", goal=want, cmp="==",
            why=f"{used} B between two looks at the heap",
        )  # fmt: skip
    steps = {}
    for step in ("publish", "ack", "message"):
        used, _ = lab.plainly(f"part.{step}+heap", 1, 64, n, "unix32")
        steps[step] = used / n
    alone = "by themselves, B per message: " + ", ".join(f"{k} {v:.1f}" for k, v in steps.items())
    for qos, goal in ((0, 64), (1, 96)):
        used, _ = lab.plainly("core.pub+heap", qos, 64, n, "unix32")
        lab.bench.add(
            f"mqtt.pub.q{qos}.64.heap", round(used / n, 1), "B", n=n, build="unix32", goal=goal,
            why=f"{used} B for {n} messages; {alone}",
        )  # fmt: skip
    for qos in (0, 1):
        for size in (64, 1024):
            used, _ = lab.plainly("core.recv+heap", qos, size, n, "unix32")
            lab.bench.add(
                f"mqtt.recv.q{qos}.{NAMES[size]}.heap", round(used / n, 1), "B", n=n,
                build="unix32", goal=0, why=f"{used} B for {n} messages; {alone}",
            )  # fmt: skip
    used, _ = lab.plainly("aio.one+heap", 1, 64, n, "unix32")
    bare, _ = lab.plainly("bare.one+heap", 1, 64, n, "unix32")
    lab.bench.add(
        "mqtt.pub.q1.64.aio1.heap", round(used / n), "B", n=n, build="unix32", goal=400,
        bare=round(bare / n),
        why=f"the smallest asyncio client takes {bare / n:.0f} here, this one "
        f"{(used - bare) / n:+.0f}; of it {lab.pieces('steps')}",
    )  # fmt: skip
    used, _ = lab.plainly("ram", 0, 0, 0, "unix32")
    lab.bench.add(
        "mqtt.connected.heap", used, "B", build="unix32", goal=1024,
        why=lab.pieces("ram+parts"),
    )  # fmt: skip
    used, _ = lab.plainly("import", 0, 0, 0, "unix32")
    lab.bench.add("mqtt.import.heap", used, "B", build="unix32")


def _packet(size: int, qos: int) -> int:
    """Bytes of a PUBLISH with that payload."""
    body = 2 + len(TOPIC) + 2 * qos + size
    return 1 + (1 if body < 128 else 2 if body < 16384 else 3) + body


def _recorded(lab: Lab, mode: str, qos: int, size: int) -> tuple[float, float]:
    """TLS records and bytes per PUBLISH."""
    found = []
    for n in (10, 30):
        with Relay(lab.broker.tls_port, count_records=True) as relay:
            lab.plainly(mode, qos, size, n, lab.build, relay.port)
            relay.connections[0].over.wait(5)  # its last record may still be under way
        found.append(relay.connections[0].records[TO_SERVER])
    records = (found[1].application - found[0].application) / 20
    return records, (found[1].wire - found[0].wire) / 20


def wire(lab: Lab) -> None:
    """B1: TLS records, writes and bytes per PUBLISH: of the protocol path and of the client."""
    limit = 4096  # OUT_CONTENT_LEN of the unix64 build
    for qos in (0, 1):
        for size in (64, 1024, 4000, 16384):
            goal = -(-_packet(size, qos) // limit)
            for mode, name in (("core.pub", ""), ("aio.pub", ".aio")):
                records, length = _recorded(lab, mode, qos, size)
                lab.bench.add(
                    f"mqtt.pub.q{qos}.{size}{name}.records", records, "records", n=20,
                    build=lab.build, goal=goal, wire_bytes=length,
                    why=f"{length:,.0f} B on the wire for a packet of {_packet(size, qos):,}",
                )  # fmt: skip
            n = 20
            ((calls, writes),) = lab.said(
                "aio.pub+writes", "WRITES", lab.build, qos=qos, size=size, n=n
            )
            lab.bench.add(
                f"mqtt.pub.q{qos}.{size}.aio.writes", int(writes) / n, "writes", n=n,
                build=lab.build, goal=goal, calls=int(calls) / n,
                why=f"{int(calls) / n} calls of the client into TLS make {int(writes) / n} writes",
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
        goal=round(goal), cmp=">=",
        why=f"{1e6 / best:.0f} µs a message, {1e6 / floor:.0f} of them the floor's; "
        "instructions of both: mqtt.pub.q1.64.aio1",
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


def size(lab: Lab) -> None:
    """B7: compiled size of the modules a publishing and subscribing device loads."""
    folder = interpreters.firmware_folder() / "azure_iot" / "mqtt"
    compiler = interpreters.build_folder() / "bin" / "mpy-cross"
    found = {
        name: mpy.sections(sizes.compiled(compiler, folder / f"{name}.py", f"{name}.py"))
        for name in (*CORE, *ON_DEMAND)
    }

    def total(names: tuple[str, ...]) -> int:
        return sum(sum(found[name].values()) for name in names)

    def profile(names: tuple[str, ...]) -> str:
        """Names, constants and bytecode, of all and per module."""
        whole = {key: sum(found[name][key] for name in names) for key in found["packet"]}
        each = [f"{name} {'+'.join(f'{n:,}' for n in found[name].values())}" for name in names]
        told = ", ".join(f"{key} {n:,}" for key, n in whole.items())
        return f"{told}; by module in that order: {', '.join(each)}"

    for row, names in (("mqtt.size.mpy", CORE), ("mqtt.size.protocol.mpy", PROTOCOL)):
        lab.bench.add(
            row, total(names), "B", build="mpy-cross", goal=6144, why=profile(names)
        )  # fmt: skip
    for name in ON_DEMAND:
        lab.bench.add(f"mqtt.size.{name}.mpy", total((name,)), "B", build="mpy-cross")


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
        goal=round(least / 10 * 1.1), why=f"{(used - least) // 10} B over the direct computation",
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

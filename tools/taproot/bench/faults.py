"""`taproot bench faults`: every way a network, a broker or a peer lets a client down.

Responsible for: the table of scenarios by id, what each must end in, and running them with the
real client on MicroPython over real TLS. The relay and the hostile server do the harm; mosquitto
is the broker where a correct one is wanted. Deadlines are 1 s here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from taproot import interpreters
from taproot.bench import hostile, runner
from taproot.bench.broker import Mosquitto
from taproot.bench.relay import TO_SERVER, Relay
from taproot.console import UsageFailed

APP = Path(__file__).parent / "device" / "mqtt_app.py"
DEADLINE_MS = 1000


@dataclass
class Run:
    """What one run of the application printed."""

    lines: list[str]
    errors: str
    seconds: float
    ended: bool

    def all(self, word: str) -> list[str]:
        """Rests of the lines that begin with `word`."""
        return [line[len(word) + 1 :] for line in self.lines if line.split(" ")[0] == word]

    @property
    def done(self) -> bool:
        """The application reached its end."""
        return "DONE" in self.lines and self.ended and not self.errors.strip()

    @property
    def stats(self) -> dict[str, Any]:
        """The client's counters at the end."""
        found = self.all("STATS")
        return json.loads(found[-1]) if found else {}

    def failed_with(self, kind: str, text: str = "") -> bool:
        """Some attempt or link ended with that error."""
        return any(line.startswith(kind) and text in line for line in self.all("E"))

    def outage(self) -> str:
        """All errors, shortened, for the table."""
        return "; ".join(dict.fromkeys(line[:60] for line in self.all("E")))


@dataclass
class Outcome:
    """One row of the table."""

    id: str
    expected: str
    seen: str
    ok: bool
    seconds: float
    lost: int = 0
    duplicates: int = 0
    details: list[str] = field(default_factory=list)


@dataclass
class World:
    """What a scenario gets."""

    build: str
    scale: float  # 1.0 = full counts
    folder: Path

    def app(self, root: bytes, port: int, limit: float = 30, **options: Any) -> Run:
        """Run the application to its end."""
        path = self.folder / "root.der"
        path.write_bytes(root)
        options = {"root": str(path), "port": port, "deadline_ms": DEADLINE_MS, **options}
        started = time.monotonic()
        result = interpreters.run(
            self.build,
            APP,
            json.dumps(options),
            heap="2m" if self.build != "unix32" else "1m",
            timeout=limit,
            cwd=self.folder,
        )
        return Run(
            result.stdout.splitlines(),
            result.stderr,
            time.monotonic() - started,
            result.returncode == 0,
        )


Scenario = Callable[[World], Outcome]
TABLE: dict[str, Scenario] = {}


def scenario(name: str, expected: str) -> Callable[[Callable[[World], tuple[Any, ...]]], Scenario]:
    """Register a scenario: it returns (ok, seen[, lost, duplicates])."""

    def register(work: Callable[[World], tuple[Any, ...]]) -> Scenario:
        def run(world: World) -> Outcome:
            started = time.monotonic()
            ok, seen, *counts = work(world)
            took = time.monotonic() - started
            return Outcome(name, expected, seen, bool(ok), round(took, 1), *counts)

        TABLE[name] = run
        return run

    return register


def numbered(n: int) -> list[bytes]:
    """The payloads of the application's messages."""
    return [b"m%04d" % i for i in range(n)]


def _publisher(name: str, expected: str, n: int, error: str, text: str = "", **extra: Any) -> None:
    """A scenario of the hostile server with a publishing application."""

    def work(world: World) -> tuple[Any, ...]:
        kind = extra.get("kind", "pub")
        with hostile.Server(name) as server:
            run = world.app(server.root.der, server.port, n=n, **{"kind": kind, **extra})
            lost = len(set(numbered(n)) - set(server.recorded))
            ordered = server.recorded == [m for m in numbered(n) if m in server.recorded]
        failed = run.failed_with(error, text) if error else not run.all("E")
        ok = run.done and failed and not lost and ordered
        seen = f"{len(server.recorded)}/{n} recorded; {run.outage() or 'no error'}"
        if run.errors.strip():
            seen += f"; {run.errors.strip().splitlines()[-1]}"
        return ok, seen, lost, server.duplicates

    scenario(name, expected)(work)


def _subscriber(
    name: str, expected: str, error: str, text: str = "", links: int = 2, **extra: Any
) -> None:
    """A scenario of the hostile server with a subscribing application."""

    def work(world: World) -> tuple[Any, ...]:
        with hostile.Server(name) as server:
            run = world.app(server.root.der, server.port, kind="sub", n=0, **extra)
            seen = [entry for entry in server.seen if entry.accepted]
        got = run.all("C")
        wrong = [line for line in got if not line.startswith(("end", "dup"))]
        failed = run.failed_with(error, text) if error else not run.all("E")
        ok = run.done and failed and not wrong and len(seen) == links and "end 3 1" in got
        told = f"{len(seen)} links, got {got}; {run.outage() or 'no error'}"
        if run.errors.strip():
            told += f"; {run.errors.strip().splitlines()[-1]}"
        return ok, told

    scenario(name, expected)(work)


_publisher("connack_split", "ok", 3, "")
_publisher("publish_in_puback", "ok, both ways", 3, "")
_publisher("puback_unknown", "ignored", 3, "")
_publisher("badconnack_rc", "CredentialError", 3, "CredentialError")
_publisher("badconnack_type", "ProtocolError", 3, "ProtocolError", "before CONNACK")
_publisher("badconnack_len", "ProtocolError", 3, "ProtocolError", "of 3 bytes")
_publisher("connack_garbage", "ProtocolError", 3, "ProtocolError", "before CONNACK")
_publisher("connack_never", "ConnectionFailedError at the deadline", 3, "ConnectionFailedError")
_publisher("connack_late", "ConnectionFailedError, then ok", 3, "ConnectionFailedError")
_publisher("puback_never", "reconnect, resend", 3, "ConnectionDroppedError", "no PUBACK")
_publisher("puback_badlen", "ProtocolError, reconnect, resend", 3, "ProtocolError")
_publisher("kill_before_puback", "resend with DUP", 5, "ConnectionDroppedError")
_publisher("suback_never", "reconnect", 1, "ConnectionDroppedError", "no SUBACK", kind="both")
_publisher(
    "stop_reading", "ConnectionDroppedError, resend", 60, "ConnectionDroppedError",
    size=16000, interval_ms=0,
)  # fmt: skip
_publisher("tls_silent", "ConnectionFailedError at the deadline", 3, "ConnectionFailedError")
_publisher("one_byte_per_second", "ConnectionFailedError", 3, "ConnectionFailedError", "CONNACK")

_subscriber("oversize", "refused before allocation, reconnect", "ProtocolError", "more than a hub")
_subscriber("badvarint", "ProtocolError at byte 5", "ProtocolError", "four bytes")
_subscriber("trunc", "no callback, reconnect, subscription kept", "ConnectionDroppedError")
_subscriber("trunc_hang", "deadline", "ConnectionDroppedError", "rest of a packet")
_subscriber("topiclen", "ProtocolError at once", "ProtocolError", "shorter than its topic")
_subscriber("qos3", "ProtocolError", "ProtocolError", "QoS 3")
_subscriber("type0", "ProtocolError", "ProtocolError", "none for a client")
_subscriber("type15", "ProtocolError", "ProtocolError", "none for a client")
_subscriber("pingresp_len", "ProtocolError", "ProtocolError", "of 5 bytes")
_subscriber("dup_publish", "delivered twice", "", links=1)
_subscriber("suback_wrongpid", "ProtocolError", "ProtocolError", "unknown packet id")
_subscriber("poison", "discarded in chunks, acknowledged, link kept", "", links=1)
_subscriber("drip_publish", "deadline", "ConnectionDroppedError", "rest of a packet")


@scenario("suback_fail", "error to the caller, link kept")
def _suback_fail(world: World) -> tuple[Any, ...]:
    with hostile.Server("suback_fail") as server:
        run = world.app(server.root.der, server.port, kind="idle", n=0, idle_s=1)
        links = len(server.seen)
    ok = run.done and links == 1 and run.failed_with("ServiceError", "refused")
    return ok, f"{links} link; {run.outage()}"


@scenario("noping", "reconnects within 1.5 keep alives")
def _noping(world: World) -> tuple[Any, ...]:
    with hostile.Server("noping") as server:
        run = world.app(server.root.der, server.port, kind="sub", keepalive=4, n=0)
    ok = run.done and run.failed_with("ConnectionDroppedError", "PINGRESP")
    return ok and run.seconds < 4 * 1.5 + 3, f"back after {run.seconds:.1f} s; {run.outage()}"


def _through(
    name: str,
    expected: str,
    n: int,
    error: str,
    relay: dict[str, Any],
    text: str = "",
    **extra: Any,
) -> None:
    """A scenario of the relay in front of a correct server."""

    def work(world: World) -> tuple[Any, ...]:
        with hostile.Server() as server, Relay(server.port, **relay) as between:
            run = world.app(server.root.der, between.port, n=n, **extra)
            lost = len(set(numbered(n)) - set(server.recorded))
        ordered = server.recorded == [m for m in numbered(n) if m in server.recorded]
        failed = run.failed_with(error, text) if error else not run.all("E")
        beat = run.stats.get("beat", 10**6)
        ok = run.done and failed and not lost and ordered and beat < 300
        seen = f"{len(server.recorded)}/{n} recorded, beat {beat} ms; {run.outage() or 'no error'}"
        return ok, seen, lost, server.duplicates

    scenario(name, expected)(work)


_DROPPED = "ConnectionDroppedError"
_FAILED = "ConnectionFailedError"
_through("drip", "ok", 10, "", {"mode": "drip"}, deadline_ms=10000)
_through("rst", "30/30", 30, _DROPPED, {"mode": "rst", "after_s": 0.5})
_through("fin", "30/30", 30, _DROPPED, {"mode": "fin", "after_s": 0.5})
_through("corrupt_s2c", "30/30", 30, _DROPPED, {"mode": "corrupt", "at_byte": 1700})
_through(
    "corrupt_c2s", "30/30", 30, _DROPPED,
    {"mode": "corrupt", "at_byte": 1700, "direction": TO_SERVER},
)  # fmt: skip
_through(
    "corrupt_handshake", "typed; retry by policy", 3, "",
    {"mode": "corrupt", "at_byte": 300},
)  # fmt: skip
_through("blackhole_pub", "all delivered", 30, _DROPPED, {"mode": "blackhole", "after_s": 0.5})
_through(
    "blackhole_pub_timeout5", "all delivered", 30, _DROPPED,
    {"mode": "blackhole", "after_s": 0.5}, deadline_ms=5000,
)  # fmt: skip
_through(
    "blackhole_tls", "deadline, heartbeat goes on", 3, _FAILED,
    {"mode": "blackhole", "at_byte": 700},
)  # fmt: skip
_through("blackhole_tcp", "deadline", 3, _FAILED, {"mode": "blackhole", "after_s": 0})
_through("blackhole_ack", "deadline", 3, _FAILED, {"mode": "blackhole", "at_byte": 1000})
_through(
    "drip_1_per_s", "ConnectionFailedError at the deadline", 3, _FAILED,
    {"mode": "drip", "drip_s": 1.0},
)  # fmt: skip


def _corrupt_handshake(world: World) -> tuple[Any, ...]:
    with hostile.Server() as server:
        with Relay(server.port, "corrupt", at_byte=300) as between:
            run = world.app(server.root.der, between.port, n=3)
        lost = len(set(numbered(3)) - set(server.recorded))
    named = [line.split(" ")[0] for line in run.all("E")]
    typed = named and all(name.endswith("Error") and name != "OSError" for name in named)
    return run.done and typed and not lost, run.outage(), lost


scenario("corrupt_handshake", "typed; retry by policy")(_corrupt_handshake)


@scenario("blackhole_pub_q0", "dropped link reported within keep alive x 1.5")
def _blackhole_q0(world: World) -> tuple[Any, ...]:
    with hostile.Server("quiet") as server:
        with Relay(server.port, "blackhole", after_s=0.5) as between:
            run = world.app(
                server.root.der, between.port, n=60, qos=0, interval_ms=150, keepalive=4
            )
    struck = between.connections[0].started + 0.5
    back = between.connections[1].started - struck if len(between.connections) > 1 else 99.0
    ok = run.done and back <= 6.3 and run.failed_with(_DROPPED)
    return ok, f"new link {back:.1f} s after the stop; {run.outage()}"


@scenario("blackhole_idle", "reconnects within keep alive x 1.5")
def _blackhole_idle(world: World) -> tuple[Any, ...]:
    with hostile.Server() as server:
        with Relay(server.port, "blackhole", after_s=0.15) as between:
            run = world.app(server.root.der, between.port, kind="sub", n=0, keepalive=4)
    struck = between.connections[0].started + 0.15
    back = between.connections[1].started - struck if len(between.connections) > 1 else 99.0
    return run.done and back <= 6.3, f"new link {back:.1f} s after the stop; {run.outage()}"


@scenario("reset_every_byte", "0 lost at every offset")
def _reset_every_byte(world: World) -> tuple[Any, ...]:
    # connection k is reset after the k-th of `offsets` bytes, both directions together, until
    # the offsets are used up; each gets one step further through connect, subscribe, publish
    # and receive. The application publishes all the time.
    last = 2600
    step = max(1, round(40 * (1 - world.scale))) if world.scale < 1 else 1
    offsets = list(range(0, last, step))
    n = max(20, len(offsets) // 3)
    with hostile.Server() as server:
        with Relay(
            server.port, "rst", offsets=lambda i: offsets[i] if i < len(offsets) else None
        ) as between:
            run = world.app(
                server.root.der, between.port, limit=600, kind="both", n=n, interval_ms=20,
                seconds=600, minimum_ms=1, maximum_ms=2, expect=10**6 if False else 1,
            )  # fmt: skip
            # the application ends when its own messages are through; the rest of the offsets
            # goes on with another one
            while run.done and len(between.connections) < len(offsets):
                again = world.app(
                    server.root.der, between.port, limit=600, kind="both", n=n, interval_ms=20,
                    seconds=600, minimum_ms=1, maximum_ms=2, expect=1,
                )  # fmt: skip
                run.lines += again.lines
                if not again.done:
                    run.ended = False
        lost = len(set(numbered(n)) - set(server.recorded))
    ordered = server.recorded == numbered(n)
    ok = run.done and not lost and ordered and between.strikes >= len(offsets) - 1
    return ok, f"{between.strikes} resets at {len(offsets)} offsets", lost, server.duplicates


@scenario("clock_jump", "ticks decide, not the clock")
def _clock_jump(world: World) -> tuple[Any, ...]:
    with hostile.Server() as server:
        run = world.app(server.root.der, server.port, n=8, clock="jump", idle_s=1)
        lost = len(set(numbered(8)) - set(server.recorded))
    return run.done and not run.all("E") and not lost, run.outage() or "no error", lost


@scenario("ticks_wrap", "deadlines hold across the wrap")
def _ticks_wrap(world: World) -> tuple[Any, ...]:
    with hostile.Server("puback_never") as server:
        run = world.app(server.root.der, server.port, n=60, clock="wrap", interval_ms=60)
        lost = len(set(numbered(60)) - set(server.recorded))
    ok = run.done and run.failed_with(_DROPPED, "no PUBACK") and not lost
    return ok and run.seconds < 15, run.outage(), lost, server.duplicates


@scenario("id_wrap", "ids 65534, 65535, 1, 2, 3")
def _id_wrap(world: World) -> tuple[Any, ...]:
    with hostile.Server() as server:
        run = world.app(server.root.der, server.port, n=5, first_id=65533)
        ids = [pid for entry in server.seen for _, pid, _ in entry.publishes]
    return run.done and ids == [65534, 65535, 1, 2, 3], f"ids {ids}"


@scenario("beat", "another task keeps its 100 ms within 2 beats while a handshake stalls")
def _beat(world: World) -> tuple[Any, ...]:
    with hostile.Server("tls_silent") as server:
        run = world.app(server.root.der, server.port, n=3, deadline_ms=3000)
    beat = run.stats.get("beat", 10**6)
    return run.done and beat <= 200 and run.failed_with(_FAILED), f"longest pause {beat} ms"


def _load_broker_scenarios() -> None:
    from taproot.bench import faults_broker  # noqa: F401  (registers restart, kill, eviction)


def run_all(
    only: str | None, build: str, scale: float, folder: Path
) -> Iterator[Outcome]:
    """Run the scenarios (or the one named), one after the other."""
    _load_broker_scenarios()
    if only and only not in TABLE:
        raise UsageFailed(f"no fault '{only}': one of {', '.join(sorted(TABLE))}")
    world = World(build, scale, folder)
    for name in [only] if only else list(TABLE):
        yield TABLE[name](world)


@click.command("faults")
@click.option("--only", metavar="ID", help="Run one scenario.")
@click.option("--build", default="unix64", show_default=True, help="Interpreter.")
@click.option("--long", "full", is_flag=True, help="Full counts: every byte offset, 20 kills.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(only: str | None, build: str, full: bool, as_json: bool) -> None:
    """Run the fault matrix and say what was expected and what was seen.

    Example: taproot bench faults --only kill_before_puback
    """
    import tempfile

    bench = runner.Bench("taproot bench faults", as_json)
    with tempfile.TemporaryDirectory(prefix="taproot-faults-") as folder:
        for row in run_all(only, build, 1.0 if full else 0.05, Path(folder)):
            bench.report.step(
                row.id,
                row.ok,
                f"{row.seconds:5.1f} s  expected: {row.expected}; seen: {row.seen}",
                expected=row.expected,
                seen=row.seen,
                seconds=row.seconds,
                lost=row.lost,
                duplicates=row.duplicates,
            )
    bench.report.finish()


__all__ = ["TABLE", "Mosquitto", "Outcome", "World", "command", "run_all"]

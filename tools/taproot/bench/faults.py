"""`taproot bench faults`: every way a network, a broker or a peer lets a client down.

Responsible for: the table of scenarios by id, what each must end in, and running them with the
real client on MicroPython over real TLS. The relay and the hostile server do the harm; mosquitto
is the broker where a correct one is wanted. Deadlines are 1 s here.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from taproot import interpreters
from taproot.bench import hostile, runner
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
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        path = folder / "root.der"
        path.write_bytes(root)
        options = {"root": str(path), "port": port, "deadline_ms": DEADLINE_MS, **options}
        file = folder / "options.json"
        file.write_text(json.dumps(options))
        started = time.monotonic()
        result = interpreters.run(
            self.build,
            APP,
            str(file),  # MicroPython interns its arguments: 255 bytes at most
            heap="40m",
            timeout=limit,
            cwd=folder,
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
            try:
                ok, seen, *counts = work(world)
            except (OSError, LookupError, ValueError, TimeoutError) as error:
                ok, seen, counts = False, f"the scenario itself failed: {error!r}", []
            took = time.monotonic() - started
            return Outcome(name, expected, seen, bool(ok), round(took, 1), *counts)

        TABLE[name] = run
        return run

    return register


def numbered(n: int) -> list[bytes]:
    """The payloads of the application's messages."""
    return [b"m%04d" % i for i in range(n)]


def _not_handed_over(
    run: Run, server: hostile.Server, line: str, pid: int, times: int
) -> list[str]:
    """What is missing of a message that came `times` on the first link: handed over, and PUBACK."""
    acks = server.seen[0].acks
    hostile.wait_until(lambda: acks.count(pid) >= times, 2)
    got = run.all("C").count(line)
    said = [] if got == times else [f"{got} of {times} '{line}' handed over"]
    return said + (
        [] if acks.count(pid) == times else [f"acknowledged {acks} for {times} x {pid}"]
    )


def _publisher(name: str, expected: str, n: int, error: str, text: str = "", **extra: Any) -> None:
    """A scenario of the hostile server with a publishing application."""

    def work(world: World) -> tuple[Any, ...]:
        kind = extra.get("kind", "pub")
        with hostile.Server(name) as server:
            run = world.app(server.root.der, server.port, n=n, **{"kind": kind, **extra})
            recorded = [payload[:5] for payload in server.recorded]
            wrong = server.wrong_resends()
            if name == "publish_in_puback":
                wrong += _not_handed_over(run, server, "in between 10 1", 9, n)
        lost = len(set(numbered(n)) - set(recorded))
        ordered = recorded == [m for m in numbered(n) if m in recorded]
        failed = run.failed_with(error, text) if error else not run.all("E")
        ok = run.done and failed and not lost and ordered and not wrong
        told = "; ".join([run.outage() or "no error", *wrong])
        seen = f"{len(server.recorded)}/{n} recorded; {told}"
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
            wrong = []
            if name == "dup_publish":
                wrong = _not_handed_over(run, server, "dup 3 1", 7, 2)
            elif name == "poison":
                wrong = _not_handed_over(run, server, "", 7, 1)[1:]  # to nobody
                if run.stats.get("discarded") != 1:
                    wrong.append(f"discarded: {run.stats.get('discarded')}")
        got = run.all("C")
        wrong += [line for line in got if not line.startswith(("end", "dup"))]
        failed = run.failed_with(error, text) if error else not run.all("E")
        ok = run.done and failed and not wrong and len(seen) == links and "end 3 1" in got
        told = f"{len(seen)} links, got {got}; {'; '.join([run.outage() or 'no error', *wrong])}"
        if run.errors.strip():
            told += f"; {run.errors.strip().splitlines()[-1]}"
        return ok, told

    scenario(name, expected)(work)


_publisher("connack_split", "ok", 3, "", deadline_ms=4000)  # it takes 1.2 s by itself
_publisher("publish_in_puback", "ok, both ways", 3, "")
_publisher("puback_unknown", "ignored", 3, "")
_publisher("badconnack_rc", "CredentialError", 3, "CredentialError")
_publisher("badconnack_type", "ProtocolError", 3, "ProtocolError", "before CONNACK")
_publisher("badconnack_len", "ProtocolError", 3, "ProtocolError", "of 3 bytes")
_publisher("connack_garbage", "ProtocolError", 3, "ProtocolError", "before CONNACK")
_publisher("connack_never", "ConnectionFailedError at the deadline", 3, "ConnectionFailedError")
_publisher("connack_late", "ConnectionFailedError, then ok", 3, "ConnectionFailedError")
_publisher("puback_never", "reconnect, resend", 3, "ConnectionDroppedError", "PUBACK did not come")
_publisher("puback_badlen", "ProtocolError, reconnect, resend", 3, "ProtocolError")
_publisher("kill_before_puback", "resend with DUP", 5, "ConnectionDroppedError")
_publisher(
    "suback_never", "reconnect", 1, "ConnectionDroppedError", "SUBACK did not come", kind="both"
)
_publisher(
    "stop_reading", "deadline of the write, resend", 10, "ConnectionDroppedError", "the peer took ",
    size=900000, interval_ms=0, max_pending_bytes=10**8, limit=60, seconds=50,
)  # fmt: skip
_publisher("tls_silent", "ConnectionFailedError at the deadline", 3, "ConnectionFailedError")
_publisher("one_byte_per_second", "ConnectionFailedError", 3, "ConnectionFailedError", "CONNACK")

_subscriber("oversize", "refused before allocation, reconnect", "ProtocolError", "the limit is")
_subscriber("badvarint", "ProtocolError at byte 5", "ProtocolError", "four bytes")
_subscriber("trunc", "no callback, reconnect, subscription kept", "ConnectionDroppedError")
_subscriber("trunc_hang", "deadline", "ConnectionDroppedError", "rest of a packet")
_subscriber("topiclen", "ProtocolError at once", "ProtocolError", "shorter than its topic")
_subscriber("qos3", "ProtocolError", "ProtocolError", "QoS 3")
_subscriber("type0", "ProtocolError", "ProtocolError", "none for a client")
_subscriber("type15", "ProtocolError", "ProtocolError", "none for a client")
_subscriber("pingresp_len", "ProtocolError", "ProtocolError", "of 5 bytes")
_subscriber("dup_publish", "delivered twice, acknowledged twice", "", links=1)
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
            wrong = server.wrong_resends()
        ordered = server.recorded == [m for m in numbered(n) if m in server.recorded]
        failed = run.failed_with(error, text) if error else not run.all("E")
        beat = run.stats.get("beat", 10**6)
        ok = run.done and failed and not lost and ordered and not wrong and beat < 300
        told = "; ".join([run.outage() or "no error", *wrong])
        seen = f"{len(server.recorded)}/{n} recorded, beat {beat} ms; {told}"
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
_through(
    "drip_1_per_s", "ConnectionFailedError at the deadline", 3, _FAILED,
    {"mode": "drip", "drip_s": 1.0},
)  # fmt: skip


# What one flipped bit of a server's flight may look like: a broken message, or another certificate.
_SPOILT = {"ProtocolError", "TrustError"}


def _corrupt_handshake(world: World) -> tuple[Any, ...]:
    with hostile.Server() as server:
        with Relay(server.port, "corrupt", at_byte=300) as between:
            run = world.app(server.root.der, between.port, n=3)
        lost = len(set(numbered(3)) - set(server.recorded))
    named = {line.split(" ")[0] for line in run.all("E")}
    return run.done and named and named <= _SPOILT and not lost, run.outage(), lost


scenario("corrupt_handshake", "typed; retry by policy")(_corrupt_handshake)


@scenario("blackhole_pub_q0", "dropped link reported within keep alive x 1.5")
def _blackhole_q0(world: World) -> tuple[Any, ...]:
    with hostile.Server("quiet") as server:
        with Relay(server.port, "blackhole", after_s=0.5) as between:
            run = world.app(
                server.root.der, between.port, n=60, qos=0, interval_ms=150, keepalive=4
            )
        wrong = server.wrong_resends()
    struck = between.connections[0].started + 0.5
    back = between.connections[1].started - struck if len(between.connections) > 1 else 99.0
    ok = run.done and back <= 6.3 and run.failed_with(_DROPPED) and not wrong
    told = "; ".join([run.outage(), *wrong])
    return ok, f"new link {back:.1f} s after the stop; {told}"


@scenario("blackhole_idle", "reconnects within keep alive x 1.5")
def _blackhole_idle(world: World) -> tuple[Any, ...]:
    with hostile.Server() as server:
        with Relay(server.port, "blackhole", after_s=0.15) as between:
            run = world.app(server.root.der, between.port, kind="sub", n=0, keepalive=4)
    struck = between.connections[0].started + 0.15
    back = between.connections[1].started - struck if len(between.connections) > 1 else 99.0
    return run.done and back <= 6.3, f"new link {back:.1f} s after the stop; {run.outage()}"


@scenario("reset_every_byte", "0 lost, at every offset of the exchange")
def _reset_every_byte(world: World) -> tuple[Any, ...]:
    # Each connection is reset after one more byte (both directions together), so that the reset
    # falls on every byte of connect, subscribe, publish and receive. The first publishes and
    # receives come before byte 2,600. An offset that a connection did not reach is tried again.
    step = 1 if world.scale == 1 else 37
    waiting = list(range(0, 2600, step))
    total = len(waiting)
    given: dict[int, int] = {}

    def next_offset(number: int) -> int | None:
        if number not in given:
            given[number] = waiting.pop(0) if waiting else -1
        return given[number] if given[number] >= 0 else None

    n = 30 if step > 1 else 300
    lost = duplicates = 0
    ended = True
    wrong: list[str] = []
    with hostile.Server() as server:
        with Relay(server.port, "rst", offsets=next_offset) as between:
            for _ in range(40):
                run = world.app(
                    server.root.der, between.port, limit=400, kind="both", n=n, interval_ms=20,
                    seconds=390, minimum_ms=1, maximum_ms=2, expect=1,
                )  # fmt: skip
                lost += len(set(numbered(n)) - set(server.recorded))
                ended = ended and run.done and server.recorded == numbered(n)
                duplicates += server.duplicates
                wrong += server.wrong_resends()
                server.forget()
                unreached = [
                    given.pop(c.number) for c in between.connections
                    if given.get(c.number, -1) >= 0 and not c.struck
                ]  # fmt: skip
                for number in [c.number for c in between.connections]:
                    given.setdefault(number, -1)
                waiting[:0] = unreached
                if not waiting or not ended:
                    break
    ok = ended and not lost and between.strikes == total and not wrong
    told = "; ".join([f"{between.strikes} resets at {total} offsets", *wrong[:5]])
    return ok, told, lost, duplicates


@scenario("half_open", "bounded, wherever the silence begins")
def _half_open(world: World) -> tuple[Any, ...]:
    # silence from one byte on, of both directions together: within TCP, ClientHello, server
    # flight, Finished and every packet, and between them; by name they follow below
    step = 130 if world.scale == 1 else 1000
    lost, bad, tried = 0, [], 0
    for offset in range(0, 2300, step):
        with hostile.Server() as server:
            with Relay(
                server.port, "blackhole", offsets=lambda i, k=offset: k if i == 0 else None
            ) as between:
                run = world.app(server.root.der, between.port, kind="both", n=10, keepalive=4)
        tried += 1
        missing = len(set(numbered(10)) - set(server.recorded))
        lost += missing
        if missing or not run.done or run.seconds > 8 or server.wrong_resends():
            bad.append(offset)
    return not bad, f"{tried} offsets; failed at {bad or 'none'}", lost


def _half_open_at(
    state: str,
    peer: str,
    error: str,
    text: str,
    *,
    kind: str = "both",
    bound_s: float = 3.0,
    **relay: Any,
) -> None:
    """The peer falls silent in that state of the protocol, with the connection open."""

    def work(world: World) -> tuple[Any, ...]:
        n = 10 if kind == "both" else 0
        with hostile.Server(peer) as server, Relay(server.port, **relay) as between:
            run = world.app(server.root.der, between.port, kind=kind, n=n, keepalive=4)
            wrong = server.wrong_resends()
            links = [link for link in server.seen if link.accepted]
            if peer == "mute_delivery":  # again with the next link, and acknowledged there
                hostile.wait_until(lambda: 5 in links[-1].acks, 2)
                if run.all("C").count("owed 4 1") != 2 or 5 not in links[-1].acks:
                    wrong.append(f"got {run.all('C')}, acknowledged {links[-1].acks}")
        lost = len(set(numbered(n)) - set(server.recorded))
        starts = [connection.started for connection in between.connections]
        back = starts[1] - starts[0] if len(starts) == 2 else 99.0
        ok = run.done and run.failed_with(error, text) and not lost and not wrong
        told = "; ".join([run.outage() or "no error", *wrong])
        return ok and back <= bound_s, f"new link after {back:.1f} s; {told}", lost

    scenario(f"half_open_{state}", f"{error}: {text}, next link within {bound_s:.0f} s")(work)


# keep alive 4 s: a PING is due after 2.5 s, and a new link within 1.5 keep alives
_half_open_at("tcp", "tls_silent", _FAILED, "TLS handshake")
_half_open_at("tls_hello", "", _FAILED, "TLS handshake", mode="blackhole", at_byte=1)
_half_open_at("connect", "mute_connect", _FAILED, "CONNACK did not come")
_half_open_at("subscribe", "mute_subscribe", _DROPPED, "SUBACK did not come")
_half_open_at("publish", "mute_publish", _DROPPED, "PUBACK did not come")
_half_open_at("puback_due", "mute_window", _DROPPED, "PUBACK did not come")
_half_open_at(
    "puback_owed", "mute_delivery", _DROPPED, "PINGRESP did not come", kind="sub", bound_s=6
)
_half_open_at("ping_due", "mute_idle", _DROPPED, "PINGRESP did not come", kind="sub", bound_s=6)
_half_open_at("in_packet", "mute_packet", _DROPPED, "rest of a packet", kind="sub")


@scenario("session_forgotten", "subscribed again, then in flight sent again with DUP; 10/10")
def _session_forgotten(world: World) -> tuple[Any, ...]:
    with hostile.Server("amnesia") as server:
        run = world.app(server.root.der, server.port, kind="both", n=10)
        wrong = server.wrong_resends()
        first, second = server.seen[0], server.seen[-1]
        lost = len(set(numbered(10)) - set(server.recorded))
    again = [payload for payload, _, dup in second.publishes if dup]
    subscribed = second.kinds[:3] == [1, 8, 3] and second.subscriptions == 1
    told = run.all("C") == ["end 3 1"] and not second.present and len(server.seen) == 2
    ok = run.done and subscribed and told and not lost and not wrong
    ok = ok and again == [payload for payload, _, _ in first.publishes[1:]]
    seen = f"{len(again)} sent again, packets {second.kinds[:5]}, session present {second.present}"
    return ok, "; ".join([seen, *wrong]), lost, server.duplicates


@scenario("clock_jump", "ticks decide, not the clock")
def _clock_jump(world: World) -> tuple[Any, ...]:
    with hostile.Server() as server:
        run = world.app(server.root.der, server.port, n=8, clock="jump", idle_s=1)
        lost = len(set(numbered(8)) - set(server.recorded))
    return run.done and not run.all("E") and not lost, run.outage() or "no error", lost


@scenario("ticks_wrap", "a deadline and a pause hold across the wrap")
def _ticks_wrap(world: World) -> tuple[Any, ...]:
    # The ticks wrap in the middle of the wait for PUBACK, and again in the middle of the pause.
    # The wait is looked at each quarter: found after five of them, later only if time stood still.
    deadline, pause = 4000, 600
    with hostile.Server("puback_never") as server:
        run = world.app(
            server.root.der, server.port, n=30, clock="wrap", interval_ms=10,
            deadline_ms=deadline, minimum_ms=pause,
        )  # fmt: skip
        lost = len(set(numbered(30)) - set(server.recorded))
        wrong = server.wrong_resends()
    lasted, paused = run.stats.get("lasted", [0]), run.stats.get("paused", [0])
    ok = run.done and run.failed_with(_DROPPED, "PUBACK did not come") and not lost and not wrong
    ok = ok and len(lasted) == 1 and deadline <= lasted[0] <= deadline * 1.375
    ok = ok and len(paused) == 2 and pause <= paused[1] <= pause + 600
    told = f"link ended after {lasted} ms, next one {paused[1:]} ms later; {run.outage()}"
    return ok, "; ".join([told, *wrong]), lost, server.duplicates


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


def names() -> list[str]:
    """Ids of all scenarios, in the order of the table."""
    from taproot.bench import faults_broker  # noqa: F401  (registers its own)

    return list(TABLE)


def run_all(
    only: str | None, build: str, scale: float, folder: Path, workers: int = 5
) -> Iterator[Outcome]:
    """Run the scenarios, several at a time: they mostly wait for deadlines."""
    known = names()
    if only and only not in known:
        raise UsageFailed(f"no fault '{only}': one of {', '.join(sorted(known))}")
    world = World(build, scale, folder)
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda name: TABLE[name](world), [only] if only else known)


@click.command("faults")
@click.option("--only", metavar="ID", help="Run one scenario.")
@click.option("--build", default="unix64", show_default=True, help="Interpreter.")
@click.option("--long", "full", is_flag=True, help="Full counts: every byte offset, 20 kills.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(only: str | None, build: str, full: bool, as_json: bool) -> None:
    """Run the fault matrix and say what was expected and what was seen.

    Example: taproot bench faults --only kill_before_puback
    """
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


__all__ = ["TABLE", "Outcome", "World", "command", "names", "numbered", "run_all", "scenario"]

"""The fault scenarios that need a real broker: restart, kill, eviction, session resume, login."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from taproot.bench.broker import Mosquitto
from taproot.bench.faults import Run, World, numbered, scenario
from taproot.bench.hostile import DOWN, wait_until
from taproot.bench.plain import Feeder, Link, Subscriber, duplicates, in_order

UP = "devices/dev1/messages/events/"


def _options(broker: Mosquitto, **more: Any) -> dict[str, Any]:
    return {"user": broker.user, "password": broker.password, **more}


def _kill_after(broker: Mosquitto, delay: float, outage: float) -> threading.Thread:
    def work() -> None:
        time.sleep(delay)
        broker.kill()
        time.sleep(outage)
        broker.start()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@scenario("restart_out", "60/60, outage <= 5 s")
def _restart_out(world: World) -> tuple[Any, ...]:
    with Mosquitto() as broker, Subscriber(broker.plain_port, UP) as watcher:
        watcher.ready.wait(5)
        killer = _kill_after(broker, 1.5, 2.0)
        run = world.app(
            broker.root.der, broker.tls_port, n=60, clean=True, interval_ms=60,
            **_options(broker),
        )  # fmt: skip
        killer.join(10)
        wait_until(lambda: len(set(watcher.got)) >= 60, 5)
        got = list(watcher.got)
    lost = len(set(numbered(60)) - set(got))
    ok = run.done and not lost and in_order(got, numbered(60))
    # 60 x 60 ms of publishing, 2 s of outage, and what it took to be back
    quick = run.seconds < 60 * 0.075 + 5 + 1.5
    seen = f"{len(set(got))}/60 in {run.seconds:.1f} s; {run.outage()}"
    return ok and quick, seen, lost, duplicates(got)


@scenario("restart_in", "60/60, session resumed")
def _restart_in(world: World) -> tuple[Any, ...]:
    payloads = numbered(60)
    with Mosquitto() as broker:
        feeder = Feeder(broker.plain_port, DOWN, payloads, 0.03)
        killer = threading.Thread(target=lambda: None)

        def later() -> None:
            time.sleep(1.0)
            with feeder:
                time.sleep(0.7)
                broker.kill()
                time.sleep(1.0)
                broker.start()
                wait_until(lambda: feeder.sent >= 60, 10)

        killer = threading.Thread(target=later, daemon=True)
        killer.start()
        run = world.app(
            broker.root.der, broker.tls_port, kind="sub", n=0, expect=60, **_options(broker)
        )
        killer.join(15)
    got = [line.split(" ")[0].encode() for line in run.all("C")]
    lost = len(set(payloads) - set(got))
    resumed = "1" in run.all("UP")
    ok = run.done and not lost and resumed and in_order(got, payloads)
    return ok, f"{len(set(got))}/60, session present {resumed}", lost, duplicates(got)


@scenario("kill_in_flight", "0 lost either way, kills hit messages in flight")
def _kill_in_flight(world: World) -> tuple[Any, ...]:
    kills = 20 if world.scale == 1 else 3
    n = 2000 if world.scale == 1 else 300
    payloads = numbered(n)
    with Mosquitto() as broker, Subscriber(broker.plain_port, UP) as watcher:
        watcher.ready.wait(5)
        feeder = Feeder(broker.plain_port, DOWN, payloads, 0.005)
        finished = threading.Event()

        def work() -> None:
            wait_until(lambda: watcher.got, 20)  # the application has subscribed
            with feeder:
                for i in range(kills):
                    due = (i + 1) * n // (kills + 2)
                    wait_until(lambda due=due: len(set(watcher.got)) >= due, 60)
                    broker.hang()  # what is sent now will be in flight when it dies
                    time.sleep(0.05)
                    broker.kill()
                    time.sleep(0.1)
                    broker.start()
                wait_until(lambda: feeder.sent >= n or finished.is_set(), 120)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        run = world.app(
            broker.root.der, broker.tls_port, limit=300, kind="both", n=n, interval_ms=5,
            expect=10**6, seconds=280, idle_s=0, maximum_ms=300, minimum_ms=20,
            until=n, **_options(broker),
        )  # fmt: skip
        finished.set()
        worker.join(30)
        wait_until(lambda: len(set(watcher.got)) >= n, 10)
        out = list(watcher.got)
    came = [line.split(" ")[0].encode() for line in run.all("C")]
    lost = len(set(payloads) - set(out)) + len(set(payloads) - set(came))
    ordered = in_order(out, payloads) and in_order(came, payloads)
    resent = run.stats.get("resent", 0)
    # again: what was in flight at a kill, here and from the broker to the one that counts
    allowed = 2 * 8 * kills
    ok = run.done and not lost and ordered and broker.kills == kills and resent > 0
    ok = ok and duplicates(out) <= allowed and duplicates(came) <= allowed
    seen = (
        f"{broker.kills} kills, {run.stats.get('hit', 0)} of them with messages in flight "
        f"({resent} sent again); out {len(set(out))}/{n}, {duplicates(out)} twice, in "
        f"{len(set(came))}/{n}, {duplicates(came)} twice, in order {ordered}, ended {run.done}"
    )
    if world.scale == 1:
        ok = ok and run.stats.get("hit", 0) >= 10
    return ok, seen, lost, duplicates(out) + duplicates(came)


@scenario("evict_twin", "recognised, said in words, backed off")
def _evict_twin(world: World) -> tuple[Any, ...]:
    with Mosquitto() as broker:
        stop = threading.Event()
        fights = 0

        def twin() -> None:
            nonlocal fights
            while not stop.is_set():
                try:
                    link = Link(broker.plain_port, "dev1")
                    fights += 1
                    link.sock.settimeout(0.2)
                    while not stop.is_set():
                        try:
                            link.packet()
                        except TimeoutError:
                            continue
                except OSError:
                    stop.wait(0.3)

        thread = threading.Thread(target=twin, daemon=True)
        thread.start()
        run = world.app(
            broker.root.der, broker.tls_port, kind="idle", n=0, idle_s=8, maximum_ms=60000,
            **_options(broker),
        )  # fmt: skip
        stop.set()
        thread.join(5)
    said = run.failed_with("ConnectionDroppedError", "another client seems to use the id 'dev1'")
    links = run.stats.get("connects", 99)
    return run.done and said and 3 <= links <= 9, f"{links} links in 8 s; {run.outage()}"


@scenario("evict_each_other", "two clients, one id: both say so and back off")
def _evict_each_other(world: World) -> tuple[Any, ...]:
    with Mosquitto() as broker, ThreadPoolExecutor(2) as pool:

        def client(_: int) -> Run:
            return world.app(
                broker.root.der, broker.tls_port, kind="idle", n=0, idle_s=5, maximum_ms=60000,
                **_options(broker),
            )  # fmt: skip

        runs = list(pool.map(client, range(2)))
    said = all(
        run.failed_with("ConnectionDroppedError", "another client seems to use the id 'dev1'")
        for run in runs
    )
    links = [run.stats.get("connects", 99) for run in runs]
    counted = [run.stats.get("evictions", 0) for run in runs]
    ok = all(run.done for run in runs) and said and all(3 <= n <= 9 for n in links)
    return ok, f"{links} links in 5 s, {counted} called evictions; {runs[0].outage()}"


@scenario("login_password", "TLS with password: accepted, wrong one refused")
def _login_password(world: World) -> tuple[Any, ...]:
    with Mosquitto() as broker:
        good = world.app(broker.root.der, broker.tls_port, n=5, **_options(broker))
        bad = world.app(
            broker.root.der,
            broker.tls_port,
            n=1,
            user=broker.user,
            password=broker.password[::-1],
            seconds=1,
        )
    refused = bad.failed_with("CredentialError") and not bad.all("UP")
    return good.done and not good.all("E") and refused, f"good: ok; bad: {bad.outage()}"


@scenario("login_certificate", "TLS with client certificate: accepted, without it refused")
def _login_certificate(world: World) -> tuple[Any, ...]:
    with Mosquitto() as broker:
        files: dict[str, Any] = {
            "cert": str(broker.folder / "client.der"),
            "key": str(broker.folder / "client.key.der"),
        }
        good = world.app(broker.root.der, broker.cert_port, n=5, **files)
        bad = world.app(broker.root.der, broker.cert_port, n=1, seconds=1)
    refused = bad.all("E") and not bad.all("UP")
    return good.done and not good.all("E") and refused, f"good: ok; without: {bad.outage()}"


@scenario("unknown_ca", "refused, no CONNECT sent")
def _unknown_ca(world: World) -> tuple[Any, ...]:
    from taproot.pki import Authority

    other = Authority.root("another root", "p256")
    with Mosquitto() as broker:
        run = world.app(other.der, broker.tls_port, n=1, seconds=1, **_options(broker))
    return run.failed_with("TrustError") and not run.all("UP"), run.outage()

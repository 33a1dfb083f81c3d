"""What the emulator costs: memory per TLS connection, CPU per QoS 1 message beside mosquitto's.

Responsible for: an emulator in a process of its own (this module run as a program), the load on
it, the rows. Not for: printing and comparing (`runner.py`). Figures: RSS from /proc/PID/status,
CPU from /proc/PID/task/*/schedstat in nanoseconds; both servers get the same bytes from the same
client in turns, because rates swing with the machine's load while their ratio does not.

    rows = measure(connections=2000, messages=10_000)
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import json
import resource
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from taproot.bench import runner
from taproot.console import PeerFailed, UsageFailed

MEMORY_GOAL_KIB = 45.0
CPU_GOAL_RATIO = 3.0
ROUNDS = 3
PAYLOAD = 200
WINDOW = 20
_WARM = 20
_SPARE_FILES = 200
_LIMIT_S = 300.0


@dataclass
class Server:
    """One server under load."""

    name: str
    pid: int
    port: int
    context: ssl.SSLContext
    login: Callable[[str], tuple[str, str, str]]  # device -> client id, user name, password

    def rss_kib(self) -> int:
        """Resident memory of the process."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise PeerFailed(f"{self.name} has ended")

    def cpu_ns(self) -> int:
        """CPU time of all threads that still live."""
        total = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        return total


def measure(
    connections: int = 2000, messages: int = 10_000, say: Callable[[str], None] = lambda text: None
) -> list[dict[str, Any]]:
    """Run both measurements; return bench rows."""
    rows = []
    with emulator(connections) as server:
        rows += _memory(server, connections, say)
    with emulator(1) as ours, _mosquitto() as theirs:
        rows += _cpu(ours, theirs, messages, say)
    return rows


def row(
    name: str, value: float, unit: str, n: int, goal: float | None = None, cmp: str = "<=",
    why: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Make a bench row (contracts, bench rows)."""
    ok = goal is None or (value <= goal if cmp == "<=" else value >= goal)
    return {
        "id": name, "value": value, "unit": unit, "n": n, "build": "cpython",
        "goal": goal, "cmp": cmp, "ok": ok, "why": why,
    }  # fmt: skip


# -- memory ---------------------------------------------------------------------------------------


def raise_files(wanted: int) -> int:
    """Raise the soft limit of open files; return what was got."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if target > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        soft = target
    if soft < wanted:
        raise UsageFailed(
            f"{wanted} open files are needed and {soft} are allowed: "
            f"raise the hard limit (ulimit -Hn {wanted}) or take fewer connections"
        )
    return soft


def _memory(server: Server, connections: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    files = raise_files(connections + _SPARE_FILES)
    say(f"{connections} TLS connections ({files} open files allowed)")
    links: list[ssl.SSLSocket] = []
    try:
        for number in range(_WARM):  # code paths, contexts and caches are loaded by these
            open_link(server, f"bench-{number}").close()
        before, cpu, started = server.rss_kib(), server.cpu_ns(), time.monotonic()
        for number in range(connections):
            links.append(open_link(server, f"bench-{number}"))
        took, cpu = time.monotonic() - started, server.cpu_ns() - cpu
        for link in links:
            link.sendall(b"\xc0\x00")
        answered = sum(_read(link, 2) == b"\xd0\x00" for link in links)
        each = (server.rss_kib() - before) / connections
    finally:
        for link in links:
            link.close()
    say(f"  {each:.1f} KiB each, {cpu / connections / 1e6:.2f} ms CPU each, {took:.1f} s in all")
    return [
        row("emulator.tls.rss", round(each, 1), "KiB", connections, MEMORY_GOAL_KIB),
        row(
            "emulator.tls.answered", answered, "connections", connections, connections, ">=",
            "a PINGREQ on every open connection",
        ),
        row("emulator.tls.connect_cpu", round(cpu / connections / 1e6, 2), "ms", connections),
    ]  # fmt: skip


# -- CPU ------------------------------------------------------------------------------------------


def _cpu(
    ours: Server, theirs: Server, messages: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    spent = {ours.name: 0, theirs.name: 0}
    rates = {ours.name: 0.0, theirs.name: 0.0}
    links = {server.name: open_link(server, "bench-0") for server in (ours, theirs)}
    try:
        for number in range(ROUNDS + 1):
            for server in (ours, theirs):
                before, started = server.cpu_ns(), time.monotonic()
                count = messages if number else messages // 10
                publish(links[server.name], "devices/bench-0/messages/events/", count)
                if number:  # the first round warms up
                    spent[server.name] += server.cpu_ns() - before
                    rate = count / (time.monotonic() - started)
                    rates[server.name] = max(rates[server.name], rate)
    finally:
        for link in links.values():
            link.close()
    each = {name: total / messages / ROUNDS / 1e3 for name, total in spent.items()}
    ratio = each[ours.name] / each[theirs.name]
    for name, cost in each.items():
        say(f"  {name}: {cost:.1f} us CPU per QoS 1 message, up to {rates[name]:.0f} per second")
    total = messages * ROUNDS
    return [
        row("emulator.pub.q1.cpu", round(each[ours.name], 1), "us", total),
        row("mosquitto.pub.q1.cpu", round(each[theirs.name], 1), "us", total),
        row(
            "emulator.pub.q1.ratio", round(ratio, 2), "times mosquitto", total, CPU_GOAL_RATIO,
            why="SAS checked at CONNECT, every message recorded; mosquitto checks a password",
        ),
        row("emulator.pub.q1.rate", round(rates[ours.name]), "per second", total),
    ]  # fmt: skip


def publish(link: ssl.SSLSocket, topic: str, count: int) -> None:
    """Publish `count` messages at QoS 1, WINDOW of them in flight, each in a record of its own."""
    head = struct.pack("!H", len(topic)) + topic.encode()
    body = b"x" * PAYLOAD
    sent = acknowledged = 0
    while acknowledged < count:
        while sent < count and sent - acknowledged < WINDOW:
            packet_id = sent % 65_535 + 1
            link.sendall(_packet(0x32, head + struct.pack("!H", packet_id) + body))
            sent += 1
        data = _read(link, 4)
        if data[:2] != b"\x40\x02":
            raise PeerFailed(f"PUBACK expected, {data.hex()} came")
        acknowledged += 1


# -- MQTT by hand ---------------------------------------------------------------------------------


def _packet(first: int, body: bytes) -> bytes:
    length, size = bytearray(), len(body)
    while True:
        size, digit = divmod(size, 128)
        length.append(digit | (128 if size else 0))
        if not size:
            return bytes([first]) + bytes(length) + body


def _field(text: str) -> bytes:
    return struct.pack("!H", len(text.encode())) + text.encode()


def _read(link: ssl.SSLSocket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = link.recv(size - len(data))
        if not part:
            raise PeerFailed("the server closed the connection")
        data += part
    return data


def open_link(server: Server, device: str) -> ssl.SSLSocket:
    """Open one verified TLS connection and log in."""
    client_id, user, password = server.login(device)
    raw = socket.create_connection(("127.0.0.1", server.port), 10)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        link = server.context.wrap_socket(raw, server_hostname="localhost")
        body = _field("MQTT") + b"\x04\xc2" + struct.pack("!H", 600)
        link.sendall(_packet(0x10, body + _field(client_id) + _field(user) + _field(password)))
        answer = _read(link, 4)
    except OSError as error:
        raw.close()
        raise PeerFailed(f"{server.name}: {error}") from None
    if answer != b"\x20\x02\x00\x00":
        link.close()
        raise PeerFailed(f"{server.name} refused the connection with code {answer[3]}")
    return link


def _context(root_pem: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=root_pem)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM")
    return context


# -- servers --------------------------------------------------------------------------------------


@contextlib.contextmanager
def emulator(devices: int) -> Iterator[Server]:
    """An emulator with that many devices, in a process of its own."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "taproot.bench.emulator", str(devices)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                process.wait(10)
                errors.seek(0)
                text = errors.read().decode(errors="replace").strip().splitlines()
                raise PeerFailed(f"the emulator did not start: {text[-1] if text else '?'}")
            facts = json.loads(line)
            yield Server(
                "emulator",
                process.pid,
                facts["port"],
                _context(facts["root_pem"]),
                lambda device: _sas_login(device, facts["key"]),
            )
        finally:
            process.stdin.close()  # the child ends with its stdin
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def _sas_login(device: str, key: str) -> tuple[str, str, str]:
    sr, expiry = quote(f"localhost/devices/{device}", safe=""), int(time.time()) + 3600
    mac = hmac.digest(base64.b64decode(key), f"{sr}\n{expiry}".encode(), "sha256")
    sig = quote(base64.b64encode(mac), safe="")
    user = f"localhost/{device}/?api-version=2021-04-12"
    return device, user, f"SharedAccessSignature sr={sr}&sig={sig}&se={expiry}"


@contextlib.contextmanager
def _mosquitto() -> Iterator[Server]:
    from taproot.bench.broker import Mosquitto

    with Mosquitto() as broker:
        process = broker._process
        assert process is not None
        context = _context(broker.root.pem)
        yield Server(
            "mosquitto",
            process.pid,
            broker.tls_port,
            context,
            lambda device: (device, broker.user, broker.password),
        )


def _serve(devices: int) -> None:
    """The child: an emulator that ends with its stdin."""
    from taproot.emulator import EmulatorConfig, running
    from taproot.emulator.credentials import new_key

    raise_files(devices + _SPARE_FILES)
    key = new_key()
    with running(EmulatorConfig(https_port=None)) as emu:
        for number in range(max(devices, _WARM)):
            emu.add_device(f"bench-{number}", primary_key=key)
        facts = {"port": emu.mqtt_port, "root_pem": emu.root_pem, "key": key}
        print(json.dumps(facts), flush=True)
        sys.stdin.read()


@click.command("emulator")
@click.option("--connections", default=2000, show_default=True, help="TLS connections at once.")
@click.option("--messages", default=10_000, show_default=True, help="Messages per round.")
@click.option("--compare", metavar="FILE", help="An earlier --json output to compare with.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(connections: int, messages: int, compare: str | None, as_json: bool) -> None:
    """Measure the emulator: memory per TLS connection, CPU per message beside mosquitto's.

    Example: taproot bench emulator --connections 100 --messages 1000
    """
    if connections < 1 or messages < WINDOW:
        raise UsageFailed(f"at least 1 connection and {WINDOW} messages")
    bench = runner.Bench("taproot bench emulator", as_json, compare)
    for found in measure(connections, messages, bench.report.say):
        given = {name: found[name] for name in ("n", "build", "goal", "cmp", "why")}
        bench.add(found["id"], found["value"], found["unit"], **given)
    bench.report.finish()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))

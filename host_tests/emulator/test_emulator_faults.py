"""Every fault does what it says, to whom it says, as often as it says; a soak loses nothing."""

from __future__ import annotations

import gc
import itertools
import json
import random
import resource
import socket
import ssl
import struct
import time

import pytest
from emulator.conftest import make_device
from support import wire
from support.wire import Closed, puback, publish, subscribe
from taproot.emulator import EmulatorConfig, faults, running
from taproot.emulator.faults import ACTIONS, FaultError

TWIN = "$iothub/twin/res/#"
requirement = pytest.mark.requirement


@pytest.fixture(autouse=True)
def _no_faults_left(hub):
    yield
    hub.clear_faults()


def fault(hub, device, action, **more):
    """Set a fault for one device."""
    return hub.fault({"action": action, "device": device.id, **more})


def is_reset(link):
    """True when the connection was reset instead of closed."""
    try:
        link.sock.settimeout(3)
        while link.sock.recv(4096):
            pass
    except ConnectionResetError:
        return True
    return False


# -- specifications --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec,text",
    [
        ({}, "unknown fault action None"),
        ({"action": "explode"}, "one of blackout"),
        ({"action": "drop"}, "needs 'packet'"),
        ({"action": "drop", "packet": "LETTER"}, "unknown packet 'LETTER'"),
        ({"action": "drop", "packet": "PUBLISH", "direction": "up"}, "in, out or any"),
        ({"action": "withhold", "packet": "PUBACK", "when": 3}, "unknown key 'when'"),
        ({"action": "delay", "packet": "PUBACK", "seconds": "long"}, "could not convert"),
        ({"action": "delay", "packet": "PUBACK", "seconds": -1}, "not negative"),
        ({"action": "drop", "packet": "PUBLISH", "probability": 2}, "probability"),
        ({"action": "garbage", "data": "zz"}, "non-hexadecimal"),
        ({"action": "cut", "device": "d"}, "takes no 'device'"),
    ],
)
def test_a_wrong_specification_says_what_is_expected(hub, spec, text):
    """One sentence, no traceback."""
    with pytest.raises(FaultError, match=text):
        hub.fault(spec)


def test_every_action_is_tested_here():
    """A new action needs a test in this file."""
    source = open(__file__, encoding="utf-8").read()
    assert [name for name in ACTIONS if f'"{name}"' not in source] == []


def test_the_random_plan_is_repeatable():
    """The same seed, the same plan; another seed, another one; every step is a valid fault."""

    def plan(seed):
        return list(itertools.islice(faults.random_plan(seed, ["a", "b"]), 200))

    assert plan(5) == plan(5) != plan(6)
    for _, spec in plan(5):
        faults.parse(spec)


# -- CONNECT ---------------------------------------------------------------------------------


@requirement("F1")
@pytest.mark.parametrize("code", [1, 2, 3, 4, 5])
def test_refuse(hub, device, code):
    """Any CONNACK code; then closed; the next try passes."""
    fault(hub, device, "refuse", code=code)
    assert device.connect(code=code).closed() == []
    device.connect().ping()


@requirement("F10")
def test_no_connack(hub, device):
    """CONNACK withheld: the connection stays silent."""
    fault(hub, device, "withhold", packet="CONNACK")
    device.connect(code=None).quiet()


def test_a_fault_is_for_its_device_and_count(hub, device):
    """Another device passes; `after` lets packets pass; `count` ends it."""
    hub.add_device(f"{device.id}-other")
    fault(hub, device, "withhold", packet="PUBACK", after=1, count=2)
    other = next(maker := make_device(hub, f"{device.id}-third"))
    far, near = other.connect(), device.connect()
    for link, topic in ((far, other.events), (near, device.events)):
        link.send(*(publish(topic, b"x", 1, n) for n in range(1, 5)))
    assert [far.expect(wire.PUBACK)[1][1] for _ in range(4)] == [1, 2, 3, 4]
    assert [near.expect(wire.PUBACK)[1][1] for _ in range(2)] == [1, 4]
    near.ping()
    next(maker, None)


# -- packets in ------------------------------------------------------------------------------


@requirement("F3")
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("action,recorded", [("drop", 0), ("drop_after", 1)])
def test_drop_before_and_after_a_packet(hub, device, action, recorded, reset):
    """The message is lost with the connection, or recorded; close or reset."""
    link = device.connect()
    fault(hub, device, action, packet="PUBLISH", direction="in", reset=reset)
    link.send(publish(device.events, b"x", 1, 1))
    assert is_reset(link) is reset
    assert len(hub.messages(device.id)) == recorded


def test_ignore(hub, device):
    """Read, and nothing done."""
    link = device.connect()
    fault(hub, device, "ignore", packet="SUBSCRIBE")
    link.send(subscribe(1, (TWIN, 0)))
    link.ping()


@requirement("F9")
def test_delay_keeps_the_order(hub, device):
    """A delayed packet delays those behind it, in and out."""
    link = device.connect()
    fault(hub, device, "delay", packet="PUBLISH", direction="in", seconds=0.4)
    start = time.monotonic()
    link.send(publish(device.events, b"1", 1, 1), publish(device.events, b"2", 1, 2))
    assert [link.expect(wire.PUBACK)[1][1] for _ in range(2)] == [1, 2]
    assert 0.3 < time.monotonic() - start < 2
    fault(hub, device, "delay", packet="PUBACK", seconds=0.4)
    start = time.monotonic()
    link.send(publish(device.events, b"3", 1, 3), wire.packet(0xC0))
    assert link.take()[0] == 0x40 and link.take()[0] == 0xD0
    assert time.monotonic() - start > 0.3


@requirement("F4")
@pytest.mark.parametrize("how", ["half_open", "half_open_now"])
def test_half_open(hub, device, how, since):
    """The socket stays, nothing is answered; keep-alive ends it."""
    link = device.connect(keep_alive=1)
    if how == "half_open":
        fault(hub, device, "half_open", packet="PINGREQ")
        link.send(wire.packet(0xC0))
    else:
        fault(hub, device, "half_open_now")
    link.send(publish(device.events, b"x", 1, 1))
    link.quiet(0.5)
    assert link.closed(4) == [] and hub.messages(device.id) == []
    assert since("log")[-1]["code"] == 404104


# -- packets out -----------------------------------------------------------------------------


@requirement("F2")
@pytest.mark.parametrize("name", ["PUBACK", "SUBACK", "UNSUBACK", "PINGRESP", "PUBLISH"])
def test_withhold(hub, device, name):
    """Never sent; everything else is."""
    link = device.connect()
    fault(hub, device, "withhold", packet=name, count=0)
    link.send(
        subscribe(1, (TWIN, 0)), publish(device.events, b"x", 1, 2),
        publish("$iothub/twin/GET/?$rid=1"), wire.packet(0xC0), wire.unsubscribe(3, "a"),
    )  # fmt: skip
    got = sorted(link.take()[0] >> 4 for _ in range(4))
    kinds = {"SUBACK": 9, "PUBACK": 4, "PUBLISH": 3, "PINGRESP": 13, "UNSUBACK": 11}
    assert got == sorted(set(kinds.values()) - {kinds[name]})


@requirement("F9")
def test_duplicate(hub, device):
    """A QoS 1 delivery twice, the second with DUP; the id is the same."""
    link = device.connect()
    link.send(subscribe(1, (device.inbox, 1)))
    link.expect(wire.SUBACK)
    fault(hub, device, "duplicate")
    hub.send_c2d(device.id, "x")
    first, second = link.delivery(), link.delivery()
    assert (first[3], second[3]) == (0x32, 0x3A) and first[:3] == second[:3]
    link.send(puback(first[2]))
    link.ping()


@requirement("F5")
def test_malformed_garbage_and_oversize(hub, device):
    """Instead of a packet, out of the blue, and a packet larger than a device takes."""
    link = device.connect()
    fault(hub, device, "malformed", packet="PINGRESP", data="d005")
    link.send(wire.packet(0xC0))
    assert link.sock.recv(10) == b"\xd0\x05"
    fault(hub, device, "garbage", data="f0ff01")
    assert link.sock.recv(10) == b"\xf0\xff\x01"
    fault(hub, device, "oversize", bytes=300_000)
    topic, payload, _, _ = link.delivery()
    assert topic == "oversize" and len(payload) == 300_000


@requirement("F10")
def test_one_byte_at_a_time(hub, device):
    """Bytes apart in time; what follows waits its turn."""
    link = device.connect()
    fault(hub, device, "one_byte", packet="SUBACK", seconds=0.05)
    start = time.monotonic()
    link.send(subscribe(0x0102, (TWIN, 0)), wire.packet(0xC0))
    chunks = b""
    while len(chunks) < 7:
        piece = link.sock.recv(100)
        assert len(piece) == 1 or chunks.startswith(b"\x90\x03\x01\x02")
        chunks += piece
    assert chunks == b"\x90\x03\x01\x02\x00\xd0\x00" and time.monotonic() - start > 0.2


# -- replies ---------------------------------------------------------------------------------


@requirement("F9", "H16")
def test_twin_replies(hub, device):
    """Throttled, failed, answered under another request id."""
    link = device.connect()
    link.send(subscribe(1, (TWIN, 0)))
    link.expect(wire.SUBACK)
    for action, more, expected in (
        ("throttle", {}, "429/?$rid=1"),
        ("status", {"code": 503}, "503/?$rid=1"),
        ("wrong_rid", {}, "200/?$rid=1-wrong"),
    ):
        fault(hub, device, action, **more)
        link.send(publish("$iothub/twin/GET/?$rid=1"))
        assert link.delivery()[0] == f"$iothub/twin/res/{expected}"
    link.send(publish("$iothub/twin/GET/?$rid=1"))
    assert link.delivery()[0].endswith("200/?$rid=1")


# -- connections -----------------------------------------------------------------------------


@requirement("F3", "F7")
@pytest.mark.parametrize("action,resets", [("reset", True), ("kick", False), ("expire", False)])
def test_ends_now(hub, device, action, resets):
    """Reset, closed in good order, token declared expired."""
    link = device.connect()
    fault(hub, device, action)
    assert is_reset(link) is resets


@requirement("F6", "F10")
def test_handshake_faults():
    """Cut after N bytes, silence, plain text in place of TLS, blackout; then all is well again."""
    with running(EmulatorConfig(https_port=None)) as emu:
        context = ssl.create_default_context(cadata=emu.root_pem)
        emu.fault({"action": "cut", "bytes": 700})
        with socket.create_connection(("127.0.0.1", emu.mqtt_port)) as sock:
            i, o = ssl.MemoryBIO(), ssl.MemoryBIO()
            side = context.wrap_bio(i, o, server_hostname="localhost")
            with pytest.raises(ssl.SSLWantReadError):
                side.do_handshake()
            sock.sendall(o.read())
            sock.settimeout(5)
            got = b""
            while piece := sock.recv(4096):
                got += piece
            assert len(got) == 700
        emu.fault({"action": "mute"})
        with (
            pytest.raises(TimeoutError),
            socket.create_connection(("127.0.0.1", emu.mqtt_port)) as sock,
        ):
            sock.settimeout(0.5)
            context.wrap_socket(sock, server_hostname="localhost")
        emu.fault({"action": "plain", "data": b"HTTP/1.1 400\r\n\r\n".hex()})
        with pytest.raises(ssl.SSLError):
            wire.Wire.tls(emu.mqtt_port, context)
        maker = make_device(emu, "d")
        device = next(maker)
        link = device.connect(tls=context)
        emu.fault({"action": "blackout", "seconds": 0.7})
        with pytest.raises((Closed, ConnectionError)):
            link.take()
        start = time.monotonic()
        with pytest.raises((OSError, ssl.SSLError)):
            wire.Wire.tls(emu.mqtt_port, context)
        while True:
            try:
                wire.Wire.tls(emu.mqtt_port, context).close()
                break
            except (OSError, ssl.SSLError):
                time.sleep(0.05)
        assert 0.4 < time.monotonic() - start < 3
        next(maker, None)


# -- slow and dead clients -------------------------------------------------------------------


def test_a_client_that_does_not_read_is_dropped_and_slows_nobody(hub, device):
    """Its unsent bytes are bounded; another device is served meanwhile."""
    other = next(maker := make_device(hub, f"{device.id}-fast"))
    fast, slow = other.connect(), device.connect()
    slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.send(subscribe(1, (TWIN, 0)))
    slow.expect(wire.SUBACK)
    for _ in range(5):  # 150 KB of twin, well below the limit of 32 KB by the hub's count
        hub.patch_desired(device.id, {"pad": {f"k{n}": "x" * 4000 for n in range(7)}})
    slow.sock.settimeout(0.05)
    request = publish("$iothub/twin/GET/?$rid=" + "r" * 50)
    slowest = 0.0
    with pytest.raises(OSError):
        for _ in range(4000):
            slow.sock.sendall(request * 20)
            start = time.monotonic()
            fast.ping()
            slowest = max(slowest, time.monotonic() - start)
    assert slowest < 1.0
    event = hub.wait_for(lambda e: e["type"] == "disconnect" and e.get("identity") == device.id)
    assert event["reason"] == "the client does not read what is sent"
    next(maker, None)


def test_half_a_packet_for_ever_ends_by_keep_alive(device):
    """A client stuck in the middle of a packet is not kept."""
    link = device.connect(keep_alive=1)
    link.send(b"\x30\x50\x00")
    assert link.closed(4) == []


def test_no_connect_in_time():
    """A connection that never says CONNECT ends."""
    with running(EmulatorConfig(plain_port=0, https_port=None)) as emu:
        emu.emulator.engine.connect_within = 0.3
        with wire.Wire.plain(emu.plain_port) as link:
            assert link.closed(3) == []


# -- soak ------------------------------------------------------------------------------------


class Sender:
    """A correct client: keeps what is not acknowledged, reconnects, sends it again with DUP."""

    def __init__(self, emu, identity, context, seed):
        self.emu, self.id = emu, identity
        self.key = emu.add_device(identity).primary_key
        self.context, self.random = context, random.Random(seed)
        self.pending, self.accepted, self.link, self.reconnects = {}, 0, None, -1
        self.deadline = 0.0

    def connect(self):
        """Connect once; False when it failed."""
        try:
            self.link = wire.Wire.tls(self.emu.mqtt_port, self.context)
            self.link.sock.settimeout(1.0)
            login = wire.credentials(self.emu.host, self.id, self.key)
            self.link.send(wire.connect(self.id, clean=False, **login))
            if self.link.expect(wire.CONNACK)[1][1]:
                raise Closed("refused")
            for pid, body in self.pending.items():
                self.link.send(
                    publish(f"devices/{self.id}/messages/events/", body, 1, pid, dup=True)
                )
        except (OSError, ssl.SSLError, Closed, AssertionError, TimeoutError):
            self.drop()
            return False
        self.reconnects += 1
        self.deadline = time.monotonic() + 1.0
        return True

    def drop(self):
        """Forget the connection."""
        if self.link is not None:
            self.link.close()
            self.link = None

    def step(self):
        """Accept a message, send it, take what has come."""
        if len(self.pending) < 10:
            pid = self.accepted % 60_000 + 1
            body = json.dumps({"n": self.accepted}).encode()
            self.accepted += 1
            self.pending[pid] = body
            if self.link is not None:
                try:
                    self.link.send(publish(f"devices/{self.id}/messages/events/", body, 1, pid))
                except OSError:
                    self.drop()
        self.flush(0.02)

    def flush(self, seconds):
        """Take acknowledgements; give a silent connection up."""
        if self.link is None and not self.connect():
            time.sleep(0.02)
            return
        try:
            self.link.sock.settimeout(seconds)
            while True:
                first, body = self.link.take()
                if first >> 4 == wire.PUBACK and len(body) == 2:
                    self.pending.pop(struct.unpack("!H", body)[0], None)
                    self.deadline = time.monotonic() + 1.0
                elif first >> 4 not in (wire.PUBLISH, wire.PUBACK, wire.PINGRESP):
                    raise Closed("garbage")
        except (TimeoutError, ssl.SSLWantReadError):
            if self.pending and time.monotonic() > self.deadline:
                self.drop()
        except (OSError, ssl.SSLError, Closed, IndexError):
            self.drop()


def resident():
    """KiB of memory this process, the emulator in it, holds."""
    gc.collect()
    pages = int(open("/proc/self/statm", encoding="ascii").read().split()[1])
    return pages * resource.getpagesize() // 1024


@pytest.mark.timeout(800)
def test_a_soak_with_random_faults_loses_nothing_and_grows_nowhere(count):
    """Seeded: reconnects and resends until all is recorded; what a connection took is given back."""
    config = EmulatorConfig(
        https_port=None, seed=11, random_faults=True, fault_interval=0.3, events_kept=5_000
    )
    config.limits.messages_kept = 2_000
    with running(config) as emu:
        context = ssl.create_default_context(cadata=emu.root_pem)
        recorded = {}
        record = emu.emulator.hub.record

        def keep(found, bag, body, **how):
            recorded.setdefault(found.id, set()).add(json.loads(body)["n"])
            return record(found, bag, body, **how)

        emu.emulator.hub.record = keep
        senders = [Sender(emu, f"s{n}", context, n) for n in range(3)]
        start = time.monotonic()
        end, warm, settled = start + count(6, 600), start + count(3, 120), 0
        while time.monotonic() < end:
            for sender in senders:
                sender.step()
            if not settled and time.monotonic() > warm:
                settled = resident()
        assert resident() - settled < 40_000, "KiB grown since the caps were reached"
        emu.call(emu.emulator._plan.cancel)
        emu.clear_faults()
        limit = time.monotonic() + 30
        while any(s.pending for s in senders) and time.monotonic() < limit:
            for sender in senders:
                sender.flush(0.05)
        for sender in senders:
            assert recorded[sender.id] == set(range(sender.accepted)), sender.id
            assert sender.accepted > 20
            sender.drop()
        assert sum(s.reconnects for s in senders) > 3
        assert [e for e in emu.events() if e["type"] == "strictness"] == []
        limit = time.monotonic() + 10
        while emu.emulator.engine.connections and time.monotonic() < limit:
            time.sleep(0.05)
        assert not emu.emulator.engine.connections
        time.sleep(0.2)
        gc.collect()
        left = [
            o
            for o in gc.get_objects()
            if type(o).__name__ == "Connection" and o.engine is emu.emulator.engine
        ]
        assert len(left) < 40, len(left)  # timers of the last seconds may hold a few
        assert all(len(listener.transports) < 5 for listener in emu.emulator.listeners)
        assert len(emu.emulator.hub.messages.kept) <= 2_000
        assert len(emu.emulator.recorder._events) <= 5_000

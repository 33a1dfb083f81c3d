"""What MQTT 3.1.1 promises a client of the hub: acknowledgements, sessions, order, ends."""

from __future__ import annotations

import time

import pytest
from emulator.conftest import make_device
from support import wire
from support.wire import packet, puback, publish, subscribe, unsubscribe
from taproot.emulator import EmulatorConfig, running

TWIN = "$iothub/twin/res/#"
METHODS = "$iothub/methods/POST/#"
DESIRED = "$iothub/twin/PATCH/properties/desired/#"
requirement = pytest.mark.requirement


@requirement("MQTT-3.2.0-1", "MQTT-3.1.4-4", "MQTT-3.2.2-1", "MQTT-3.1.3-5")
def test_connack_comes_first(hub, device):
    """Packets sent behind CONNECT without waiting are answered after CONNACK."""
    link = wire.Wire.plain(hub.plain_port)
    login = wire.credentials(hub.host, device.id, device.key)
    link.send(wire.connect(device.id, **login), packet(0xC0))
    assert [link.take(), link.take()] == [(0x20, b"\0\0"), (0xD0, b"")]
    link.close()


@requirement("MQTT-3.1.2-4", "MQTT-3.2.2-2", "MQTT-3.2.2-3", "MQTT-4.1.0-1", "MQTT-3.1.3-2")
def test_clean_session_0_keeps_the_subscriptions(hub, device):
    """The session of a client id is kept, and CONNACK says so."""
    first = device.connect(clean=False)
    assert not first.session_present
    first.send(subscribe(1, (TWIN, 1)))
    first.expect(wire.SUBACK)
    first.close()
    second = device.connect(clean=False)
    assert second.session_present
    second.send(publish("$iothub/twin/GET/?$rid=1", b" "))
    assert second.delivery()[0] == "$iothub/twin/res/200/?$rid=1"


@requirement("MQTT-3.1.2-6", "MQTT-3.1.4-3")
def test_clean_session_1_forgets_the_session(device):
    """A clean session discards what was kept, and leaves nothing behind."""
    device.connect(clean=False).send(subscribe(1, (TWIN, 1))).expect(wire.SUBACK)
    clean = device.connect(clean=True)
    assert not clean.session_present
    clean.send(publish("$iothub/twin/GET/?$rid=1", b" "))
    clean.ping()  # no reply came before: nobody had subscribed
    clean.close()
    assert not device.connect(clean=False).session_present


@requirement("MQTT-3.2.2-4", "MQTT-3.2.2-5")
def test_a_refused_connect_closes_without_session_present(hub, device):
    """A session is there, the credential is wrong: CONNACK 5, session present 0, closed."""
    device.connect(clean=False).close()
    link = device.connect(clean=False, password="SharedAccessSignature sr=x&sig=eA==&se=1", code=5)
    assert not link.session_present
    assert link.closed() == []


@requirement("MQTT-3.2.2-6")
def test_a_connect_no_code_fits_is_closed_without_one(device):
    """The hub throttles connects by closing when told to: no CONNACK code means that."""
    from taproot.emulator.hub import Limits, Reactions

    config = EmulatorConfig(
        plain_port=0,
        limits=Limits(connects_per_second=1),
        reactions=Reactions(throttled_connect=0),
    )
    with running(config) as emu:
        other = next(maker := make_device(emu))
        other.connect()
        assert other.connect(code=None).closed() == []
        assert next(maker, None) is None


@requirement("MQTT-3.1.4-2")
def test_a_second_connection_ends_the_first(device, since):
    """The newer wins; the log has the hub's code."""
    first = device.connect()
    second = device.connect()
    assert first.closed() == []
    second.ping()
    assert [e["code"] for e in since("log")] == [400027]


@requirement("MQTT-3.1.2-24")
def test_silence_beyond_one_and_a_half_keep_alives_closes(device, since):
    """Any packet resets the time, not only PINGREQ."""
    link = device.connect(keep_alive=1)
    start = time.monotonic()
    for _ in range(3):
        time.sleep(0.6)
        link.send(publish(device.events, b"x"))
    link.ping()
    last = time.monotonic()
    assert last - start > 1.6
    assert link.closed(4) == []
    assert 1.4 < time.monotonic() - last < 2.2
    assert [e["code"] for e in since("log")] == [404104]


@requirement("H8")
@pytest.mark.parametrize("asked,granted", [(0, 1767), (65_535, 1767), (1177, 1765.5), (10, 15)])
def test_the_keep_alive_has_a_cap(hub, device, asked, granted):
    """1,767 s at most, also for a client that asks for none."""
    device.connect(keep_alive=asked)
    connection = device.record.session.connection
    assert connection._silence == granted


@requirement("MQTT-3.1.2-8", "MQTT-3.14.4-3", "MQTT-3.1.2-10", "MQTT-3.1.2-12")
def test_the_will_is_telemetry_unless_the_client_disconnects(hub, device):
    """Closed without DISCONNECT: recorded with the property; with DISCONNECT: discarded."""
    polite = device.connect(will=(device.events, b"never"))
    polite.send(packet(0xE0))
    polite.closed()
    device.connect(will=(device.events + "why=x", b"gone")).close()
    device.connect().close()  # no will, nothing published
    device.connect()
    [message] = hub.messages(device.id)
    assert (message.body, message.properties) == (
        b"gone", {"why": "x", "iothub-MessageType": "Will"},
    )  # fmt: skip


@requirement("MQTT-3.3.4-1", "MQTT-4.3.2-2", "MQTT-4.3.1-1", "MQTT-2.3.1-6", "MQTT-4.6.0-2")
def test_publishes_are_acknowledged_in_order(hub, device):
    """QoS 1: one PUBACK each, in order, with the same id. QoS 0: none."""
    link = device.connect()
    ids = [7, 65_535, 1, 300]
    link.send(
        *(publish(device.events, b"%d" % n, 1, n) for n in ids), publish(device.events, b"0")
    )
    assert [link.expect(wire.PUBACK)[1] for _ in ids] == [n.to_bytes(2, "big") for n in ids]
    link.ping()
    assert [m.body for m in hub.messages(device.id)] == [b"7", b"65535", b"1", b"300", b"0"]


@requirement("MQTT-3.3.5-2")
def test_publishing_for_another_device_closes(device, since):
    """Not authorised, and MQTT 3.1.1 has no way to say so."""
    link = device.connect()
    link.send(publish("devices/somebody-else/messages/events/", b"x", 1, 1))
    assert link.closed() == []
    assert since("strictness") == []  # a rule of the hub, not of MQTT


def test_qos_2_closes(hub, device):
    """Documented: a PUBLISH with QoS 2 ends the connection, and is not recorded."""
    link = device.connect()
    link.send(publish(device.events, b"x", 2, 1))
    assert link.closed() == []
    assert hub.messages(device.id) == []


@requirement("MQTT-3.8.4-1", "MQTT-3.8.4-2", "MQTT-3.8.4-4", "MQTT-3.8.4-5", "MQTT-3.8.4-6",
             "MQTT-3.9.3-1", "MQTT-3.9.3-2", "MQTT-3.8.3-2", "MQTT-2.3.1-7")  # fmt: skip
def test_suback_answers_each_filter(device):
    """QoS 2 is granted as 1; a filter the hub does not document gets 0x80; order is kept."""
    link = device.connect()
    link.send(
        subscribe(
            0x1234, (TWIN, 0), ("devices/+/messages/#", 1), (METHODS, 2), ("#", 0), (DESIRED, 1)
        )
    )
    assert link.expect(wire.SUBACK) == (0x90, b"\x12\x34" + bytes([0, 0x80, 1, 0x80, 1]))


@requirement("MQTT-3.8.4-3")
def test_subscribing_again_replaces_the_qos(device):
    """The same filter twice is one subscription with the newer QoS."""
    link = device.connect()
    link.send(subscribe(1, (TWIN, 1)), subscribe(2, (TWIN, 0)))
    link.expect(wire.SUBACK), link.expect(wire.SUBACK)
    link.send(publish("$iothub/twin/GET/?$rid=1", b" "))
    assert link.delivery()[3] & 6 == 0


@requirement("MQTT-3.10.4-1", "MQTT-3.10.4-2", "MQTT-3.10.4-4", "MQTT-3.10.4-5", "MQTT-3.10.4-6")
def test_unsubscribe(device):
    """Exactly the named filters end, and UNSUBACK comes even if there was none."""
    link = device.connect()
    link.send(subscribe(1, (TWIN, 0), (DESIRED, 0)))
    link.expect(wire.SUBACK)
    link.send(unsubscribe(2, "$iothub/twin/res/+", "nothing/like/it", DESIRED))
    assert link.expect(wire.UNSUBACK) == (0xB0, b"\0\2")
    link.send(publish("$iothub/twin/GET/?$rid=1", b" "))
    assert link.delivery()[0].startswith("$iothub/twin/res/200/")
    link.send(unsubscribe(3, TWIN), publish("$iothub/twin/GET/?$rid=2", b" "))
    assert link.expect(wire.UNSUBACK) == (0xB0, b"\0\3")
    link.ping()


@requirement("MQTT-3.10.4-3")
def test_a_delivery_in_flight_is_completed_after_unsubscribe(hub, device):
    """PUBACK after UNSUBSCRIBE still ends the message."""
    link = device.connect()
    link.send(subscribe(1, (device.inbox, 1)))
    link.expect(wire.SUBACK)
    hub.send_c2d(device.id, "x")
    pid = link.delivery()[2]
    link.send(unsubscribe(2, device.inbox), puback(pid))
    link.expect(wire.UNSUBACK)
    link.ping()
    assert not device.record.queue.letters


@requirement("MQTT-3.12.4-1")
def test_pingreq_is_answered(device):
    """PINGRESP, each time."""
    link = device.connect()
    link.send(packet(0xC0) * 3)
    assert [link.take() for _ in range(3)] == [(0xD0, b"")] * 3


@requirement("MQTT-2.3.1-4", "MQTT-2.3.1-5", "MQTT-4.3.2-1", "MQTT-3.3.2-3", "MQTT-3.3.1-3",
             "MQTT-3.3.1-9")  # fmt: skip
def test_deliveries_have_ids_that_are_free(hub, device):
    """Ids are non-zero and differ while outstanding; DUP and RETAIN are 0; QoS 0 has no id."""
    link = device.connect(clean=False)
    link.send(subscribe(1, (device.inbox, 1), (DESIRED, 0)))
    link.expect(wire.SUBACK)
    for number in range(5):
        hub.send_c2d(device.id, f"{number}")
    got = [link.delivery() for _ in range(5)]
    ids = {pid for _, _, pid, _ in got}
    assert len(ids) == 5 and 0 not in ids
    assert {first for *_, first in got} == {0x32}
    assert all(topic.startswith(device.inbox[:-1]) for topic, *_ in got)
    hub.patch_desired(device.id, {"a": 1})
    assert link.delivery()[2:] == (0, 0x30)


@requirement("MQTT-4.4.0-1", "MQTT-3.3.1-1", "MQTT-4.6.0-1", "MQTT-4.5.0-1", "MQTT-3.1.2-5",
             "MQTT-4.6.0-5", "MQTT-4.6.0-6")  # fmt: skip
def test_unacknowledged_deliveries_are_repeated_in_order(hub, device):
    """After a lost connection: same ids, same order, DUP set; then what came meanwhile."""
    link = device.connect(clean=False)
    link.send(subscribe(1, (device.inbox, 1)))
    link.expect(wire.SUBACK)
    for text in "abc":
        hub.send_c2d(device.id, text)
    before = [link.delivery() for _ in range(3)]
    link.send(puback(before[1][2]))
    link.ping()
    link.close()
    hub.wait_for(lambda e: e["type"] == "disconnect" and e.get("identity") == device.id)
    hub.send_c2d(device.id, "d")
    again = device.connect(clean=False)
    got = [again.delivery() for _ in range(3)]
    assert [(payload, first) for _, payload, _, first in got] == [
        (b"a", 0x3A), (b"c", 0x3A), (b"d", 0x32),
    ]  # fmt: skip
    assert [got[0][2], got[1][2]] == [before[0][2], before[2][2]]
    again.send(*(puback(pid) for _, _, pid, _ in got))
    again.ping()
    again.close()
    device.connect(clean=False).ping()  # nothing is delivered again


@requirement("MQTT-1.5.3-3", "MQTT-4.7.3-3", "MQTT-4.7.3-4")
def test_topics_are_taken_as_they_are(hub, device):
    """U+FEFF is a character, long topics pass, nothing is normalised."""
    link = device.connect()
    pairs = {"\ufeffbom": "\ufeff", "A\u030a": "\u00c5", "long": "x" * 60_000}
    for number, (key, value) in enumerate(pairs.items(), 1):
        link.send(publish(f"{device.events}{key}={value}", b"x", 1, number))
        link.expect(wire.PUBACK)
    got = {}
    for message in hub.messages(device.id):
        got.update(message.properties)
    assert got == pairs
    link.send(publish(device.events.replace("/messages/", "/Messages/"), b"x"))
    assert link.closed() == []

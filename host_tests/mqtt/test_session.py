"""The MQTT session: what it sends, what it accepts, what it refuses (requirement MQTT 1)."""

from __future__ import annotations

import ast
import json
import random
import sys
import traceback
from collections import Counter
from pathlib import Path

import pytest
from azure_iot.errors import ConnectionDroppedError, ProtocolError
from azure_iot.mqtt import packet
from azure_iot.mqtt import words as table
from azure_iot.mqtt.receiving import BEGIN, CHUNK, CONNACK, MESSAGE, SUBACK, UNSUBACK
from azure_iot.mqtt.session import Session

from mqtt import fuzz_core
from mqtt.cases import CONNACK as ACCEPTED
from mqtt.cases import VIOLATIONS, drain, new_session

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware" / "azure_iot" / "mqtt"
CORPUS = Path(__file__).resolve().parents[1] / "vectors" / "mqtt_corpus.json"


def online(**more) -> Session:
    session = new_session(**more)
    assert drain(session, ACCEPTED) == [(CONNACK, 0)]
    return session


def violate(first: bool, data: bytes, split: int = 0) -> ProtocolError:
    session = online() if first else new_session()
    with pytest.raises(ProtocolError) as caught:
        drain(session, data, split)
    return caught.value


@pytest.mark.parametrize(
    ("name", "first", "data", "rule"), VIOLATIONS, ids=[v[0] for v in VIOLATIONS]
)
@pytest.mark.parametrize("split", [0, 1])
def test_a_violation_names_its_rule(name, first, data, rule, split):
    error = violate(first, data, split)
    assert error.rule == rule, (name, str(error))


def test_session_present_after_clean_session_is_refused():
    with pytest.raises(ProtocolError) as caught:
        drain(new_session(clean=True), b"\x20\x02\x01\x00")
    assert caught.value.rule == "MQTT-3.2.2-1"


def test_a_suback_code_that_does_not_exist_is_refused():
    session = online()
    session.subscribe("a/#", 1)
    with pytest.raises(ProtocolError) as caught:
        drain(session, bytes([0x90, 3, session.pid >> 8, session.pid & 255, 2]))
    assert caught.value.rule == "MQTT-3.9.3-2"


def test_an_answer_of_the_wrong_kind_is_refused():
    session = online()
    session.subscribe("a/#", 1)
    with pytest.raises(ProtocolError):
        drain(session, bytes([0xB0, 2, session.pid >> 8, session.pid & 255]))


STREAM = (
    ACCEPTED
    + b"\x30\x0a\x00\x03a/bhello"
    + b"\x32\x0c\x00\x03a/b\x00\x07hello"
    + b"\x3a\x0c\x00\x03a/b\x00\x07hello"
    + b"\xd0\x00"
    + b"\x40\x02\x10\x92"
    + b"\x32\xc8\x01\x00\x03a/b\x00\x09" + bytes(range(193))
    + b"\x30\x82\x01\x00\x80" + b"t" * 128
    + b"\x30\x08\x00\x04\xc3\xa4/bok"
)  # fmt: skip


def joined(events: list) -> list:
    """Chunks put together: their sizes depend on the split."""
    out: list = []
    for event in events:
        if event[0] == CHUNK and out and out[-1][0] == CHUNK:
            out[-1] = (CHUNK, out[-1][1] + event[1])
        else:
            out.append(event)
    return out


@pytest.mark.parametrize("split", [1, 2, 3, 5, 7, 16, 63, 64, 65])
def test_any_split_gives_the_same_events(split):
    whole = joined(drain(new_session(), STREAM))
    assert joined(drain(new_session(), STREAM, split)) == whole
    assert whole == [
        (CONNACK, 0),
        (MESSAGE, "a/b", b"hello", 0),
        (MESSAGE, "a/b", b"hello", 1),
        (MESSAGE, "a/b", b"hello", 1),
        (BEGIN, "a/b", 193, 9),
        (CHUNK, bytes(range(193))),
        (BEGIN, None, 0, 0),
        (MESSAGE, "ä/b", b"ok", 0),
    ]


def test_a_topic_is_remembered_across_an_overlong_one():
    small = b"\x30\x08\x00\x03a/bxyz"
    overlong = b"\x30\x82\x01\x00\x80" + b"t" * 128
    events = drain(online(), small + small + overlong + small + b"\x30\x08\x00\x03a/cxyz" + small)
    topics = [event[1] for event in events if event[0] in (MESSAGE, BEGIN)]
    assert topics == ["a/b", "a/b", None, "a/b", "a/c", "a/b"]


@pytest.mark.parametrize("split", [0, 1, 3])
@pytest.mark.parametrize("length", range(54, 68))
def test_a_topic_that_just_fits_the_buffer_or_does_not(length, split):
    body = bytes([0, length]) + b"t" * length + b"\x01\x02" + b"z" * 100
    large = b"\x32" + bytes([len(body) & 127 | 128, len(body) >> 7]) + body
    events = joined(drain(online(), large * 2 + b"\x30\x08\x00\x03a/bxyz", split))
    fits = length + 7 <= 64
    assert events == [
        (BEGIN, "t" * length if fits else None, 100, 258),
        (CHUNK, b"z" * 100),
    ] * 2 + [(MESSAGE, "a/b", b"xyz", 0)]


def test_messages_of_one_kind_differ_in_what_differs():
    # from the third on next() compares with the one before instead of parsing
    session = online()

    def take(head: int, topic: bytes, pid: int, payload: bytes) -> tuple:
        body = bytes([0, len(topic)]) + topic + (pid.to_bytes(2, "big") if head & 2 else b"")
        body += payload
        (event,) = drain(session, bytes([head, len(body)]) + body)
        return (*event[1:], session.pid, bytes(session.ack[2:]))

    for head, topic, pid, payload in [
        *[(0x32, b"a/b", n, b"n%d" % n) for n in range(1, 6)],
        (0x3A, b"a/b", 6, b"n6"), (0x32, b"a/c", 7, b"n7"), (0x32, b"a/c", 0x102, b"n8"),
        *[(0x30, b"a/c", 0, b"four")] * 4, (0x32, b"a/c", 9, b"n9"),
    ]:  # fmt: skip
        qos = head >> 1 & 1
        seen = take(head, topic, pid, payload)
        assert seen[:4] == (topic.decode(), payload, qos, pid)
        assert not qos or seen[4] == pid.to_bytes(2, "big")
    for _ in range(4):
        take(0x32, b"a/c", 10, b"n9")
    with pytest.raises(ProtocolError, match="packet id 0"):
        take(0x32, b"a/c", 0, b"n9")


def test_random_splits_give_the_same_events():
    chance = random.Random(3)
    whole = joined(drain(new_session(), STREAM))
    for _ in range(300):
        session, at, events = new_session(), 0, []
        while at < len(STREAM):
            size = chance.randrange(1, 40)
            events += drain(session, STREAM[at : at + size])
            at += size
        assert joined(events) == whole


def acknowledge(session: Session, number: int) -> None:
    pid = number % 65535 + 1
    drain(session, bytes([0x40, 2, pid >> 8, pid & 255]))


def pid_of(data: memoryview) -> int:
    n = 2 + (data[2] << 8 | data[3])
    return data[2 + n] << 8 | data[3 + n]


def test_packet_ids_wrap_at_65535_and_are_never_zero():
    session = online()
    session.tail = session.sent = 65533
    seen = []
    for _ in range(5):
        seen.append(pid_of(session.publish("a/b", b"x", 1)))
        acknowledge(session, session.sent - 1)
    assert seen == [65534, 65535, 1, 2, 3]


def test_no_id_is_used_twice_while_in_flight():
    # a SUBSCRIBE that is never answered keeps its id through a whole lap of messages
    session = online()
    session.subscribe("a/#", 1)
    held = session.pid
    session._topic = None
    for _ in range(70000):
        pid = pid_of(session.publish("a", b"", 1))
        assert pid != held and pid != 0
        drain(session, bytes([0x40, 2, pid >> 8, pid & 255]))
    session._advance()
    assert session.tail == session.sent


def test_an_accepted_message_leaves_the_packet_being_written_alone():
    session = online()
    view = session.publish("a/b", b"x" * 20, 1)
    before = bytes(view)
    session.enqueue("quite/another", b"y" * 30)
    assert bytes(view) == before


def test_the_window_is_kept():
    session = online(window=3)
    for _ in range(3):
        assert session.room()
        session.publish("a/b", b"x", 1)
    assert not session.room()
    acknowledge(session, 0)
    assert session.room()


def test_a_lost_link_sends_everything_again_in_order_with_dup():
    session = online(window=4)
    for i in range(4):
        session.publish("t/%d" % (i % 2), b"m%d" % i, 1)
    acknowledge(session, 0)
    session.enqueue("t/0", b"m4")
    session.lost()
    drain(session, b"\x20\x02\x01\x00")
    again = []
    while (data := session.send_next()) is not None:
        again.append((data[0], bytes(data[-2:])))
        acknowledge(session, session.sent - 1)
    assert again == [(0x3A, b"m1"), (0x3A, b"m2"), (0x3A, b"m3"), (0x32, b"m4")]
    assert session.resent == 3


def test_a_puback_out_of_order_frees_only_its_message():
    session = online()
    for i in range(4):
        session.publish("a/b", b"m%d" % i, 1)
    acknowledge(session, 2)
    assert not session.done(0) and session.done(2) and not session.done(3)
    acknowledge(session, 0)
    acknowledge(session, 1)
    session.elapse(1)
    assert session.tail == 3
    session.lost()
    drain(session, ACCEPTED)
    data = session.send_next()
    assert bytes(data[-2:]) == b"m3" and session.send_next() is None


def test_a_stray_puback_never_frees_a_message_that_was_not_sent():
    session = online()
    session.lost()
    session.enqueue("a/b", b"m0")
    drain(session, ACCEPTED)
    acknowledge(session, 0)
    assert session.strangers == 1 and not session.done(0)
    assert bytes(session.send_next()[-2:]) == b"m0"


def test_a_puback_with_a_long_form_of_its_length_counts():
    # MQTT 3.1.1 does not ask for the shortest form (2.2.3)
    session = online()
    session.publish("a/b", b"x", 1)
    drain(session, b"\x40\x82\x00\x00\x01" + b"\xd0\x00" * 40)
    assert session.done(0)


def test_the_queue_grows_and_keeps_its_order():
    session = new_session()
    for i in range(100):
        session.enqueue("a/b", b"%03d" % i)
    session.enqueue("a/b", (0, b"100"))
    drain(session, ACCEPTED)
    out = []
    while session.queued:
        data = session.send_next()
        if data is None:
            acknowledge(session, session.tail)
            continue
        out.append(bytes(data[-3:]))
    assert out == [b"%03d" % i for i in range(101)]


@pytest.mark.parametrize(
    "size",
    [0, 1, 50, 51, 52, 53, 54, 55, 56, 57, 115, 120, 121, 122, 127, 128, 500, 16370, 16384, 20000],
)
@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("buffer", [64, 256, 4096])
def test_publish_is_correct_at_every_size(size, qos, buffer):
    session = Session(buffer_out=buffer)
    drain(session, ACCEPTED)
    payload = bytes(i & 255 for i in range(size))
    for _ in range(2):  # the second goes through the remembered views
        session.publish("x", b"other", 1)
        acknowledge(session, session.sent - 1)
        session.rest = None
        data = bytes(session.publish("a/b", payload, qos)) + bytes(session.rest or b"")
        size_at = 1
        length = shift = 0
        while True:
            length |= (data[size_at] & 127) << shift
            shift += 7
            size_at += 1
            if data[size_at - 1] < 128:
                break
        body = data[size_at:]
        assert data[0] == 0x30 | qos << 1 and len(body) == length
        assert body[:5] == b"\x00\x03a/b"
        assert body[5 + 2 * qos :] == payload
        if qos:
            acknowledge(session, session.sent - 1)
            assert session.tail == session.sent
        session.rest = None


def test_connect_is_as_the_standard_shows():
    data = packet.connect("c", 240, False, "u", "p", ("w", b"gone", 1, True))
    want = b"\x10\x20\x00\x04MQTT\x04\xec\x00\xf0\x00\x01c\x00\x01w\x00\x04gone\x00\x01u\x00\x01p"
    want = want[:1] + bytes([len(want) - 2]) + want[2:]
    assert bytes(data) == want
    assert packet.connect("c", 0, True, None, None, None)[9] == 2


def test_keep_alive_pings_and_finds_a_dead_peer():
    session = online(keepalive_s=8)
    waited, pinged = 0, None
    with pytest.raises(ConnectionDroppedError, match="PINGRESP"):
        while waited < 30000:
            waited += session.deadline()
            if session.elapse(session.deadline()):
                pinged = waited
    assert pinged is not None and pinged <= 8000
    assert waited <= 12000


def test_an_answered_ping_keeps_the_link():
    session = online(keepalive_s=8)
    pings = 0
    for _ in range(200):
        if session.elapse(session.deadline()):
            pings += 1
            drain(session, b"\xd0\x00")
    assert 15 <= pings <= 40


@pytest.mark.parametrize(
    ("prepare", "what"),
    [
        (lambda s: s.publish("a/b", b"x", 1), "PUBACK"),
        (lambda s: s.subscribe("a/#", 1), "SUBACK"),
        (lambda s: drain(s, b"\x30\x7f\x00\x03a"), "rest of a packet"),
        (lambda s: drain(s, b"\x30\xc8\x01\x00\x03a/b" + b"z" * 20), "rest of a packet"),
        (lambda s: s.lost(), "CONNACK"),
    ],
    ids=["puback", "suback", "packet", "large packet", "connack"],
)
def test_every_wait_has_a_deadline(prepare, what):
    session = online(keepalive_s=0)
    prepare(session)
    waited = 0
    with pytest.raises(ConnectionDroppedError, match=what):
        while waited < 60000:
            waited += session.deadline()
            session.elapse(session.deadline())
    assert 9000 <= waited <= 30000


def test_progress_moves_a_deadline():
    session = online(keepalive_s=0)
    for _ in range(50):
        session.publish("a/b", b"x", 1)
        for _ in range(3):
            session.elapse(2000)
        acknowledge(session, session.sent - 1)


def test_the_answer_to_a_subscription_carries_its_code():
    session = online()
    session.subscribe("a/#", 1)
    assert drain(session, bytes([0x90, 3, session.pid >> 8, session.pid & 255, 128])) == [
        (SUBACK, 128)
    ]
    session.subscribe("a/#", -1)
    pid = session.pid
    assert [e[0] for e in drain(session, bytes([0xB0, 2, pid >> 8, pid & 255]))] == [UNSUBACK]


MISTAKES = (
    lambda: packet.field("x" * 65536),
    lambda: packet.field("a\0b"),
    lambda: packet.connect("dev1", 0, True, None, None, ("a", b"", 3, False)),
    lambda: packet.topic_name(""),
    lambda: packet.topic_name("a/+"),
    lambda: packet.topic_filter("a/#/b"),
    lambda: packet.topic_filter("a+"),
    lambda: packet.topic_filter(""),
    lambda: packet.put_head(bytearray(5), 5, 0x30, 268435456),
    lambda: online().publish("t" * 60, b"", 0),
)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_the_caller_is_a_value_error(mistake):
    with pytest.raises(ValueError):
        mistake()


def raises(path: Path) -> dict[int, str]:
    """Line -> text of every raise in a module."""
    text = path.read_text()
    lines = text.splitlines()
    return {
        node.lineno: lines[node.lineno - 1].strip()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Raise)
    }


def test_every_raise_is_reached(capsys, count, long_run):
    wanted = {
        (name, line): text
        for name in ("packet.py", "receiving.py", "sending.py", "session.py")
        for line, text in raises(FIRMWARE / name).items()
    }
    hit: Counter[tuple[str, int]] = Counter()
    fuzzed: Counter[tuple[str, int]] = Counter()

    def note(error: Exception, into: Counter[tuple[str, int]]) -> None:
        places = {
            (Path(f.filename).name, f.lineno) for f in traceback.extract_tb(error.__traceback__)
        }
        into.update(places & wanted.keys())

    def attempt(work) -> None:
        try:
            work()
        except (ProtocolError, ValueError, ConnectionDroppedError) as error:
            note(error, hit)

    for _, first, data, _ in VIOLATIONS:
        for split in (0, 1):
            attempt(lambda f=first, d=data, s=split: drain(online() if f else new_session(), d, s))
    attempt(lambda: drain(new_session(clean=True), b"\x20\x02\x01\x00"))

    def wrong_code() -> None:
        session = online()
        session.subscribe("a/#", 1)
        drain(session, bytes([0x90, 3, session.pid >> 8, session.pid & 255, 2]))

    attempt(wrong_code)
    waiting = new_session()

    def wait() -> None:
        for _ in range(9):
            waiting.elapse(10000)

    attempt(wait)
    for mistake in MISTAKES:
        attempt(mistake)
    chance = fuzz_core.Chance(7)
    for i, data in enumerate(fuzz_core.mutated(CORPUS, count(8000, 100_000), chance)):
        fuzz_core.run(data, chance, lambda error: note(error, fuzzed), i % 8 == 0)
    with capsys.disabled():
        print("\n  by hand  fuzz", end="")
        for where, text in sorted(wanted.items()):
            print(f"\n  {hit[where]:7d} {fuzzed[where]:5d}  {where[0]}:{where[1]}  {text}", end="")
        print()
    assert not [where for where in wanted if not hit[where]]
    # received bytes reach every raise of the parser; some are rare, so the short form may miss two
    received = {where for where in wanted if where[0] == "receiving.py"}
    missed = [wanted[where] for where in received if not fuzzed[where]]
    assert len(missed) <= (0 if long_run else 2), missed


def test_vectors_of_the_corpus_are_valid_streams():
    answers = 0
    for entry in json.loads(CORPUS.read_text())["streams"]:
        _, _, refused, answered = fuzz_core.run(bytes.fromhex(entry), fuzz_core.Chance(1))
        assert not refused, entry
        answers += answered
    assert answers == 6  # SUBACK and UNSUBACK in three of them


def keys_used() -> set[str]:
    """The first arguments of words() and broken() in the modules of the session."""
    found = set()
    for name in ("packet.py", "receiving.py", "sending.py", "session.py"):
        for node in ast.walk(ast.parse((FIRMWARE / name).read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            called = called.id if isinstance(called, ast.Name) else called
            if called in ("words", "broken"):
                found |= {
                    part.value
                    for part in ast.walk(node.args[0])
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                }
    return found


def test_every_key_has_words_and_every_row_is_used():
    rows = {row.split("|")[0] for row in table._TABLE}
    used = keys_used() - {"late%d"} | {"late%d" % i for i in range(5)}
    assert used == rows and len(rows) == len(table._TABLE)


def test_the_words_say_what_was_wrong_and_are_forgotten():
    sys.modules.pop("azure_iot.mqtt.words", None)
    error = violate(True, b"\x30\xff\xff\xff\x7f")
    assert str(error) == "packet of 268435455 bytes, the limit is 5000"
    assert "azure_iot.mqtt.words" not in sys.modules


def test_without_memory_for_the_words_the_rule_is_named(monkeypatch):
    class Full:
        def __enter__(self):
            raise MemoryError

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(packet, "Transient", Full)
    error = violate(True, b"\x36\x07\x00\x03a/bq3")
    assert str(error) == "3.3.1-4" and error.rule == "MQTT-3.3.1-4"

"""Mutated streams into a session: the same program on CPython and on MicroPython.

    micropython fuzz_core.py CORPUS.json COUNT SEED

Only ProtocolError may come out, the memory is bounded, and most streams must get past CONNACK and
two packets further, or the fuzzer tests nothing. A SUBSCRIBE and an UNSUBSCRIBE wait for their
answers, which the corpus has. Prints one line of counts.
"""

import gc
import json
import sys

from azure_iot.errors import ProtocolError
from azure_iot.mqtt.receiving import BEGIN, CHUNK, CONNACK, SUBACK, UNSUBACK
from azure_iot.mqtt.session import Session

try:
    import tracemalloc
except ImportError:  # MicroPython: what was allocated, kept or not, bounds the peak
    tracemalloc = None


class Chance:
    """A small generator, the same everywhere."""

    def __init__(self, seed):
        self.state = seed & 0x7FFFFFFF or 1

    def below(self, n):
        self.state = (self.state * 48271) % 0x7FFFFFFF
        return (self.state >> 4) % n


def length_end(data, at):
    """Where the remaining length that starts at `at` ends."""
    while at < len(data) and data[at] > 127:
        at += 1
    return at + 1


def packets(data):
    """Offsets at which packets of a valid stream start."""
    at, found = 0, []
    while at < len(data):
        found.append(at)
        size, shift, i = 0, 0, at + 1
        while True:
            size |= (data[i] & 127) << shift
            shift += 7
            i += 1
            if data[i - 1] < 128:
                break
        at = i + size
    return found


def mutate(data, starts, chance):  # noqa: C901 (a list of mutations)
    """Return a changed copy; two of three keep the first three packets."""
    out = bytearray(data)
    keep = 0
    if len(starts) > 3 and chance.below(4):
        keep = starts[3]
    for _ in range(1 + chance.below(4)):
        kind = chance.below(7)
        at = keep + chance.below(max(1, len(out) - keep))
        if at >= len(out):
            break
        if kind == 0:
            out[at] ^= 1 << chance.below(8)
        elif kind == 1:
            out[at] = (0, 1, 127, 128, 255, 0x30, 0x40)[chance.below(7)]
        elif kind == 2:
            out = out[:at] + out[at + 1 + chance.below(4) :]
        elif kind == 3:
            out = (
                out[:at]
                + bytes([chance.below(256) for _ in range(1 + chance.below(4))])
                + out[at:]
            )
        elif kind == 4:
            start = starts[chance.below(len(starts))]
            out = out + data[start : start + 1 + chance.below(40)]
        elif kind == 5:
            out = out[: max(keep, at)]
        elif kind == 6:
            start = starts[chance.below(len(starts))]
            if start >= keep and start + 1 < len(out):
                out[start + 1] = chance.below(256)
        if not out:
            break
    return bytes(out)


def wait_for_answers(session):
    """Have something in flight, so that PUBACK 1 and 2, SUBACK 0x8002 and UNSUBACK 0x8003 fit."""
    session.publish("a/b", b"x", 1)
    session.publish("a/b", b"y", 1)
    session.subscribe("a/#", 1)
    session.subscribe("b/#", -1)


def run(data, chance, refusal=None, clean=False):  # noqa: C901 (one loop of a parser under test)
    """Feed one stream in random pieces; return (passed CONNACK, packets after it, refused,
    answers to subscriptions). `refusal` is called with a ProtocolError."""
    answers = 0
    session = Session(buffer_in=64, buffer_out=64, max_packet=5000, clean=clean)
    chunks = 0
    refused = False
    passed = False
    size = len(session._in)
    view = memoryview(data)
    at = 0
    try:
        while at < len(data):
            end = min(len(data), at + 1 + chance.below(90))
            taken = min(len(session.space), end - at)
            session.space[:taken] = view[at : at + taken]
            if not taken:
                raise ValueError(
                    "no room to read on: %r"
                    % (
                        (
                            session._pos,
                            session._end,
                            session.left,
                            bytes(session._in),
                        ),
                    )
                )
            at += taken
            while True:
                event = session.next(taken)
                if not event:
                    break
                taken = 0
                if event == CONNACK:
                    passed = not session.code
                    if passed:
                        wait_for_answers(session)
                elif event == SUBACK or event == UNSUBACK:
                    answers += 1
                elif event == BEGIN and session.size > 5000:
                    raise ValueError("a size over the maximum")
                elif event == CHUNK:
                    chunks += 1
    except ProtocolError as error:
        if not error.rule:
            raise ValueError("no rule: %s" % error)  # noqa: B904 (runs on MicroPython)
        refused = True
        if refusal is not None:
            refusal(error)
    if len(session._in) != size or len(session._pending) > 2 or len(session._ring) > 32:
        raise ValueError("memory grew")
    after = session.packets + session.tail + session.strangers - 1 if passed else 0
    return passed, after, refused, answers


def begin():
    """Start to measure memory."""
    if tracemalloc is not None:
        tracemalloc.start()
        return 0
    gc.collect()
    return gc.mem_alloc()


def end(before):
    """Return the bytes a stream took at most."""
    if tracemalloc is None:
        return gc.mem_alloc() - before
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def mutated(corpus, count, chance):
    """Changed streams of the corpus."""
    with open(corpus) as file:
        streams = [bytes.fromhex(entry) for entry in json.load(file)["streams"]]
    starts = [packets(data) for data in streams]
    for _ in range(count):
        j = chance.below(len(streams))
        yield mutate(streams[j], starts[j], chance)


def main(corpus, count, seed):
    chance = Chance(seed)
    deep = refused = answered = peak = i = 0
    for data in mutated(corpus, count, chance):
        watched = not i % 16  # a collection for each would take most of the time
        i += 1
        before = begin() if watched else 0
        try:
            passed, after, bad, answers = run(data, chance, None, not i % 8)
        except ProtocolError:
            raise
        except Exception as error:
            print("CRASH", i, data.hex(), repr(error))
            raise
        if watched:
            peak = max(peak, end(before))
        deep += passed and after >= 2
        refused += bad
        answered += answers
    print("FUZZ", count, deep, refused, answered, peak)
    return count, deep, refused, answered, peak


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

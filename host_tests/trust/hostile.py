"""Hostile packages by the thousand: nothing but what was signed is ever installed.

    hostile.py FOLDER {flip|cut|mutate} FIRST COUNT      on MicroPython and CPython

flip: the byte at FIRST, FIRST + 1 … gets every kind of wrong bit in turn. cut: the package ends
there. mutate: COUNT packages changed where it hurts (members doubled, dropped, swapped between
packages, numbers and base64 edited), from seed FIRST. Prints one JSON object: how many were tried,
how often each code was given, how many were accepted although changed (which is right where only a
surplus signature, white space or the order was changed), and what went wrong.
"""

import gc
import json
import sys

import loaded  # noqa: F401
from azure_iot.trust.errors import RefusedError
from azure_iot.trust.factory import Factory
from azure_iot.trust.manager import TrustManager
from azure_iot.trust.sources import BytesSource
from azure_iot.trust.store import Store
from judge import empty
from still import Clock

NOW = 1786000000
WORDS = (
    b"true", b"null", b"-1", b"0", b"1e9", b"[]", b"{}", b'""', b"7.5", b"9" * 40, b"1073741824",
    b'"\\u0000"', b'"\\ud800"', b"{", b"[", b"}", b"]", b",", b":", b'"', b"\\", b"\0", b"\xff", b" ",
    b'"payload"', b'"signatures"', b'"keysets"', b'"bundle"', b'"header"', b"==", b"-_", b"+/",
)  # fmt: skip


class Random:
    """A small generator, alike on every interpreter."""

    def __init__(self, seed):
        self.state = seed * 2654435761 & 0xFFFFFFFF or 1

    def below(self, n):
        """Return an integer below n."""
        x = self.state
        x ^= x << 13 & 0xFFFFFFFF
        x ^= x >> 17
        x ^= x << 5 & 0xFFFFFFFF
        self.state = x
        return x % n


class Target:
    """A device on which nothing must ever happen."""

    def __init__(self, root):
        self.root = root
        self.codes = {}
        self.tried = 0
        self.accepted = 0
        self.bad = []
        with open(root + "/signed.json") as file:
            self.signed = json.load(file)
        self.boot()

    def boot(self):
        """Start from an empty store."""
        empty("trust")
        factory = Factory.from_folder(self.root + "/factories/plain")
        self.trust = TrustManager(Store("trust", factory), Clock(NOW, True))
        self.before = self.facts()

    def facts(self):
        """What a refusal must leave alone; key-sets may have advanced."""
        state = self.trust.store.state
        return (state.good, state.trial, state.floor, len(state.distrust))

    def offer(self, package, label):
        """Offer a package; note what came of it."""
        self.tried += 1
        try:
            self.trust.install(BytesSource(package), "url")
        except RefusedError as error:
            self.codes[error.code] = self.codes.get(error.code, 0) + 1
            if self.facts() != self.before:
                self.bad.append([label, "state changed after " + error.code])
                self.boot()
            elif self.trust.store.state.kver != 1:
                self.boot()
            return
        except Exception as error:
            self.bad.append([label, "%s: %s" % (type(error).__name__, error)])
            self.boot()
            return
        self.accepted += 1
        trial = self.trust.store.state.trial
        if trial is None:
            return
        digest = self.trust.store.slot_payload_digest(trial).hex()
        if digest not in self.signed:
            self.bad.append([label, "installed what nobody signed"])
        self.boot()


def mutate(data, other, random):
    """Return `data` with one to three changes; `other` is a package to take parts from."""
    data = bytearray(data)
    for _ in range(1 + random.below(3)):
        if not data:
            break
        data = CHANGES[random.below(len(CHANGES))](data, other, random)
    return bytes(data)


def flip(data, other, random):
    """Flip one bit."""
    data[random.below(len(data))] ^= 1 << random.below(8)
    return data


def insert(data, other, random):
    """Insert a word."""
    at = random.below(len(data))
    return data[:at] + WORDS[random.below(len(WORDS))] + data[at:]


def replace(data, other, random):
    """Replace a few bytes by a word."""
    at = random.below(len(data))
    word = WORDS[random.below(len(WORDS))]
    return data[:at] + word + data[at + random.below(2 * len(word) + 1) :]


def tear(data, other, random):
    """Cut the end off."""
    return data[: random.below(len(data))]


def take(data, other, random):
    """Splice in a run of another package at the same or another place."""
    start = random.below(len(other))
    run = other[start : start + 1 + random.below(600)]
    at = start if random.below(2) and start < len(data) else random.below(len(data))
    return data[:at] + run + data[at + len(run) :]


def spans(data, *marks):
    """Return the positions of these bytes."""
    found = []
    for mark in marks:
        at = data.find(mark)
        while at >= 0:
            found.append(at)
            at = data.find(mark, at + 1)
    return sorted(found)


def strings(data):
    """Return (start, end) of the strings' characters."""
    found = []
    at = 0
    while True:
        start = data.find(b'"', at)
        end = data.find(b'"', start + 1)
        if start < 0 or end < 0:
            return found
        found.append((start + 1, end))
        at = end + 1


def swap_strings(data, other, random):
    """Put one string where another was."""
    found = strings(data)
    if len(found) < 2:
        return data
    a, b = found[random.below(len(found))], found[random.below(len(found))]
    return data[: a[0]] + data[b[0] : b[1]] + data[a[1] :]


def foreign_string(data, other, random):
    """Put a string of another package where one was."""
    mine, theirs = strings(data), strings(other)
    if not mine or not theirs:
        return data
    at = random.below(len(mine))
    a = mine[at]
    b = theirs[at if random.below(2) and at < len(theirs) else random.below(len(theirs))]
    return data[: a[0]] + other[b[0] : b[1]] + data[a[1] :]


def edit_string(data, other, random):
    """Change a letter inside a string, or add or drop one."""
    found = strings(data)
    if not found:
        return data
    start, end = found[random.below(len(found))]
    if start == end:
        return data
    at = start + random.below(end - start)
    how = random.below(3)
    letter = b"ABCDabcd0129-_+/=.\x80"[random.below(19) :][:1]
    if how == 0:
        return data[:at] + letter + data[at + 1 :]
    return data[:at] + letter + data[at:] if how == 1 else data[:at] + data[at + 1 :]


def double_object(data, other, random):
    """Repeat an object or array where it stands."""
    opening, closing = ((b"{", b"}"), (b"[", b"]"))[random.below(2)]
    starts = spans(data, opening)
    if not starts:
        return data
    start = starts[random.below(len(starts))]
    end = data.find(closing, start) + 1
    if not end:
        return data
    run = data[start:end]
    comma = b"," if random.below(2) else b""
    return data[:end] + comma + run + data[end:]


def drop_object(data, other, random):
    """Drop an object or array."""
    opening, closing = ((b"{", b"}"), (b"[", b"]"))[random.below(2)]
    starts = spans(data, opening)
    if not starts:
        return data
    start = starts[random.below(len(starts))]
    end = data.find(closing, start) + 1
    return data[:start] + data[end:] if end else data


def space(data, other, random):
    """Add white space between two tokens, or where it does not belong."""
    marks = spans(data, b",", b":")
    at = marks[random.below(len(marks))] if marks else 0
    return data[:at] + b" \n\t\r"[random.below(4) :][:1] + data[at:]


CHANGES = (
    flip,
    insert,
    replace,
    tear,
    take,
    swap_strings,
    foreign_string,
    foreign_string,
    edit_string,
    edit_string,
    double_object,
    drop_object,
    space,
)


def main():
    root, how, first, count = sys.argv[1:5]
    first, count = int(first), int(count)
    target = Target(root)
    names = [
        "three",
        "three_signatures",
        "rotation",
        "k2_v10",
        "distrust_of_another",
        "recovery_urls",
    ]
    packages = []
    for name in names:
        with open(root + "/packages/" + name, "rb") as file:
            packages.append(file.read())
    if how == "mutate":
        random = Random(first + 1)
        for i in range(count):
            seed = random.state
            data = packages[random.below(len(packages))]
            other = packages[random.below(len(packages))]
            target.offer(mutate(data, other, random), ["mutate", seed])
            if i % 64 == 0:
                gc.collect()
    else:
        data = packages[0]
        step = max(1, len(data) // count)
        for at in range(first, len(data), step):
            if how == "cut":
                target.offer(data[:at], ["cut", at])
                continue
            changed = bytearray(data)
            changed[at] ^= (0xFF, 0x20, 0x01, 0x04)[at % 4]
            target.offer(bytes(changed), ["flip", at])
    print(
        json.dumps(
            {
                "tried": target.tried,
                "codes": target.codes,
                "accepted": target.accepted,
                "bad": target.bad[:20],
            }
        )
    )


if __name__ == "__main__":
    main()

"""A large twin in pieces: chunks go to files, the rest stays the JSON it was; on both Pythons.

micropython check_desired.py FOLDER
"""

import json
import os
import sys

from azure_iot.desired import ChunkFile, DesiredFilter

FOLDER = sys.argv[1]
PACKAGE = '{"keysets":[],"bundle":{"payload":"%s","signatures":[{"a\\\\b":"/"}]}}' % ("A-_9" * 90)
TWIN = {
    "desired": {
        "mode": 'say "c0":"no" \\ {"trust":{"c0":"x"}}',
        "trust": {
            "version": 7,
            "chunks": 2,
            "c0": PACKAGE[:200],
            "c1": PACKAGE[200:],
            "cx": "stays",
            "list": ["c0", ":", "c1"],
        },
        "other": {"c0": "stays", "trust": {"c1": "stays"}},
        "c1": "stays",
        "$version": 4,
    },
    "reported": {"trust": {"c0": "stays", "version": 6}, "$version": 9},
}
PATCH = dict(TWIN["desired"])


def read(name):
    with open(FOLDER + "/" + name + ".new", "rb") as file:
        return file.read()


def clear():
    for name in os.listdir(FOLDER):
        os.remove(FOLDER + "/" + name)


def run(text, *cuts):
    found = []
    sink = DesiredFilter(lambda name: FOLDER + "/" + name, found.append)
    edges = [0]
    edges.extend(cuts)
    edges.append(len(text))
    for n in range(len(edges) - 1):
        sink.write(memoryview(text)[edges[n] : edges[n + 1]])
    sink.close()
    assert type(found[0]) is bytearray
    return json.loads(found[0])


def check(twin, *cuts):
    text = json.dumps(twin).encode()
    seen = run(text, *cuts)
    wish = (seen["desired"] if "desired" in seen else seen)["trust"]
    for name, whole in (("c0", PACKAGE[:200]), ("c1", PACKAGE[200:])):
        assert wish[name] == len(whole), (cuts, wish)
        assert read(name)[: wish[name]] == whole.encode(), cuts
        wish[name] = whole
    assert seen == twin, (cuts, seen)


size = len(json.dumps(TWIN))
check(TWIN)
check(PATCH)
for cut in range(1, size):
    clear()
    check(TWIN, cut)
check(TWIN, *range(1, size))
check(PATCH, *range(1, len(json.dumps(PATCH)), 3))

# What is on flash already is not written again; what differs is, and only then.
same = ChunkFile(FOLDER + "/c0.new")
same.write(PACKAGE[:90].encode())
same.write(PACKAGE[90:200].encode())
assert same.close() == 200 and same.unchanged
with open(FOLDER + "/c1.new", "rb") as file:
    old = file.read()
with open(FOLDER + "/c1.new", "wb") as file:
    file.write(old[:50] + b"!" + old[51:])
other = ChunkFile(FOLDER + "/c1.new")
other.write(PACKAGE[200:].encode())
assert other.close() and not other.unchanged and read("c1") == old
check(TWIN)

# An escape that no package holds spoils the chunk, so its digest cannot match.
odd = b'{"trust":{"c0":"a\\u0041b"}}'
assert run(odd)["trust"]["c0"] == 7
assert read("c0")[:7] == b"a?0041b"
# A chunk larger than any twin's is not kept, nor one that flash refuses.
assert run(b'{"trust":{"c0":"' + b"z" * 9000 + b'"}}')["trust"]["c0"] == 0
FOLDER += "/absent"
assert run(b'{"trust":{"c0":"zz"},"b":1}') == {"trust": {"c0": 0}, "b": 1}
# Whatever comes, it ends and hands on: truncated, closers without openers, no JSON at all.
for text in (b'{"trust":{"c0":"', b'}}}"', b"\\\\\\", b"", b'{"a":[[{"c0":"x"'):
    sink = DesiredFilter(lambda name: FOLDER + "/" + name, lambda body: None)
    sink.write(memoryview(text))
    sink.abort()
print("ok")

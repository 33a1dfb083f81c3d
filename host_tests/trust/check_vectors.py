"""Checks the vectors of single modules: signatures, JSON, base64, certificates, thumbprints.

Runs on MicroPython and CPython: `check_vectors.py vectors.json` prints `[name, null or why]`.
"""

import json
import sys
from binascii import unhexlify

from azure_iot.trust import der, jws, native, roots, rsa
from azure_iot.trust.errors import RefusedError
from azure_iot.trust.scan import Scanner
from azure_iot.trust.sources import (
    Base64Source,
    BytesSource,
    base64std,
    base64url,
    is_digest,
    read_full,
    read_span,
)


def load(path):
    """Return the vectors of a file."""
    with open(path) as file:
        return json.load(file)["vectors"]


def check(vector):
    """Return None, or what is wrong."""
    try:
        found = CHECKS[vector["kind"]](vector)
    except RefusedError as error:
        found = error.code
    expected = vector["expect"]
    return None if found == expected else "%r, expected %r" % (found, expected)


def signature(vector):
    """Verify one signature by one key."""
    key = rsa.Key(vector["alg"], vector["n"].encode(), b"AQAB")
    digest, value = unhexlify(vector["digest"]), unhexlify(vector["signature"])
    if native.verifier() is not rsa.verify:
        # Both must come to the same.
        try:
            native.verify(key, digest, value)
            found = "OK"
        except RefusedError as error:
            found = error.code
        if found != vector["expect"]:
            return "native: " + found
    rsa.verify(key, digest, value)
    return "OK"


def key(vector):
    """Name a key."""
    return rsa.Key(vector["alg"], vector["n"].encode(), vector["e"].encode()).kid


def thumbprint(vector):
    """Name a key that may be too small to be used."""
    return rsa.thumbprint(vector["n"].encode())


def scan(vector):
    """Scan a JSON text: OK, or the code."""
    data = unhexlify(vector["hex"])
    scanner = Scanner(BytesSource(data), vector.get("limit", 32768), vector.get("keep", 64))
    found = []
    while True:
        kind = scanner.next()
        if not kind:
            break
        if scanner.key is not None:
            found.append(scanner.key)
        if kind == 0x22:
            text = scanner.text
            found.append(None if text is None else str(text, "utf-8"))
            found.append(scanner.end - scanner.start)
        elif kind == 0x30:
            found.append(scanner.number)
        else:
            found.append(chr(kind))
    return found if "tokens" in vector else "OK"


def decode(vector):
    """Decode base64."""
    decoder = base64url if vector["alphabet"] == "url" else base64std
    return decoder(vector["text"].encode()).hex() or ""  # b"".hex() is bytes on MicroPython


def stream(vector):
    """Decode base64url in pieces of every size, from every position."""
    text = vector["text"].encode()
    whole = base64url(text)
    padded = b"##" + text + b"##"
    for size in (1, 2, 3, 5, 64, 191, 192, 193, 1000):
        reader = Base64Source(BytesSource(padded), 2, 2 + len(text))
        buffer = bytearray(size)
        got = b""
        while True:
            n = reader.readinto(memoryview(buffer))
            if not n:
                break
            got += bytes(buffer[:n])
        if got != whole or reader.size != len(whole):
            return "pieces of %d" % size
    for at in range(0, len(whole), vector["step"]):
        reader = Base64Source(BytesSource(padded), 2, 2 + len(text))
        reader.seek(at)
        buffer = bytearray(20)
        n = read_full(reader, memoryview(buffer))
        if bytes(buffer[:n]) != whole[at : at + 20]:
            return "from %d" % at
        end = min(len(whole), at + 33)
        if read_span(reader, at, end) != whole[at:end]:
            return "span from %d" % at
    return "OK"


def certificate(vector):
    """Read the facts of a certificate."""
    facts = der.read(unhexlify(vector["der"]))
    return [facts.version, facts.not_before, facts.not_after, facts.is_ca, facts.may_sign]


def root(vector):
    """Judge whether a certificate may be a root."""
    der.require_root(unhexlify(vector["der"]))
    return "OK"


def names(vector):
    """Compare two names as RFC 5280 does."""
    digests = [roots.name_digest(unhexlify(name)) for name in vector["names"]]
    return digests[0] == digests[1]


def date(vector):
    """Count the seconds of a date."""
    return der.unix_seconds(*vector["date"])


def header(vector):
    """Read a protected header."""
    found = jws.read_header(vector["text"].encode())
    return [found.alg, found.kid, found.typ]


def digest(vector):
    """Recognise a digest."""
    return is_digest(vector["text"].encode())


CHECKS = {
    "signature": signature,
    "key": key,
    "thumbprint": thumbprint,
    "scan": scan,
    "decode": decode,
    "stream": stream,
    "certificate": certificate,
    "root": root,
    "names": names,
    "date": date,
    "header": header,
    "digest": digest,
}


def main():
    """Check all."""
    for vector in load(sys.argv[1]):
        print(json.dumps([vector["name"], check(vector)]))


if __name__ == "__main__":
    main()

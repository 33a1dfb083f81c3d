# Runs on MicroPython: connects with the package's own TLS code and prints one JSON line per
# connection. Options come as one JSON argument (support/tls_device.py).
import asyncio
import gc
import json
import socket
import sys

from azure_iot import clock, transport
from azure_iot.deadlines import Deadlines
from azure_iot.errors import AzureIoTError, ConnectionDroppedError
from azure_iot.tls.context import TLSContext
from azure_iot.tls.profile import TLSProfile, build_of
from azure_iot.tls.sessions import Sessions

try:
    import tlsopt
except ImportError:
    tlsopt = None

asked = json.loads(sys.argv[1])


class Credential:
    def __init__(self, cert, key):
        self.cert = cert
        self.key = key


def other_root():
    """The same root under another name: what a chain to an unknown root looks like."""
    der = read("root0.der")
    return der.replace(b"Matrix", b"matriX".replace(b"X", b"y"))


def read(name):
    with open(name, "rb") as file:
        return file.read()


def resolve(host, port):
    return socket.AF_INET, socket.getaddrinfo("127.0.0.1", asked["port"])[0][-1]


class RTC:
    def __init__(self):
        self.items = {}

    def get(self, key):
        return self.items.get(key)

    def set(self, key, value):
        self.items[key] = value

    def delete(self, key):
        self.items.pop(key, None)


def name_of(error):
    if isinstance(error, ConnectionDroppedError):
        return "DROPPED"
    found = getattr(error, "verdict", None) or getattr(error, "rule", None)
    return found or (getattr(error, "reason", "") or type(error).__name__).upper()


FULL = (MemoryError, IndexError)  # made while there is room for it


def filler(left):
    """Fill the heap but for one block of `left` bytes."""
    gc.collect()
    reserve = bytearray(left)
    held = [None] * (gc.mem_free() // 64)
    n = 0
    for size in (480, 96, 40):
        try:
            while True:
                held[n] = bytearray(size)
                n += 1
        except FULL:
            continue
    del reserve
    gc.collect()
    return held


async def exchange(link):
    sent = b"x" * asked.get("write", 0)
    if sent:
        await link.write(sent)
    left = asked.get("read", len(sent))
    buffer = bytearray(1024)
    while left > 0:
        n = await link.read_into(memoryview(buffer)[: min(left, 1024)])
        if n == 0:
            raise AzureIoTError("the stream ended %d bytes early" % left)
        left -= n


async def once(context):
    found = {}
    if tlsopt is not None and hasattr(tlsopt, "mem"):
        gc.collect()
        tlsopt.mem(True)
    if asked.get("fail_alloc"):
        tlsopt.fail_alloc(asked["fail_alloc"])
    limit = asked.get("deadline_ms", 8000)
    try:
        link = await transport.open_tls(
            asked["host"], asked["port"], context, deadlines=Deadlines(tcp_ms=limit, tls_ms=limit)
        )
        found["info"] = context.info(link.tls)
    except (AzureIoTError, MemoryError) as error:
        asked["low"] = None  # room to say what happened
        gc.collect()
        found["verdict"] = "MEMORY" if isinstance(error, MemoryError) else name_of(error)
        found["class"] = type(error).__name__
        found["text"] = str(error)
        found["cause"] = repr(getattr(error, "cause", None))
        return found
    finally:
        if asked.get("fail_alloc"):
            tlsopt.fail_alloc(0)
    found["verdict"] = "OK"
    found["via"] = context.via
    found["not_before"] = context.not_before
    found["mfl"] = context.plan[1]
    found["loaded"] = len(context.loaded)
    if tlsopt is not None:
        info = tlsopt.info(link.tls)
        found["acknowledged"] = info.mfl_acknowledged
        found["in_limit"] = info.in_limit
        found["hooked"] = tlsopt.HOOKED
    try:
        link.read_ms = 8000
        await exchange(link)
        if tlsopt is not None and hasattr(tlsopt, "mem"):
            found["mem"] = tlsopt.mem()
    except AzureIoTError as error:
        found["verdict"] = name_of(error)
        found["class"] = type(error).__name__
        found["text"] = str(error)
        found["cause"] = repr(getattr(error, "cause", None))
    await link.close()
    return found


def new_profile():
    profile = TLSProfile(
        asked.get("profile", "default"),
        build=build_of(tlsopt),
        mode=asked.get("mode", "hub"),
        mfl=asked.get("mfl"),
        memory=(lambda: asked["memory"]) if "memory" in asked else None,
    )
    if "acknowledged" in asked:
        profile.learn(asked["host"], acknowledged=asked["acknowledged"])
    return profile


async def main():
    transport.resolve = resolve
    roots = [read("root%d.der" % n) for n in range(asked["roots"])]
    profile = new_profile()
    credential = None
    if "cert" in asked:
        credential = Credential(read(asked["cert"]), read(asked["key"]))
    sessions = None
    if asked.get("sessions"):
        now = clock.Clock()
        sessions = Sessions(
            now, kv=RTC() if asked["sessions"] == "rtc" else None, mac_key=b"k" * 32
        )
    if asked.get("low"):
        TLSContext(roots)  # loads what a plain list of roots needs, for good
        asked["low"] = filler(asked["low"])
    for n in range(asked.get("times", 1)):
        if asked.get("fail_step"):  # each connection is a first one
            asked["fail_alloc"] = 1 + n * asked["fail_step"]
            profile = new_profile()
        if "ports" in asked:
            asked["port"] = asked["ports"][n]
        if "hosts" in asked:
            asked["host"] = asked["hosts"][n]
        trusted = roots
        if "trust" in asked and not asked["trust"][n]:
            trusted = [other_root()]
            sessions.still_trusted = lambda root: False
        context = TLSContext(
            trusted,
            profile=profile,
            credential=credential,
            sessions=sessions,
            bundle=asked["bundles"][n] if "bundles" in asked else 0,
        )
        context.clock_trusted = asked.get("clock_trusted", True)
        print(json.dumps(await once(context)))
        context = None
        gc.collect()


asyncio.run(main())

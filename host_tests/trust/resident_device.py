# Runs on MicroPython: what the trust store holds while a device works. JSON on the last line.
#
# prepare: install `package` and confirm it. boot: start with it, read a root as a handshake would,
# report; print the heap after each step, and which modules are loaded.
import gc
import json
import sys

import azure_iot.errors  # noqa: F401
from azure_iot.clock import Clock
from azure_iot.transient import Transient  # noqa: F401 (every part of the package loads it)

NOW = 1786000000


def used():
    gc.collect()
    gc.collect()
    return gc.mem_alloc()


def start():
    from azure_iot.trust.factory import Factory
    from azure_iot.trust.manager import TrustManager
    from azure_iot.trust.store import Store

    trust = TrustManager(Store("trust", Factory.from_folder("factory")), clock)
    repr(trust)  # the line of the boot log
    return trust


def prepare():
    from azure_iot.trust.files import FileSource

    trust = start()
    trust.install(FileSource("package"))
    attempt = trust.attempt()
    trust.succeeded(attempt, resumed=False)
    if not trust.mqtt_accepted(attempt):
        sys.exit("not confirmed")


def reads(roots, room):
    """Read a root with so many blocks of 512 bytes free, in a heap that is full otherwise."""
    first = roots.digests()[0]
    full = []
    try:
        while True:
            full.append(bytearray(512))
    except MemoryError:
        pass
    del full[-room:]
    try:
        return len(roots.get(first)) > 1000
    except MemoryError:
        return False


def boot():
    found = []
    before = used()
    trust = start()
    found.append(["started", used() - before])
    attempt = trust.attempt()
    sizes = [len(der) for der in attempt.roots]
    trust.succeeded(attempt, resumed=False, via=attempt.roots.digests()[0].hex())
    trust.mqtt_accepted(attempt)
    found.append(["connected", used() - before])
    free = []
    for room in (16, 12, 8, 6):
        if reads(attempt.roots, room):
            free.append(room * 512)
    trust.report()
    trust.warnings()
    found.append(["reported", used() - before])
    modules = sorted([name for name in sys.modules if name.startswith("azure_iot.trust.")])
    print(json.dumps({"held": found, "free": free, "sizes": sizes, "modules": modules}))


clock = Clock()
clock.unix_time = lambda: NOW
prepare() if sys.argv[1] == "prepare" else boot()
